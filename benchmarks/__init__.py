"""Measurements of speed and fidelity; their results are under `results/`."""
