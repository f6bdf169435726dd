"""Devices and processes: where arrays live, how a step is compiled, how processes agree. Imports no other package."""
