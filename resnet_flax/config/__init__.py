"""Configs: all fields and their defaults, checks, reading and writing. Imports data, models, optim and parallel."""

from resnet_flax.config.defaults import TRAININGS, fast, get_config, recipe, speed_recipe  # what recipes start from

__all__ = ["TRAININGS", "fast", "get_config", "recipe", "speed_recipe"]
