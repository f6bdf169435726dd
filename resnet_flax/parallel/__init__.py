"""Devices and processes: where arrays live, how a step is compiled, what processes tell each other. Imports no room."""
