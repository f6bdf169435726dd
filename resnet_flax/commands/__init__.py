"""Commands: one module for each verb of the command line. May import every package; none imports it."""
