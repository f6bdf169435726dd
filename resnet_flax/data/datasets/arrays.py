"""Splits of a dataset: uint8 images and integer labels, kept on disk as .npy files and memory-mapped."""

import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

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
    """Save every split into `folder`, which appears whole or not at all; UserError if that fails."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent, ignore_cleanup_errors=True) as parent:
            unfinished = Path(parent) / folder.name
            unfinished.mkdir()
            for name, split in splits.items():
                write_npy(unfinished / f"{name}_images.npy", split.images)
                write_npy(unfinished / f"{name}_labels.npy", split.labels)
            try:
                unfinished.rename(folder)
            except OSError:
                if not list(folder.glob("*.npy")):  # otherwise another process was first
                    raise
    except OSError as error:
        megabytes = sum(split.images.nbytes + split.labels.nbytes for split in splits.values()) / 1e6
        raise UserError(
            f"the decoded dataset, {megabytes:,.1f} MB, cannot be kept in {folder.parent}: {error.strerror}; make room "
            "there, or set XDG_CACHE_HOME to another folder"
        ) from None


def write_npy(path: Path, array: np.ndarray) -> None:
    """Write an array as np.save does and sync it to disk; unlike NumPy's, an OSError says what went wrong."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data if array.flags.c_contiguous else array.tobytes("A"))
        file.flush()
        os.fsync(file.fileno())


def read_split(folder: Path, name: str, part: range, classes: int) -> Split:
    """Return the examples `part` of a saved split; UserError if a label is negative or not below `classes`."""
    images, labels = (array[part.start : part.stop] for array in read_arrays(folder, name))
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"{folder} has labels from {labels.min()} to {labels.max()}, but there are {classes} classes")
    return Split(images, labels.astype(np.int32))


def read_arrays(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, height, width, 3) uint8 and labels (n,) of a saved split, memory-mapped.

    Raises UserError if the untrusted files hold something else.
    """
    try:
        images, labels = (read_npy(folder / f"{name}_{kind}.npy") for kind in ("images", "labels"))
    except (OSError, ValueError) as error:
        raise UserError(f"the arrays {name}_*.npy in {folder} cannot be read: {reason(error)}") from None
    found = f"{images.dtype} {images.shape} and {labels.dtype} {labels.shape}"
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise UserError(f"{folder}/{name}_*.npy must hold images (n, height, width, 3) uint8, not {found}")
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise UserError(f"{folder}/{name}_*.npy must hold an integer for each image, not {found}")
    return images, labels
