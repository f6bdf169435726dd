"""Splits on disk: uint8 images and integer labels as memory-mapped .npy files."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnet_flax.errors import UserError, reason
from resnet_flax.files import read_npy


@dataclass(frozen=True)
class Split:
    """Images (n, height, width, 3) uint8 and labels (n,) int32."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def write_arrays(splits: dict[str, Split], folder: Path) -> None:
    """Save every split into `folder`, which appears whole or not at all."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
        for name, split in splits.items():
            np.save(unfinished / f"{name}_images.npy", split.images)
            np.save(unfinished / f"{name}_labels.npy", split.labels)
    except OSError as error:
        raise UserError(f"cannot keep the decoded dataset in {folder}: {error.strerror}; set XDG_CACHE_HOME") from None
    try:
        unfinished.rename(folder)
    except OSError:  # another process was first
        shutil.rmtree(unfinished)


def read_split(folder: Path, name: str, part: range, classes: int) -> Split:
    """Examples `part` of a saved split of so many `classes`; UserError where a label is of none of them."""
    images, labels = (array[part.start : part.stop] for array in read_arrays(folder, name))
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"{folder} has labels from {labels.min()} to {labels.max()}, and there are {classes} classes")
    return Split(images, labels.astype(np.int32))


def read_arrays(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, height, width, 3) uint8 and labels (n,) of a saved split, on disk until they are read.

    Raises UserError where the files, which anybody may have put there, are something else.
    """
    try:
        images, labels = (read_npy(folder / f"{name}_{kind}.npy") for kind in ("images", "labels"))
    except (OSError, ValueError) as error:
        raise UserError(f"the arrays {name}_*.npy in {folder} cannot be read: {reason(error)}") from None
    found = f"{images.dtype} {images.shape} and {labels.dtype} {labels.shape}"
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise UserError(f"{folder}/{name}_*.npy must hold images (n, height, width, 3) uint8: there are {found}")
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise UserError(f"{folder}/{name}_*.npy must hold a whole number for each image: there are {found}")
    return images, labels
