"""The registry of datasets: where each comes from, which classes and splits it has, and how it is decoded.

TensorFlow and TFDS are imported only to decode a dataset of TFDS for the first time.
"""

import hashlib
import inspect
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from ml_collections import ConfigDict

from resnet_flax.cache import one_process
from resnet_flax.data.datasets.arrays import Split, read_arrays
from resnet_flax.data.datasets.folders import Tree
from resnet_flax.data.datasets.splits import own_splits
from resnet_flax.errors import UserError, reason, refuse_address
from resnet_flax.files import user_path

TFDS_SPLITS = ("train", "test")  # of a dataset that is known by name
MAX_CLASSES = 10_000  # of a user's own arrays
REACH_SECONDS = 3.0  # how long a server may take to answer


class Source(Protocol):
    """Where a dataset comes from. `config` is always a `config.data`."""

    def contents(self, config: ConfigDict) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the names of its classes and of its splits, without reading an image."""

    def key(self, config: ConfigDict) -> tuple[str, str]:
        """Return where it comes from and its version, "" if it cannot change, as parts of a file name."""

    def decode(self, config: ConfigDict) -> dict[str, Split]:
        """Return every split by name."""


@dataclass(frozen=True)
class Embedded:
    """A dataset that is part of an installed package; `make` returns its splits, again if its code has changed."""

    classes: tuple[str, ...]
    make: Callable[[], dict[str, Split]]

    def contents(self, config: ConfigDict) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return self.classes, TFDS_SPLITS

    def key(self, config: ConfigDict) -> tuple[str, str]:
        if not user_path(config.dir).is_dir():  # where a user's own arrays may have been
            raise UserError(
                f"config.data.dir {config.dir!r} is not a folder, and {config.name} does not need it: set it to ''"
            )
        try:
            source = inspect.getsource(self.make)
        except (OSError, TypeError):  # typed into Python, or not written in it
            source = ""
        return "embedded", hashlib.sha256(source.encode()).hexdigest()[:12]

    def decode(self, config: ConfigDict) -> dict[str, Split]:
        return self.make()


@dataclass(frozen=True)
class Tfds:
    """The splits train and test of an image dataset of TensorFlow Datasets, downloaded from `host` if need be.

    `path` is its NAME/VERSION.
    """

    classes: tuple[str, ...]
    path: str
    host: str

    def contents(self, config: ConfigDict) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return self.classes, TFDS_SPLITS

    def key(self, config: ConfigDict) -> tuple[str, str]:
        return short_hash(self._folder(config)), ""

    def decode(self, config: ConfigDict) -> dict[str, Split]:
        folder = self._folder(config)
        if not (folder / "dataset_info.json").is_file() and not reachable(self.host):
            raise UserError(
                f"dataset {config.name!r} is not at {folder} and {self.host} cannot be reached to download it: point "
                f"TFDS_DATA_DIR or --config.data.dir at a folder that holds {self.path}"
            )
        with one_process(folder.parents[1] / f".{folder.parent.name}.lock"):  # machines with other caches may share it
            return decode_tfds(folder)

    def _folder(self, config: ConfigDict) -> Path:
        root = config.dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
        refuse_address("TFDS_DATA_DIR", root)
        return user_path(root).resolve() / self.path


class Folder:
    """A user's own images in `config.dir`: folders, see folders.Tree, or arrays, whose classes are numbered."""

    def contents(self, config: ConfigDict) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if splits := own_splits(config.dir):
            return numbered_classes(user_path(config.dir), splits), tuple(splits)
        tree = Tree.find(config.dir)
        return tree.classes, tuple(tree.splits)

    def key(self, config: ConfigDict) -> tuple[str, str]:
        tree = self._tree(config)
        return f"{short_hash(tree.root.resolve())}-{config.image_size}", tree.version()

    def decode(self, config: ConfigDict) -> dict[str, Split]:
        return {name: Split(*arrays) for name, arrays in self._tree(config).read(config.image_size).items()}

    def _tree(self, config: ConfigDict) -> Tree:
        tree = Tree.find(config.dir)
        tree.check_same_classes(config.classes)
        return tree


def numbered_classes(folder: Path, splits: list[str]) -> tuple[str, ...]:
    """Return the labels in the arrays of a folder, from 0 to the largest, as names. UserError if there are too many."""
    largest = max(int(read_arrays(folder, split)[1].max(initial=1)) for split in splits)
    if largest >= MAX_CLASSES:
        wanted = f"labels must be class numbers from 0 to {MAX_CLASSES - 1:,}"
        raise UserError(f"{folder} has a label of {largest:,}: {wanted}")
    return tuple(map(str, range(largest + 1)))


def decode_digits() -> dict[str, Split]:
    """Return scikit-learn's 1,797 handwritten digits (UCI optdigits): 8x8 grey enlarged to 32x32x3, 1,437 to train."""
    from sklearn.datasets import load_digits  # takes a second to import

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey.repeat(4, axis=1).repeat(4, axis=2)[..., None], 3, axis=-1)
    # The file is ordered by writer, so the split is random, with a fixed seed.
    order = np.random.RandomState(0).permutation(len(images))
    splits = {"train": order[:1437], "test": order[1437:]}
    return {name: Split(images[at], digits.target[at].astype(np.int32)) for name, at in splits.items()}


def decode_tfds(folder: Path) -> dict[str, Split]:
    """Return the splits train and test of the dataset at DATA_DIR/NAME/VERSION, downloaded and prepared if need be.

    Raises UserError if that fails.
    """
    import tensorflow_datasets as tfds  # imports TensorFlow, two seconds

    try:
        builder = tfds.builder(f"{folder.parent.name}:{folder.name}", data_dir=str(folder.parent.parent))
        builder.download_and_prepare()
        return {
            name: decode_split(tfds.as_numpy(builder.as_dataset(split=name, batch_size=1000))) for name in TFDS_SPLITS
        }
    except Exception as error:  # many kinds, for a full disk, a broken connection, a damaged file
        raise UserError(f"{folder} cannot be prepared by TensorFlow Datasets: {reason(error)}") from error


def decode_split(batches: Iterable[dict[str, np.ndarray]]) -> Split:
    """Return the split that consists of these batches of "image" and "label"."""
    images, labels = zip(*((batch["image"], batch["label"]) for batch in batches), strict=True)
    return Split(np.concatenate(images), np.concatenate(labels).astype(np.int32))


CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100_NAMES = (  # the fine classes, in the order of their labels
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can "
    "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin "
    "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster "
    "man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck "
    "pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk "
    "skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger "
    "tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)

TORONTO = "https://www.cs.toronto.edu"

SOURCES: dict[str, Source] = {
    "digits": Embedded(tuple("0123456789"), decode_digits),
    "cifar10": Tfds(CIFAR10_CLASSES, "cifar10/3.0.2", TORONTO),
    "cifar100": Tfds(tuple(CIFAR100_NAMES.split()), "cifar100/3.0.2", TORONTO),
    "svhn": Tfds(tuple("0123456789"), "svhn_cropped/3.1.0", "http://ufldl.stanford.edu"),
    "folder": Folder(),
}


def short_hash(path: Path) -> str:
    """Return 12 hexadecimal digits that stand for a path in a file name."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]


def reachable(url: str) -> bool:
    """Return whether a web server answers at `url` within REACH_SECONDS; proxies from the environment are used."""
    answers = []

    def ask():
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACH_SECONDS).close()
        except urllib.error.HTTPError:
            pass  # that is an answer, too
        except OSError:
            return
        answers.append(True)

    thread = threading.Thread(target=ask, daemon=True)  # name resolution has no timeout of its own
    thread.start()
    thread.join(REACH_SECONDS)
    return bool(answers)
