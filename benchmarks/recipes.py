"""The recipes that benchmarks train, their configs and FLOPs, and random images to train on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import FrozenConfigDict

from resnet_flax import models
from resnet_flax.command_line import parse
from resnet_flax.data.datasets.load import image_shape
from resnet_flax.models.layers import layers

ROOT = Path(__file__).parents[1]
RECIPES = ("resnet_443", "resnet_2322", "preact", "resnet18_w42", "resnet_large", "resnet_353")
OWN = ("speed94", "speed95", "speed96", "best")  # of no report
NAMES = (*RECIPES, *OWN)
PREACT = ("", "relu", "sgd", "sgd,relu", "adagrad", "adagrad,relu")  # the runs of its report
# Recipe -> the words after the colon with which it is trained.
VARIANTS = {
    **dict.fromkeys(RECIPES, ("full", "", "fast")),
    "preact": (*PREACT, *(f"{words},full".strip(",") for words in PREACT), "fast", "fast,relu"),
    **dict.fromkeys(OWN, ("full", "")),
    "quickstart": ("",),
}

CHECKPOINTS = "--config.train.checkpoint_every=10"  # epochs, so that they take little time; a stopped run saves anyway

# The test accuracy in percent that a report states, and the recipe with the words that train as the report did:
# `preact` chose the epoch on held-out images, the others trained on all 50,000 and took the last epoch.
REPORTED = {
    "resnet_443:full": "93.41",
    "resnet_2322:full": "93.31",
    "preact": "90.76",
    "preact:relu": "90.23",
    "preact:sgd": "88.56",
    "preact:sgd,relu": "88.32",
    "resnet18_w42:full": "93.02",
    "resnet_large:full": "92.73",
    "resnet_353:full": "91.8, 93.93 in its log",
}


def variants() -> list[str]:
    """Return all recipes with their words, such as "preact:sgd,relu"."""
    return [f"{name}:{words}".rstrip(":") for name, some in VARIANTS.items() for words in some]


def as_reported(name: str) -> str:
    """Return the recipe that trains a network as its report did, such as "resnet_443:full"."""
    return f"{name}:full" if f"{name}:full" in REPORTED else name


def file(recipe: str) -> str:
    """Return what --config names for a recipe such as "preact:sgd,relu"."""
    name, colon, argument = recipe.partition(":")
    return f"{ROOT / 'configs' / name}.py{colon}{argument}"


def config(recipe: str, changes: Sequence[str] = ()) -> FrozenConfigDict:
    """Return the complete config of a recipe such as "preact:sgd" with `changes`. UserError if it is not valid."""
    _, [(config, _)], _ = parse([f"--config={file(recipe)}", *changes])
    return config


def training_flops(config: FrozenConfigDict) -> int:
    """Return the FLOPs of training on one image: three times those of its forward pass, on average over the steps.

    For each convolution of the forward pass, the backward pass computes two of the same size, one for the gradient of
    its input and one for that of its kernel. Only convolutions and dense layers count, a multiply-add as two.
    """
    model, share, small = models.build(config), config.train.small_share, config.train.small_size
    flops = 3 * sum(layer.flops for layer in layers(model, image_shape(config.data)))
    if share:
        fewer = 3 * sum(layer.flops for layer in layers(model, (small, small, 3)))
        flops = round((1 - share) * flops + share * fewer)
    return flops


def random_images(folder: Path, examples: int) -> list[str]:
    """Write a dataset of random pixels into `folder`; return the changes that make a recipe train on all of it.

    Speed does not depend on what the images show, so measuring it needs no real dataset.
    """
    rng = np.random.default_rng(0)
    np.save(folder / "train_images.npy", rng.integers(0, 256, (examples, 32, 32, 3), np.uint8))
    np.save(folder / "train_labels.npy", rng.integers(0, 10, examples))
    splits = ["--config.data.train=train", "--config.data.validation=", "--config.data.test="]
    return [f"--config.data.dir={folder}", *splits, "--config.train.patience=0"]
