"""Leakage: held-out images on which the networks that a run starts from, or learns from, were trained."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from ml_collections import ConfigDict, FrozenConfigDict

from resnet_flax.config.checks import complete
from resnet_flax.data.datasets.fingerprint import SplitContents, examples_of, place, share_examples
from resnet_flax.data.datasets.load import find_arrays, training_text
from resnet_flax.errors import UserError
from resnet_flax.training.teacher import teacher_names
from resnet_flax.workdir import hub
from resnet_flax.workdir.trained import find_trained, read_trained_config


def leakage_notes(config: FrozenConfigDict, splits: Iterable[str]) -> Iterator[str]:
    """Yield a warning for each split of a complete `config` and each of its `ancestors` that was trained on it.

    Networks whose data are unknown, or of another dataset, folder or image size, are assumed not to have seen it.
    """
    for name, theirs in ancestors(config, set()):
        if place(theirs) != place(config.data):
            continue
        folder = find_arrays(config.data)
        seen = trained_on(theirs, folder)
        for split in splits:
            if seen and share_examples(examples_of(config.data, folder, split), seen):
                training = training_text(theirs)
                yield f"{name} was trained on {training}, so accuracy on {split} says little about new images"


def ancestors(config: FrozenConfigDict, known: set[str]) -> Iterator[tuple[str, ConfigDict]]:
    """Yield the name and `data` of each network that a run starts or learns from, and of those before it.

    Those in `known`, those whose config cannot be read, and those before a downloaded one, are left out.
    """
    for name in [config.train.init_from, *teacher_names(config)]:
        if name and name not in known:
            known.add(name)
            with contextlib.suppress(UserError):
                theirs = complete(read_trained_config(find_trained(name)))
                yield name, theirs.data
                if not name.startswith(hub.PREFIX):  # its config is another's, and may name networks to download
                    yield from ancestors(theirs, known)


def trained_on(data: ConfigDict, folder: Path) -> SplitContents | None:
    """Return the examples in `folder` on which a run with this `data` was trained, None if they are no longer there."""
    with contextlib.suppress(UserError):
        return examples_of(data, folder, "train")
    return None
