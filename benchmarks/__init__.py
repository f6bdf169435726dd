"""Measurements of speed, accuracy and fidelity; their logs are in `results/`."""
