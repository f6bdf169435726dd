"""Load the splits that a config names."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from resnet_flax.cache import cache_folder
from resnet_flax.data.datasets.arrays import Split, read_arrays, read_split, write_arrays
from resnet_flax.data.datasets.sources import SOURCES
from resnet_flax.data.datasets.splits import parse_split, refuse_shared_examples, refuse_swapped_splits
from resnet_flax.errors import UserError


@dataclass(frozen=True)
class Dataset:
    """The splits of a run; `validation` is None where nothing is held out, `test` where nothing is tested."""

    train: Split
    validation: Split | None
    test: Split | None


# Splits that a dataset has beside train -> what is trained on, validated on and tested on unless the config says.
USUAL_SPLITS = {
    frozenset(): ("train[:80%]", "train[80%:90%]", "train[90%:]"),
    frozenset({"test"}): ("train[:90%]", "train[90%:]", "test"),
    frozenset({"validation"}): ("train[:90%]", "validation", "train[90%:]"),
    frozenset({"test", "validation"}): ("train", "validation", "test"),
}


ROLES = ("train", "validation", "test")


def fill_from_dataset(config: ConfigDict) -> None:
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


def image_shape(config: ConfigDict) -> tuple[int, int, int]:
    """(height, width, 3) of the images of `config.data`."""
    return config.image_size, config.image_size, 3


def load_dataset(config: ConfigDict) -> Dataset:
    """The dataset that a complete `config.data` describes, as memory-mapped arrays.

    Raises UserError for a dataset that is neither here nor to be downloaded, and for splits that it has not, that are
    empty or that share examples.
    """
    folder = find_arrays(config)
    texts = {role: config[role] for role in ROLES if config[role]}
    slices = {role: parse_split(text, folder) for role, text in texts.items()}
    refuse_shared_examples(slices, texts)
    refuse_swapped_splits(slices, texts)
    splits = {role: read_split(folder, *find_slice(config, folder, role), len(config.classes)) for role in slices}
    return Dataset(splits["train"], splits.get("validation"), splits.get("test"))


def load_split(config: ConfigDict, split: str) -> tuple[str, Split]:
    """Return (what it is called, the examples) of one split of a complete `config.data`, see find_slice."""
    folder = find_arrays(config)
    name, part = find_slice(config, folder, split)
    return config[split] if split in ROLES else split, read_split(folder, name, part, len(config.classes))


def find_slice(config: ConfigDict, folder: Path, split: str) -> tuple[str, range]:
    """Return (name, examples) of a split of a complete `config.data`, whose arrays are in `folder`.

    `split` is train, validation or test, which is what the config says that it is, or else a split as TFDS writes one,
    such as train[:500] or train[:] for all of it. Raises UserError if there is no such split.
    """
    if split in ROLES and not config[split]:
        raise UserError(f"config.data.{split} is empty: there is no such split")
    name, part = parse_split(config[split] if split in ROLES else split, folder)
    return name, part[: config.train_examples] if split == "train" and config.train_examples else part


def find_arrays(config: ConfigDict) -> Path:
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
    shape = read_arrays(arrays, next(arrays.glob("*_images.npy")).name.removesuffix("_images.npy"))[0].shape[1:]
    if shape != image_shape(config):
        size = "height and width must be the same" if shape[0] != shape[1] else f"set it to {shape[0]}"
        raise UserError(f"{config.name} has images {shape}, and config.data.image_size is {config.image_size}: {size}")
    return arrays
