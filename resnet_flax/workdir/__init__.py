"""The folder of a run: lock, config, checkpoints, history, predictions and results. Imports config and parallel."""
