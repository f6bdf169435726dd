"""Splits as TFDS writes them, such as train[:90%], and the checks that they do not overlap."""

import re
from pathlib import Path

from resnet_flax.data.datasets.arrays import read_arrays
from resnet_flax.errors import UserError, nearest
from resnet_flax.text import short_repr

SPLIT_PATTERN = re.compile(r"(\w+)(?:\[(-?\d{1,18}%?)?:(-?\d{1,18}%?)?\])?", re.ASCII)


def parse_split(text: str, folder: Path) -> tuple[str, range]:
    """("train", range(0, 45000)) for "train[:90%]", as TFDS's slicing reads it (percentages round to the nearest)."""
    match = SPLIT_PATTERN.fullmatch(text)
    if not match:
        raise UserError(f"split {short_repr(text)} must look like train, train[:90%] or train[45000:]")
    name, start, stop = match.groups()
    if start and stop and start.endswith("%") != stop.endswith("%"):
        raise UserError(f"split {short_repr(text)} mixes percentages and numbers of examples")
    names = [path.name.removesuffix("_labels.npy") for path in folder.glob("*_labels.npy")]
    if name not in names:
        raise UserError(f"unknown split {short_repr(name)}: {nearest(name, names)}")
    size = len(read_arrays(folder, name)[1])

    def position(bound: str | None, default: int) -> int:
        if bound is None:
            return default
        value = round(int(bound[:-1]) / 100 * size) if bound.endswith("%") else int(bound)
        return value + size if value < 0 else value

    part = range(position(start, 0), position(stop, size))
    if not 0 <= part.start < part.stop <= size:
        raise UserError(f"split {short_repr(text)} is examples {part.start} to {part.stop} of {size}")
    return name, part


def share_examples(one: tuple[str, range], other: tuple[str, range]) -> bool:
    """Whether two splits, as parse_split returns them, overlap."""
    (name_a, a), (name_b, b) = one, other
    return name_a == name_b and max(a.start, b.start) < min(a.stop, b.stop)


def refuse_shared_examples(slices: dict[str, tuple[str, range]], texts: dict[str, str]) -> None:
    """Raise UserError where two of the splits overlap: what a network trains on says nothing about how good it is."""
    roles = list(slices)
    for i, first in enumerate(roles):
        for second in roles[i + 1 :]:
            if share_examples(slices[first], slices[second]):
                raise UserError(
                    f"config.data.{first} {texts[first]!r} and config.data.{second} {texts[second]!r} share examples"
                )


def refuse_swapped_splits(slices: dict[str, tuple[str, range]], texts: dict[str, str]) -> None:
    """Raise UserError where more is held out to choose by than is there to train on."""
    held_out, trained_on = (len(slices[role][1]) if role in slices else 0 for role in ("validation", "train"))
    if held_out > trained_on:
        raise UserError(
            f"config.data.validation {texts['validation']!r} has {held_out:,} examples, "
            f"more than the {trained_on:,} of config.data.train {texts['train']!r}: exchange them"
        )
