"""A config is recognised as the recipe that it is, and the command trains exactly it."""

import shlex

import pytest

from resnet_flax.command_line import parse
from resnet_flax.config.checks import complete
from resnet_flax.config.identify import nearest_recipe, training_command
from resnet_flax.config.recipes import load_recipe
from resnet_flax.models import architecture


@pytest.mark.parametrize(
    "changes",
    [
        {"model.name": "resnet20", "model.shortcut": "conv"},
        {"model.name": "wrn_16_4", "model.block": "basic", "model.final_norm": False},
    ],
)
def test_the_command_of_a_network_without_a_recipe_names_what_differs_from_the_network(changes):
    """Also a field that is as in `quickstart`, from which the command starts."""
    config = load_recipe("quickstart")
    config.model.update(architecture(changes["model.name"]))
    config.update_from_flattened_dict(changes)
    completed = complete(config)
    words = shlex.split(training_command(completed))
    assert parse(words[3:])[1][0].config == completed


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("preact:fast", {}),
        ("resnet_353", {"train.epochs": 30, "seed": 7}),
        ("preact:full", {"optimizer.name": "sgd", "data.policy": "flip|normalize(cifar10)"}),
    ],
)
def test_the_command_of_a_config_trains_it(recipe, changes):
    config = load_recipe(recipe)
    config.update_from_flattened_dict(changes)
    completed = complete(config)
    assert nearest_recipe(completed)[0] == recipe
    words = shlex.split(training_command(completed))
    assert words[:3] == ["python", "-m", "resnet_flax.main"]
    assert parse(words[3:])[1][0].config == completed
