"""Devices and processes: where arrays live, how steps compile, how processes agree. Imports no other subpackage."""
