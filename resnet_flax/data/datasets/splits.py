"""Splits in the syntax of TFDS, such as train[:90%], and the checks that those of a run do not overlap."""

import re
from collections.abc import Iterable
from pathlib import Path

from resnet_flax.data.datasets.arrays import read_arrays
from resnet_flax.errors import UserError, nearest
from resnet_flax.files import user_path
from resnet_flax.text import short_repr

SPLIT_PATTERN = re.compile(r"(\w+)(?:\[(-?\d{1,18}%?)?:(-?\d{1,18}%?)?\])?", re.ASCII)


def split_names(folder: Path) -> list[str]:
    """Return the names of the splits whose arrays are in `folder`."""
    return sorted(path.name.removesuffix("_images.npy") for path in folder.glob("*_images.npy"))


def own_splits(directory: str) -> list[str]:
    """Return the names of the splits whose arrays a user keeps in `directory`; none for ""."""
    return split_names(user_path(directory)) if directory else []


def parse_split(text: str, folder: Path, choices: Iterable[str] = ()) -> tuple[str, range]:
    """Return ("train", range(0, 45000)) for "train[:90%]", as TFDS does: percentages round to the nearest example.

    Raises UserError if the arrays in `folder` have no such split; `choices` are further names to suggest.
    """
    match = SPLIT_PATTERN.fullmatch(text)
    if not match:
        raise UserError(f"split {short_repr(text)} must look like train, train[:90%] or train[45000:]")
    name, start, stop = match.groups()
    if start and stop and start.endswith("%") != stop.endswith("%"):
        raise UserError(f"split {short_repr(text)} mixes percentages and numbers of examples")
    names = split_names(folder)
    if name not in names:
        raise UserError(f"unknown split {short_repr(name)}: {nearest(name, {*names, *choices})}")
    size = len(read_arrays(folder, name)[1])

    def position(bound: str | None, default: int) -> int:
        if bound is None:
            return default
        value = round(int(bound[:-1]) * size / 100) if bound.endswith("%") else int(bound)
        return value + size if value < 0 else value

    part = range(position(start, 0), position(stop, size))
    if not 0 <= part.start < part.stop <= size:
        fault = "goes beyond" if part else "holds none of"
        raise UserError(f"split {short_repr(text)} {fault} the {size} examples of {name}")
    return name, part


def overlap(a: range, b: range) -> bool:
    """Return whether two ranges of examples, with steps of 1, have some in common."""
    return max(a.start, b.start) < min(a.stop, b.stop)


def refuse_shared_examples(slices: dict[str, tuple[str, range]], texts: dict[str, str]) -> None:
    """Raise UserError if two splits overlap: accuracy on training examples says little about new images."""
    roles = list(slices)
    for i, first in enumerate(roles):
        for second in roles[i + 1 :]:
            (name, part), (other_name, other_part) = slices[first], slices[second]
            if name == other_name and overlap(part, other_part):
                raise UserError(
                    f"config.data.{first} {texts[first]!r} and config.data.{second} {texts[second]!r} share examples"
                )


def refuse_swapped_splits(slices: dict[str, tuple[str, range]], texts: dict[str, str]) -> None:
    """Raise UserError if the validation split is larger than the training split."""
    held_out, trained_on = (len(slices[role][1]) if role in slices else 0 for role in ("validation", "train"))
    if held_out > trained_on:
        raise UserError(
            f"config.data.validation {texts['validation']!r} has {held_out:,} examples, "
            f"more than the {trained_on:,} of config.data.train {texts['train']!r}: are they swapped?"
        )
