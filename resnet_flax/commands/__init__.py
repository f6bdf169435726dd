"""Commands: one module for each verb of the command line. May import every room; none imports it."""
