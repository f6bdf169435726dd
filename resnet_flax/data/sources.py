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

import numpy as np

from resnet_flax.errors import UserError, nearest


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
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A dataset that can be had: its class names and how to decode it.

    `decode(folder)` returns split name -> Split; `folder` is where the prepared dataset lies, None for what needs none.
    `prepared` is that folder's path below TFDS's data directory, `host` where TFDS downloads it from.
    """

    classes: tuple[str, ...]
    decode: Callable[[Path], dict[str, Split]]
    prepared: str = ""
    host: str = ""


def decode_digits(folder: Path) -> dict[str, Split]:
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
    """Every split of the TFDS dataset at DATA_DIR/NAME/VERSION, downloaded and prepared where it is not."""
    import tensorflow_datasets as tfds  # imports TensorFlow, two seconds

    builder = tfds.builder(f"{folder.parent.name}:{folder.name}", data_dir=str(folder.parent.parent))
    builder.download_and_prepare()
    return {
        name: Split(data["image"], data["label"].astype(np.int32))
        for name, data in tfds.as_numpy(builder.as_dataset(batch_size=-1)).items()
    }


CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

SOURCES: dict[str, Source] = {
    "digits": Source(tuple("0123456789"), decode_digits),
    "cifar10": Source(CIFAR10_CLASSES, decode_tfds, prepared="cifar10/3.0.2", host="https://www.cs.toronto.edu"),
}


def load(config) -> Dataset:
    """The dataset that `config.data` describes, as memory-mapped arrays.

    Raises UserError for a dataset that is neither here nor to be downloaded, and for splits that it has not, that are
    empty or that share examples.
    """
    source = SOURCES[config.name]
    folder = find_arrays(config.name, source, config.dir)
    spans = {role: config[role] for role in ("train", "validation", "test") if config[role]}
    slices = {role: parse_split(text, folder) for role, text in spans.items()}
    refuse_shared_examples(slices, spans)
    refuse_exchanged(slices, spans)
    splits = {role: read_split(folder, name, part) for role, (name, part) in slices.items()}
    if config.train_examples:
        train = splits["train"]
        splits["train"] = Split(train.images[: config.train_examples], train.labels[: config.train_examples])
    return Dataset(splits["train"], splits.get("validation"), splits.get("test"), source.classes)


def load_split(config, text: str) -> tuple[str, Split]:
    """(what it is called, the examples) of a split of `config.data`.

    `text` is train, validation or test, which is what the config says that it is, or else a split as TFDS writes one,
    such as train[:500] or train[:] for all of it. Raises UserError where there is no such split.
    """
    if text in ("train", "validation", "test"):
        if not config[text]:
            raise UserError(f"config.data.{text} is empty: there is no such split")
        return config[text], getattr(load(config), text)
    folder = find_arrays(config.name, SOURCES[config.name], config.dir)
    return text, read_split(folder, *parse_split(text, folder))


def cache_folder() -> Path:
    """Where decoded datasets and compiled programs are kept between runs: XDG_CACHE_HOME/resnet_flax."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "resnet_flax"


def find_arrays(name: str, source: Source, directory: str) -> Path:
    """The folder with SPLIT_images.npy and SPLIT_labels.npy of a dataset, made if need be.

    `directory` may itself be such a folder; otherwise it is TFDS's data directory.
    """
    root = Path(directory or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser().resolve()
    if directory and list(root.glob("*_images.npy")):
        return root
    prepared = root / source.prepared
    place = hashlib.sha256(str(prepared).encode()).hexdigest()[:12] if source.prepared else "embedded"
    arrays = cache_folder() / "datasets" / f"{name}-{place}"
    if not arrays.is_dir():
        if source.prepared and not (prepared / "dataset_info.json").is_file() and not reachable(source.host):
            raise UserError(
                f"dataset {name!r} is not at {prepared} and {source.host} cannot be reached to download it: point "
                f"TFDS_DATA_DIR or --config.data.dir at a folder that holds {source.prepared}"
            )
        write_arrays(source.decode(prepared), arrays)
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


SPLIT_PATTERN = re.compile(r"(\w+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?")


def parse_split(text: str, folder: Path) -> tuple[str, range]:
    """("train", range(0, 45000)) for "train[:90%]", as TFDS's slicing reads it (percentages round to the nearest)."""
    match = SPLIT_PATTERN.fullmatch(text)
    if not match:
        raise UserError(f"split {text!r} must look like train, train[:90%] or train[45000:]")
    name, start, stop = match.groups()
    if start and stop and start.endswith("%") != stop.endswith("%"):
        raise UserError(f"split {text!r} mixes percentages and numbers of examples")
    names = [path.name.removesuffix("_labels.npy") for path in folder.glob("*_labels.npy")]
    if name not in names:
        raise UserError(f"unknown split {name!r}: {nearest(name, names)}")
    size = len(np.load(folder / f"{name}_labels.npy", mmap_mode="r"))

    def position(bound: str | None, default: int) -> int:
        if bound is None:
            return default
        value = round(int(bound[:-1]) / 100 * size) if bound.endswith("%") else int(bound)
        return value + size if value < 0 else value

    part = range(position(start, 0), position(stop, size))
    if not 0 <= part.start < part.stop <= size:
        raise UserError(f"split {text!r} is examples {part.start} to {part.stop} of {size}")
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


def read_split(folder: Path, name: str, part: range) -> Split:
    """Examples `part` of a saved split; the images stay on disk until they are read."""
    at = slice(part.start, part.stop)
    images = np.load(folder / f"{name}_images.npy", mmap_mode="r")[at]
    labels = np.load(folder / f"{name}_labels.npy")[at].astype(np.int32)
    return Split(images, labels)
