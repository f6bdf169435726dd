"""Recipes in benchmarks: naming and changing them on a command line, and random images to train on."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ml_collections import FrozenConfigDict

from benchmarks import record
from resnet_flax.errors import UserError, report_error
from resnet_flax.main import parse

ROOT = Path(__file__).parents[1]
RECIPES = ("resnet_443", "resnet_2322", "preact", "resnet18_w42", "resnet_large", "resnet_353")


def parser(description: str, recipes: Sequence[str] = RECIPES) -> argparse.ArgumentParser:
    """Return a parser for the command line of a benchmark that takes recipes; `read` reads it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", type=words, default=tuple(recipes), help="names, separated by commas")
    record.add_arguments(parser)
    return parser


def run(main: Callable[[], int | None]) -> int:
    """Return the exit code of main(); a mistake of the user is printed in one line."""
    try:
        return main() or 0
    except UserError as error:
        return report_error(error)


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def read(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, list[str]]:
    """Return (arguments, changes), where changes are the words --config.FIELD=VALUE."""
    arguments, changes = parser.parse_known_args()
    strange = [word for word in changes if not word.startswith("--config.")]
    if strange:
        parser.error(f"unknown arguments: {' '.join(strange)}")
    return arguments, changes


def config(recipe: str, changes: Sequence[str] = (), argument: str = "") -> FrozenConfigDict:
    """Return the complete config of `recipe` with `changes`. Raises UserError if it is not valid."""
    file = f"{ROOT / 'configs' / recipe}.py" + (f":{argument}" if argument else "")
    _, [(config, _)], _ = parse([f"--config={file}", *changes])
    return config


def random_images(folder: Path, examples: int) -> list[str]:
    """Write a dataset of random pixels into `folder`; return the changes that make a recipe train on all of it.

    Speed does not depend on what the images show, so measuring it needs no real dataset.
    """
    rng = np.random.default_rng(0)
    np.save(folder / "train_images.npy", rng.integers(0, 256, (examples, 32, 32, 3), np.uint8))
    np.save(folder / "train_labels.npy", rng.integers(0, 10, examples))
    splits = ["--config.data.train=train", "--config.data.validation=", "--config.data.test="]
    return [f"--config.data.dir={folder}", *splits, "--config.train.patience=0"]
