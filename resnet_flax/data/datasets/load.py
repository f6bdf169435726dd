"""Load the splits that a `config.data` names, decoding the dataset into the cache if it is not there yet."""

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from resnet_flax.cache import cache_folder, one_process
from resnet_flax.data.datasets.arrays import Split, read_arrays, read_split, write_arrays
from resnet_flax.data.datasets.sources import SOURCES
from resnet_flax.data.datasets.splits import (
    own_splits,
    parse_split,
    refuse_shared_examples,
    refuse_swapped_splits,
    split_names,
)
from resnet_flax.errors import UserError
from resnet_flax.files import user_path
from resnet_flax.text import short_repr


@dataclass(frozen=True)
class Dataset:
    """The splits of a run; `validation` and `test` are None if the config has none."""

    train: Split
    validation: Split | None
    test: Split | None


# Splits that a dataset has besides train -> the default splits to train, validate and test on.
USUAL_SPLITS = {
    frozenset(): ("train[:80%]", "train[80%:90%]", "train[90%:]"),
    frozenset({"test"}): ("train[:90%]", "train[90%:]", "test"),
    frozenset({"validation"}): ("train[:90%]", "validation", "train[90%:]"),
    frozenset({"test", "validation"}): ("train", "validation", "test"),
}

ROLES = ("train", "validation", "test")


def fill_from_dataset(config: ConfigDict) -> None:
    """Set the classes and splits that `config.data` leaves open to those of its dataset.

    If the dataset has no test split and the config says what to train on, which may be everything, there is no test
    split. Raises UserError for a folder that does not exist.
    """
    if None not in [config.classes, *(config[role] for role in ROLES)]:
        return
    classes, splits = SOURCES[config.name].contents(config)
    splits = tuple(own_splits(config.dir)) or splits  # a user's own arrays replace the images of any dataset
    settled = {*splits, *(role for role in ROLES if config[role] == "")}  # what is not to be cut out of train
    usual = dict(zip(ROLES, USUAL_SPLITS[frozenset(settled & {"validation", "test"})], strict=True))
    if config.train is not None and "test" not in splits:
        usual["test"] = ""
    for field, value in {"classes": classes, **usual}.items():
        if config[field] is None:
            config[field] = value


def image_shape(config: ConfigDict) -> tuple[int, int, int]:
    """Return (height, width, 3) of the images of `config.data`."""
    return config.image_size, config.image_size, 3


def load_dataset(config: ConfigDict) -> Dataset:
    """Return the dataset that a complete `config.data` describes, as memory-mapped arrays.

    Raises UserError for a dataset that is not on disk and cannot be downloaded, and for splits that do not exist, are
    empty or share examples.
    """
    folder = find_arrays(config)
    texts = {role: config[role] for role in ROLES if config[role]}
    slices = {role: parse_split(text, folder) for role, text in texts.items()}
    refuse_shared_examples(slices, texts)
    refuse_swapped_splits(slices, texts)
    splits = {role: read_split(folder, *find_slice(config, folder, role), len(config.classes)) for role in slices}
    return Dataset(splits["train"], splits.get("validation"), splits.get("test"))


def training_text(config: ConfigDict) -> str:
    """Return what `config.data` trains on, such as "train[:90%]" or "the first 512 of train[:90%]"."""
    return (f"the first {config.train_examples:,} of " if config.train_examples else "") + config.train


def load_split(config: ConfigDict, split: str) -> tuple[str, Split]:
    """Return (text, examples) of one split (see find_slice) of a complete `config.data`."""
    folder = find_arrays(config)
    name, part = find_slice(config, folder, split)
    text = training_text(config) if split == "train" else config[split] if split in ROLES else split
    return text, read_split(folder, name, part, len(config.classes))


def find_slice(config: ConfigDict, folder: Path, split: str) -> tuple[str, range]:
    """Return (name, examples) of a split of a complete `config.data`, whose arrays are in `folder`.

    `split` is train, validation or test, as the config defines them, or else a split in the syntax of TFDS, such as
    train[:500] or train[:] for all of it. Raises UserError if there is no such split.
    """
    if split not in ROLES:
        return parse_split(split, folder, (role for role in ROLES if config[role]))
    text, names = config[split], split_names(folder)
    if not text:
        raise UserError(f"config.data.{split} is empty: there is no such split")
    if text.partition("[")[0] not in names:
        raise UserError(
            f"config.data.{split} is {short_repr(text)}, and {config.dir or config.name} has only "
            f"{' and '.join(names)}: --split={names[-1]}[:] is all of {names[-1]}"
        )
    name, part = parse_split(text, folder)
    return name, part[: config.train_examples] if split == "train" and config.train_examples else part


def find_arrays(config: ConfigDict) -> Path:
    """Return the folder with SPLIT_images.npy and SPLIT_labels.npy of a complete `config.data`.

    This is `config.dir` if it holds such files, or else a folder in the cache, into which the dataset is decoded unless
    it is there already. Raises UserError if the images of a split do not have the config's size.
    """
    folder = user_path(config.dir) if own_splits(config.dir) else decode_once(config)
    shapes = {name: read_arrays(folder, name)[0].shape[1:] for name in split_names(folder)}
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{shape} in {name}" for name, shape in shapes.items())
        raise UserError(f"all images in {folder} must have the same shape, not {found}")
    shape = shapes.popitem()[1]
    if shape != image_shape(config):
        size = "height and width must be the same" if shape[0] != shape[1] else f"set it to {shape[0]}"
        raise UserError(
            f"{config.name} has images of shape {shape}, but config.data.image_size is {config.image_size}: {size}"
        )
    return folder


def decode_once(config: ConfigDict) -> Path:
    """Return the folder in the cache with the decoded arrays of a dataset, decoding it unless it is there and readable.

    Of the processes that share a cache, one decodes and the others wait. Older versions are then deleted.
    """
    source = SOURCES[config.name]
    place, version = source.key(config)
    place = f"{config.name}-{place}"
    cache = cache_folder()
    folder = cache / "datasets" / (f"{place}-{version}" if version else place)
    if is_readable(folder):
        return folder
    with one_process(cache / f".{place}.lock"):
        if is_readable(folder):
            return folder
        splits = source.decode(config)
        shutil.rmtree(folder, ignore_errors=True)  # damaged or empty, if it is there at all
        write_arrays(splits, folder)
        for older in set(folder.parent.glob(f"{place}-{'?' * len(version)}")) - {folder}:
            shutil.rmtree(older, ignore_errors=True)
    return folder


def is_readable(folder: Path) -> bool:
    """Return whether `folder` holds arrays, none of which is damaged as far as their headers and sizes show."""
    names = {path.name.rpartition("_")[0] for path in folder.glob("*_*.npy")}
    with contextlib.suppress(UserError):
        for name in names:
            read_arrays(folder, name)
        return bool(names)
    return False
