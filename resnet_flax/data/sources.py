"""Datasets by name: decoded once into uint8 arrays, then memory-mapped .npy files.

Neither TensorFlow nor TFDS is imported but to decode a TFDS dataset for the first time.
"""

import hashlib
import os
import re
import shutil
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from resnet_flax.cache import cache_folder
from resnet_flax.data.folders import Tree, several
from resnet_flax.errors import UserError, nearest, reason
from resnet_flax.files import read_npy
from resnet_flax.text import shown


@dataclass(frozen=True)
class Split:
    """Images (n, height, width, 3) uint8 and labels (n,) int32."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """The splits of a run; `validation` is None where nothing is held out, `test` where nothing is tested."""

    train: Split
    validation: Split | None
    test: Split | None


class Source(Protocol):
    """Where a dataset comes from. `config` is always `config.data`."""

    def contents(self, config) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The names of its classes and of its splits, found without reading an image."""

    def key(self, config) -> tuple[str, str]:
        """Where it comes from and, if that can change, which version of it, as parts of a file name."""

    def decode(self, config) -> dict[str, Split]:
        """Every split by name."""


@dataclass(frozen=True)
class Embedded:
    """A dataset that comes with an installed package, and how to make it."""

    classes: tuple[str, ...]
    make: Callable[[], dict[str, Split]]

    def contents(self, config) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return self.classes, ("train", "test")

    def key(self, config) -> tuple[str, str]:
        return "embedded", ""

    def decode(self, config) -> dict[str, Split]:
        return self.make()


@dataclass(frozen=True)
class Tfds:
    """An image dataset of TensorFlow Datasets, by `path`, its NAME/VERSION, downloaded from `host` where it is not.

    Of its splits, train and test are used.
    """

    classes: tuple[str, ...]
    path: str
    host: str

    def contents(self, config) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return self.classes, ("train", "test")

    def key(self, config) -> tuple[str, str]:
        return short_hash(self._folder(config)), ""

    def decode(self, config) -> dict[str, Split]:
        folder = self._folder(config)
        if not (folder / "dataset_info.json").is_file() and not reachable(self.host):
            raise UserError(
                f"dataset {config.name!r} is not at {folder} and {self.host} cannot be reached to download it: point "
                f"TFDS_DATA_DIR or --config.data.dir at a folder that holds {self.path}"
            )
        return decode_tfds(folder)

    def _folder(self, config) -> Path:
        root = config.dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
        return Path(root).expanduser().resolve() / self.path


class Folder:
    """A user's own images in `config.dir`, as folders.Tree finds them."""

    def contents(self, config) -> tuple[tuple[str, ...], tuple[str, ...]]:
        tree = Tree.find(config.dir)
        return tree.classes, tuple(tree.splits)

    def key(self, config) -> tuple[str, str]:
        tree = self._tree(config)
        return f"{short_hash(tree.root.resolve())}-{config.image_size}", tree.fingerprint()

    def decode(self, config) -> dict[str, Split]:
        return {name: Split(*arrays) for name, arrays in self._tree(config).read(config.image_size).items()}

    def _tree(self, config) -> Tree:
        tree = Tree.find(config.dir)
        if tree.classes != tuple(config.classes):
            raise UserError(f"{tree.root} has the classes {several(tree.classes)}, not {several(config.classes)}")
        return tree


def decode_digits() -> dict[str, Split]:
    """The 1,797 handwritten digits of scikit-learn (UCI optdigits), 8x8 grey enlarged to 32x32x3, 1,437 to train."""
    from sklearn.datasets import load_digits  # takes a second to import

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey.repeat(4, axis=1).repeat(4, axis=2)[..., None], 3, axis=-1)
    # The file is ordered by writer, so the split is drawn, once and for all.
    order = np.random.RandomState(0).permutation(len(images))
    splits = {"train": order[:1437], "test": order[1437:]}
    return {name: Split(images[at], digits.target[at].astype(np.int32)) for name, at in splits.items()}


def decode_tfds(folder: Path) -> dict[str, Split]:
    """The splits train and test of the dataset at DATA_DIR/NAME/VERSION, downloaded and prepared where it is not."""
    import tensorflow_datasets as tfds  # imports TensorFlow, two seconds

    builder = tfds.builder(f"{folder.parent.name}:{folder.name}", data_dir=str(folder.parent.parent))
    builder.download_and_prepare()
    splits = {}
    for name in ("train", "test"):
        batches = list(tfds.as_numpy(builder.as_dataset(split=name, batch_size=1000)))
        images, labels = (np.concatenate([batch[feature] for batch in batches]) for feature in ("image", "label"))
        splits[name] = Split(images, labels.astype(np.int32))
    return splits


CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100_NAMES = (  # the fine ones, in the order of their labels
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

# Splits that a dataset has beside train -> what is trained on, validated on and tested on unless the config says.
USUAL_SPLITS = {
    frozenset(): ("train[:80%]", "train[80%:90%]", "train[90%:]"),
    frozenset({"test"}): ("train[:90%]", "train[90%:]", "test"),
    frozenset({"validation"}): ("train[:90%]", "validation", "train[90%:]"),
    frozenset({"test", "validation"}): ("train", "validation", "test"),
}
ROLES = ("train", "validation", "test")


def fill(config) -> None:
    """Set the classes and splits that `config.data` leaves open to what its dataset has.

    Without a test split there is no test where it is said what to train on: that may be everything. Raises UserError
    for a folder that is not there.
    """
    if None not in [config.classes, *(config[role] for role in ROLES)]:
        return
    classes, splits = SOURCES[config.name].contents(config)
    usual = dict(zip(ROLES, USUAL_SPLITS[frozenset(splits) - {"train"}], strict=True))
    if config.train is not None and "test" not in splits:
        usual["test"] = ""
    for field, value in {"classes": classes, **usual}.items():
        if config[field] is None:
            config[field] = value


def image_shape(config) -> tuple[int, int, int]:
    """(height, width, 3) of the images of `config.data`."""
    return config.image_size, config.image_size, 3


def load(config) -> Dataset:
    """The dataset that a complete `config.data` describes, as memory-mapped arrays.

    Raises UserError for a dataset that is neither here nor to be downloaded, and for splits that it has not, that are
    empty or that share examples.
    """
    folder = find_arrays(config)
    spans = {role: config[role] for role in ROLES if config[role]}
    slices = {role: parse_split(text, folder) for role, text in spans.items()}
    refuse_shared_examples(slices, spans)
    refuse_exchanged(slices, spans)
    splits = {role: read_split(folder, *slices[role], len(config.classes)) for role in slices}
    if config.train_examples:
        train = splits["train"]
        splits["train"] = Split(train.images[: config.train_examples], train.labels[: config.train_examples])
    return Dataset(splits["train"], splits.get("validation"), splits.get("test"))


def load_split(config, text: str) -> tuple[str, Split]:
    """(what it is called, the examples) of a split of a complete `config.data`.

    `text` is train, validation or test, which is what the config says that it is, or else a split as TFDS writes one,
    such as train[:500] or train[:] for all of it. Raises UserError where there is no such split.
    """
    if text in ROLES:
        if not config[text]:
            raise UserError(f"config.data.{text} is empty: there is no such split")
        return config[text], getattr(load(config), text)
    folder = find_arrays(config)
    return text, read_split(folder, *parse_split(text, folder), len(config.classes))


def short_hash(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]


def find_arrays(config) -> Path:
    """The folder with SPLIT_images.npy and SPLIT_labels.npy of a complete `config.data`, made if need be.

    `config.dir` may itself be such a folder. Raises UserError where the images are not of the config's size.
    """
    arrays = Path(config.dir).expanduser()
    if not config.dir or not list(arrays.glob("*_images.npy")):
        source = SOURCES[config.name]
        place, version = source.key(config)
        place = str(cache_folder() / "datasets" / f"{config.name}-{place}")
        arrays = Path(f"{place}-{version}" if version else place)
        if not arrays.is_dir():
            write_arrays(source.decode(config), arrays)
            for older in set(arrays.parent.glob(Path(f"{place}-{'?' * len(version)}").name)) - {arrays}:
                shutil.rmtree(older, ignore_errors=True)
    shape = arrays_of(arrays, next(arrays.glob("*_images.npy")).name.removesuffix("_images.npy"))[0].shape[1:]
    if shape != image_shape(config):
        size = "height and width must be the same" if shape[0] != shape[1] else f"set it to {shape[0]}"
        raise UserError(f"{config.name} has images {shape}, and config.data.image_size is {config.image_size}: {size}")
    return arrays


def reachable(url: str, seconds: float = 3.0) -> bool:
    """Whether a web server answers at `url`, known within `seconds`; proxies from the environment are used."""
    answers = []

    def ask():
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds).close()
        except urllib.error.HTTPError:
            pass  # an answer all the same
        except OSError:
            return
        answers.append(True)

    thread = threading.Thread(target=ask, daemon=True)  # looking a name up has no time-out of its own
    thread.start()
    thread.join(seconds)
    return bool(answers)


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


SPLIT_PATTERN = re.compile(r"(\w+)(?:\[(-?\d{1,18}%?)?:(-?\d{1,18}%?)?\])?", re.ASCII)


def parse_split(text: str, folder: Path) -> tuple[str, range]:
    """("train", range(0, 45000)) for "train[:90%]", as TFDS's slicing reads it (percentages round to the nearest)."""
    match = SPLIT_PATTERN.fullmatch(text)
    if not match:
        raise UserError(f"split {shown(text)} must look like train, train[:90%] or train[45000:]")
    name, start, stop = match.groups()
    if start and stop and start.endswith("%") != stop.endswith("%"):
        raise UserError(f"split {shown(text)} mixes percentages and numbers of examples")
    names = [path.name.removesuffix("_labels.npy") for path in folder.glob("*_labels.npy")]
    if name not in names:
        raise UserError(f"unknown split {shown(name)}: {nearest(name, names)}")
    size = len(arrays_of(folder, name)[1])

    def position(bound: str | None, default: int) -> int:
        if bound is None:
            return default
        value = round(int(bound[:-1]) / 100 * size) if bound.endswith("%") else int(bound)
        return value + size if value < 0 else value

    part = range(position(start, 0), position(stop, size))
    if not 0 <= part.start < part.stop <= size:
        raise UserError(f"split {shown(text)} is examples {part.start} to {part.stop} of {size}")
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


def refuse_exchanged(slices: dict[str, tuple[str, range]], texts: dict[str, str]) -> None:
    """Raise UserError where more is held out to choose by than is there to train on."""
    held_out, trained_on = (len(slices[role][1]) if role in slices else 0 for role in ("validation", "train"))
    if held_out > trained_on:
        raise UserError(
            f"config.data.validation {texts['validation']!r} has {held_out:,} examples, "
            f"more than the {trained_on:,} of config.data.train {texts['train']!r}: exchange them"
        )


def read_split(folder: Path, name: str, part: range, classes: int) -> Split:
    """Examples `part` of a saved split of so many `classes`; UserError where a label is of none of them."""
    images, labels = (array[part.start : part.stop] for array in arrays_of(folder, name))
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"{folder} has labels from {labels.min()} to {labels.max()}, and there are {classes} classes")
    return Split(images, labels.astype(np.int32))


def arrays_of(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
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
