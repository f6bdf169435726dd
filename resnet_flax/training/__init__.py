"""Training: a run, its steps, the loop and its evaluation. Imports all rooms from config to workdir."""
