"""Configs: every field with its default, their checks, and reading and writing them. Imports data, models and optim."""

from resnet_flax.config.defaults import TRAININGS, fast, get_config, recipe, speed_recipe  # what recipes start from

__all__ = ["TRAININGS", "fast", "get_config", "recipe", "speed_recipe"]
