"""The fingerprint of a run's data: which examples each of its splits has, and a digest of their images and labels."""

import contextlib
import json
import zlib
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypedDict

from ml_collections import ConfigDict

from resnet_flax.data.datasets.load import ROLES, find_arrays, find_slice
from resnet_flax.data.datasets.splits import overlap, split_names
from resnet_flax.files import atomic_write, read_json, user_path

CHECKSUMS = "checksums.json"  # beside decoded arrays: name of a file -> [its bytes, its time, its CRC-32]
BLOCK = 2**20  # bytes read at a time


class SplitContents(TypedDict):
    """The number of examples, from `start` on, of the arrays with this `digest`: a dict that JSON can hold."""

    examples: int
    start: int
    digest: str


def fingerprint(config: ConfigDict) -> dict[str, SplitContents]:
    """Return the examples of each split (train, validation, test) that a complete `config.data` uses.

    Two fingerprints are equal if all images and labels are the same, wherever they are stored, and differ otherwise, as
    far as CRC-32 can tell. The digest covers whole arrays, including examples that no split uses. Takes milliseconds
    for data that an earlier run decoded; a user's own .npy files are read once per process. Raises UserError as
    load_dataset does.
    """
    folder = find_arrays(config)
    return {role: examples_of(config, folder, role) for role in ROLES if config[role]}


def examples_of(config: ConfigDict, folder: Path, split: str) -> SplitContents:
    """Return the examples of a split (see find_slice) of a complete `config.data` whose arrays are in `folder`."""
    if folder != user_path(config.dir):  # nothing is written into a user's own folder
        keep_checksums(folder)
    name, part = find_slice(config, folder, split)
    digest = "".join(f"{checksum(folder / f'{name}_{kind}.npy'):08x}" for kind in ("images", "labels"))
    return {"examples": len(part), "start": part.start, "digest": digest}


def share_examples(one: SplitContents, other: SplitContents) -> bool:
    """Return whether some examples are in both."""
    parts = (range(part["start"], part["start"] + part["examples"]) for part in (one, other))
    return one["digest"] == other["digest"] and overlap(*parts)


def place(data: ConfigDict) -> tuple[str, str, int]:
    """Return a key that is the same for two runs on the same data; a dataset of TFDS is the same in any folder."""
    folder = user_path(data.dir).resolve()
    own_images = data.name == "folder" or (data.dir and split_names(folder))
    return data.name, str(folder) if own_images else "", data.image_size


class EvaluatedSplit(NamedTuple):
    """A run's `config.data`, and what one of its splits contained when it was evaluated, None if that is unknown."""

    data: ConfigDict
    contents: SplitContents | None


def same_images(one: EvaluatedSplit, other: EvaluatedSplit) -> bool:
    """Return whether two evaluated splits hold the same images, as far as is known; their size may differ."""
    mine, theirs = one.contents, other.contents
    if mine is None or theirs is None:
        return True
    if one.data.image_size == other.data.image_size:
        return mine == theirs
    same_part = (mine["start"], mine["examples"]) == (theirs["start"], theirs["examples"])
    return same_part and place(one.data)[:2] == place(other.data)[:2]


def keep_checksums(folder: Path) -> None:
    """Write the checksums of the decoded arrays in `folder` beside them, unless they are there already."""
    if not (folder / CHECKSUMS).exists():
        kept = {path.name: [*size_and_time(path), checksum(path)] for path in folder.glob("*.npy")}
        with contextlib.suppress(OSError), atomic_write(folder / CHECKSUMS) as file:  # disk full, or another user's
            json.dump(kept, file)


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file, as kept beside it if the file has not changed since."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        *known, crc = read_json(path.with_name(CHECKSUMS))[path.name]
        if known == [*size_and_time(path)]:
            return int(crc)
    return crc32(path, *size_and_time(path))


def size_and_time(path: Path) -> tuple[int, int]:
    """Return the size of a file in bytes and the time of its last change in ns."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@cache
def crc32(path: Path, size: int, time: int) -> int:
    """Return the CRC-32 of a file, computed once as long as its `size` and `time` stay the same."""
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            crc = zlib.crc32(block, crc)
    return crc
