"""Leakage: held-out images on which the networks that a run starts from, or learns from, were trained."""

import contextlib
from collections.abc import Iterable, Iterator

from ml_collections import ConfigDict, FrozenConfigDict

from resnet_flax.config.checks import complete
from resnet_flax.data.datasets.fingerprint import examples_of, overlap
from resnet_flax.data.datasets.load import find_arrays
from resnet_flax.data.datasets.splits import split_names
from resnet_flax.errors import UserError
from resnet_flax.files import user_path
from resnet_flax.training.teacher import teacher_names
from resnet_flax.workdir.trained import find_trained, read_trained_config


def leakage_notes(config: FrozenConfigDict, splits: Iterable[str]) -> Iterator[str]:
    """Yield a warning for each split of a complete `config` and each network of its init_from and teacher that saw it.

    Networks whose data are unknown, or of another dataset, folder or image size, are taken not to have seen it.
    """
    sources = [config.train.init_from, *teacher_names(config)]
    for name, theirs in ((name, data_of(name)) for name in sources if name):
        if theirs is None or place(theirs) != place(config.data):
            continue
        folder = find_arrays(config.data)
        for split in splits:
            if overlap(examples_of(config.data, folder, split), examples_of(theirs, folder, "train")):
                yield f"{name} was trained on {theirs.train}, so accuracy on {split} says little about new images"


def data_of(name: str) -> ConfigDict | None:
    """Return the `data` of the config with which the network `name` was trained, None if it is not known."""
    with contextlib.suppress(UserError):
        return complete(read_trained_config(find_trained(name))).data
    return None


def place(data: ConfigDict) -> tuple[str, str, int]:
    """Return what two runs on the same data have in common; a dataset of TFDS is the same in any folder."""
    folder = user_path(data.dir).resolve()
    own_images = data.name == "folder" or (data.dir and split_names(folder))
    return data.name, str(folder) if own_images else "", data.image_size
