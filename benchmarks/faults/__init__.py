"""Faults injected into real runs, and malformed files for every reader, for the soak and for tests/faults."""
