"""The folder of a run: its lock, config, checkpoints, history, predictions and results. Imports config to parallel."""
