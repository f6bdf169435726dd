"""A user's own images as a dataset: a folder for each class, perhaps below train, validation and test."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnet_flax.data.datasets.images import IMAGES, Images, files_below, image_files_below, is_image_name
from resnet_flax.errors import UserError, nearest
from resnet_flax.files import user_path
from resnet_flax.text import escape_line, first_few, listed, print_line

# Folder -> split.
SPLIT_FOLDERS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}
DECODER_VERSION = 3  # incremented when files are decoded to different pixels than before


@dataclass(frozen=True)
class Tree:
    """The folders at `root`: the classes, in the order of their labels, and the folder of each split."""

    root: Path
    classes: tuple[str, ...]
    splits: dict[str, Path]

    @classmethod
    def find(cls, directory: str) -> "Tree":
        """Return the tree of folders in `directory`; no file is opened.

        Each folder there is a class and all images are the split "train", unless there is a folder `train` with the
        classes in it: then `val`, `valid` or `validation` and `test` beside it are splits, too, in upper or lower case.
        Names that begin with a dot are ignored. Raises UserError if there are fewer than two classes, or not the same
        ones in every split.
        """
        root = user_path(directory).absolute()
        if not directory:
            raise UserError("which images? Give --config.data.dir=PATH, with a folder of images for each class in it")
        if not root.is_dir():
            beside = [str(path) for path in root.parent.glob("*/")]
            raise UserError(f"there is no folder {root}" + (f": {nearest(str(root), beside)}" if beside else ""))
        splits = {"train": root}
        named = [(path, SPLIT_FOLDERS.get(path.name.lower())) for path in folders_in(root)]
        if any(split == "train" and folders_in(path) for path, split in named):
            splits = {}
            for path, split in named:
                if split in splits:
                    raise UserError(f"{path} and {splits[split]} are both the split {split!r}: keep one of them")
                if split:
                    splits[split] = path
        classes = {split: tuple(path.name for path in folders_in(path)) for split, path in splits.items()}
        check_classes(splits, classes)
        return cls(root, classes["train"], splits)

    def check_same_classes(self, classes: Sequence[str]) -> None:
        """Raise UserError unless `classes` are those of these folders."""
        if self.classes != tuple(classes):
            raise UserError(f"{self.root} has the classes {listed(self.classes)}, not {listed(classes)}")

    def files(self) -> dict[str, list[tuple[Path, int]]]:
        """Return every image with its label, split by split, in an order that depends only on their names.

        Each class is spread evenly, so that train[:80%] and train[80%:] have the same share of it, and an image nearly
        keeps its place when others are added. Raises UserError for a class without an image.
        """
        found = {}
        for split, folder in self.splits.items():
            placed = []
            for label, name in enumerate(self.classes):
                paths = image_files_below(folder / name)
                if not paths:
                    wanted = f"looked for {' '.join(IMAGES)}; remove the folder if it is not a class"
                    raise UserError(f"there are no images in {folder / name}: {wanted}")
                paths.sort(key=lambda path: hashlib.sha256(self._name(path)).digest())
                placed += [((rank + 0.5) / len(paths), label, path) for rank, path in enumerate(paths)]
            found[split] = [(path, label) for _, label, path in sorted(placed)]
        return found

    def version(self) -> str:
        """Return a digest of the names, sizes and times of the files; none of them is opened."""
        digest = hashlib.sha256(bytes([DECODER_VERSION]))
        for split, files in sorted(self.files().items()):
            for path, label in files:
                status = path.stat()
                entry = split, self._name(path), label, status.st_size, status.st_mtime_ns
                digest.update(repr(entry).encode())
        return digest.hexdigest()[:12]

    def read(self, size: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return images (n, size, size, 3) uint8 and labels (n,) int32 of every split.

        Prints which files were left out because they cannot be read, and how many had to be changed. Raises UserError
        if no image of a class is left.
        """
        return {split: self._read(split, files, size) for split, files in self.files().items()}

    def _read(self, split: str, files: list[tuple[Path, int]], size: int) -> tuple[np.ndarray, np.ndarray]:
        label_of = {str(path): label for path, label in files}
        images = Images([path for path, _ in files], (size, size))
        pixels = np.empty((len(files), size, size, 3), np.uint8)
        labels: list[int] = []
        for image in images.with_bar():
            pixels[len(labels)] = image.pixels
            labels.append(label_of[image.name])
        print_line(f"{self.splits[split]}: {len(labels):,} images of {len(self.classes)} classes")
        if changes := images.changes():
            print_line(changes)
        if images.unreadable:
            print_line(images.failures())
        if ignored := self._ignored(split):
            print_line(f"left out, as they do not end in {', '.join(IMAGES)}: {', '.join(first_few(ignored, 3))}")
        if lost := sorted(set(range(len(self.classes))) - set(labels)):
            raise UserError(f"no image in {self.splits[split] / self.classes[lost[0]]} can be read")
        return pixels[: len(labels)], np.array(labels, np.int32)

    def _ignored(self, split: str) -> list[str]:
        """Return the files in a split's class folders whose names are not those of images, in order."""
        below = (path for name in self.classes for path in files_below(self.splits[split] / name))
        return sorted(escape_line(path) for path in below if not is_image_name(path))

    def _name(self, path: Path) -> bytes:
        """Return the path below the root, the same on every system."""
        return os.fsencode(str(path)[len(str(self.root)) :].replace(os.sep, "/"))


def folders_in(folder: Path) -> list[Path]:
    """Return the folders directly in `folder` whose names do not begin with a dot, in order."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"cannot look into {folder}: {error.strerror}") from None


def check_classes(splits: dict[str, Path], classes: dict[str, tuple[str, ...]]) -> None:
    """Raise UserError unless the splits have the same classes, two or more, whose names can be printed."""
    train = classes["train"]
    if len(train) < 2:
        found = f"one folder, {train[0]}," if train else "no folders"
        raise UserError(f"{splits['train']} has {found} in it: there must be a folder of images for each class")
    if odd := [name for name in train if escape_line(name) != name]:
        raise UserError(f"folder {odd[0]} in {splits['train']} has unprintable characters in its name: rename it")
    for split, names in classes.items():
        if absent := [name for name in train if name not in names]:
            raise UserError(f"{splits[split]} lacks folders for classes of {splits['train']}: {listed(absent)}")
        if extra := [name for name in names if name not in train]:
            raise UserError(f"{splits[split]} has folders that are not in {splits['train']}: {listed(extra)}")
