"""Optimisers and schedules, from names and settings in a config to optax. Imports no other subpackage."""
