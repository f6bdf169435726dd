"""Training: a run, its steps, the loop and its evaluation. Imports every room above: config to workdir."""
