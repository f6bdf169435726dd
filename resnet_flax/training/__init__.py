"""Training: a run, its steps, the loop and its evaluation. Imports all packages from config to workdir."""
