"""Find the recipe that a config comes from, and the command that trains it."""

import shlex
from collections.abc import Iterator, Mapping

from ml_collections import FrozenConfigDict

from resnet_flax.config.checks import complete
from resnet_flax.config.defaults import flatten
from resnet_flax.config.recipes import load_recipe, recipe_names
from resnet_flax.errors import UserError
from resnet_flax.models import architecture
from resnet_flax.verbs import PROGRAM

ARGUMENTS = ("", ":full", ":fast")  # that the recipes of most networks take
# Fields that do not change what is trained.
SAME_TRAINING = ("seed", "data.dir", "data.feed", "parallel", "train.checkpoint_every")


def training_fields(config: FrozenConfigDict) -> dict:
    """Return the fields of a complete config that determine what is trained, except for the seed."""
    return {field: value for field, value in flatten(config.to_dict()).items() if field not in SAME_TRAINING}


def nearest_recipe(config: FrozenConfigDict) -> tuple[str, tuple[str, ...]]:
    """Return the recipe for the same network from which a complete config differs least, and the changes to it.

    The changes are flags, --config.FIELD=VALUE. A network without a recipe is compared with `quickstart`.
    """
    recipes = dict(recipes_of(config.model.name))
    if not recipes:
        fields = training_fields(complete(load_recipe("quickstart")))
        network = {f"model.{field}": value for field, value in architecture(config.model.name).items()}
        recipes = {"quickstart": fields | network}  # --config.model.name sets all of these
    return nearest_of(config, recipes)


def nearest_of(config: FrozenConfigDict, recipes: Mapping[str, dict]) -> tuple[str, tuple[str, ...]]:
    """Return what nearest_recipe does, given `recipes`: name -> `training_fields`."""
    mine = training_fields(config)
    differing = {recipe: [field for field in mine if mine[field] != its[field]] for recipe, its in recipes.items()}
    nearest = min(differing, key=lambda recipe: len(differing[recipe]))
    return nearest, tuple(f"--config.{field}={mine[field]}" for field in differing[nearest])


def recipes_of(network: str) -> Iterator[tuple[str, dict]]:
    """Yield the recipes that train `network` by name, and the fields of each."""
    for name in recipe_names():
        for argument in ARGUMENTS:
            try:
                config = complete(load_recipe(name + argument))
            except UserError:  # it takes no such argument, or needs a folder of images
                continue
            if config.model.name == network:
                yield name + argument, training_fields(config)


def training_command(config: FrozenConfigDict) -> str:
    """Return the command that trains a complete config, wherever its data are stored."""
    recipe, changes = nearest_recipe(config)
    seed = [f"--config.seed={config.seed}"] if config.seed else []
    return shlex.join([*PROGRAM.split(), f"--config={recipe}", *changes, *seed])
