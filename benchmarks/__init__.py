"""Measurements of speed, accuracy and fidelity; their logs are in `results/`."""

from resnet_flax.memory import keep_freed_memory

keep_freed_memory()  # as the program does when it starts
