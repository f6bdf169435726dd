"""The recipes as benchmarks run them: named on a command line, changed there, and on random images."""

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
    """What reads the command line of a benchmark of recipes; see read()."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", type=words, default=tuple(recipes), help="names, with commas between")
    record.add_arguments(parser)
    return parser


def run(main: Callable[[], int | None]) -> int:
    """main() as a process's exit code, with one line for a user's mistake."""
    try:
        return main() or 0
    except UserError as error:
        return report_error(error)


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def read(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, list[str]]:
    """The arguments, and the words --config.FIELD=VALUE that change the recipes."""
    arguments, changes = parser.parse_known_args()
    strange = [word for word in changes if not word.startswith("--config.")]
    if strange:
        parser.error(f"unknown arguments: {' '.join(strange)}")
    return arguments, changes


def config(recipe: str, changes: Sequence[str] = (), argument: str = "") -> FrozenConfigDict:
    """The complete config of `recipe` with `changes`; UserError where they make no valid one."""
    file = f"{ROOT / 'configs' / recipe}.py" + (f":{argument}" if argument else "")
    _, [(config, _)], _ = parse([f"--config={file}", *changes])
    return config


def random_images(folder: Path, examples: int) -> list[str]:
    """Write a dataset of random pixels into `folder` and return the changes by which a recipe trains on all of it.

    No speed depends on what is in the images, and so none needs a dataset.
    """
    rng = np.random.default_rng(0)
    np.save(folder / "train_images.npy", rng.integers(0, 256, (examples, 32, 32, 3), np.uint8))
    np.save(folder / "train_labels.npy", rng.integers(0, 10, examples))
    splits = ["--config.data.train=train", "--config.data.validation=", "--config.data.test="]
    return [f"--config.data.dir={folder}", *splits, "--config.train.patience=0"]
