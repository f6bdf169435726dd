"""Read the teacher networks of a run, from runs and exported weights, and check them against the run's config."""

import jax
import numpy as np
from ml_collections import FrozenConfigDict

from resnet_flax import models
from resnet_flax.config.checks import complete
from resnet_flax.data.augment.policy import Policy
from resnet_flax.data.datasets.load import image_shape
from resnet_flax.errors import UserError
from resnet_flax.models.resnet import Variables
from resnet_flax.text import listed
from resnet_flax.training.distillation import Teacher, TeacherNetwork
from resnet_flax.training.restore import restore_checkpoint
from resnet_flax.workdir.checkpoints import arrays_checksum
from resnet_flax.workdir.trained import find_trained, read_trained_config


def load_teacher(config: FrozenConfigDict) -> tuple[Teacher | None, tuple[Variables, ...]]:
    """Return the teacher of a complete `config` and the variables of its networks; (None, ()) if it has none.

    Raises UserError if a network is missing, or has other classes or images of another size.
    """
    if not teacher_names(config):
        return None, ()
    try:
        found = [load_network(config, name) for name in teacher_names(config)]
    except UserError as mistake:
        raise UserError(f"config.train.teacher: {mistake}") from None
    networks, variables = zip(*found, strict=True)
    return Teacher(networks, config.train.teacher_temperature, config.train.teacher_weight), variables


def teacher_names(config: FrozenConfigDict) -> list[str]:
    return [name.strip() for name in config.train.teacher.split(",") if name.strip()]


def load_network(config: FrozenConfigDict, name: str) -> tuple[TeacherNetwork, Variables]:
    """Return the network that `name` names, for images normalised as those of `config`, and its variables."""
    teacher, variables = read_network(name)
    check_agreement(config, teacher, name)
    mean, std = normalization(teacher)
    own_mean, own_std = normalization(config)
    scale, offset = own_std / std, (own_mean - mean) / std
    return TeacherNetwork(models.build(teacher), scale.astype(np.float32), offset.astype(np.float32)), variables


def normalization(config: FrozenConfigDict) -> np.ndarray:
    """Return the mean and standard deviation of each channel, (2, 3) float64, with which a run normalises images."""
    return np.asarray(Policy(config.data.policy).normalization, np.float64)


def read_network(name: str) -> tuple[FrozenConfigDict, Variables]:
    """Return the config and the variables of the trained network that `name` names, see find_trained."""
    path = find_trained(name)
    if jax.process_count() > 1 and not path.is_file():  # restoring a run is a step that all processes take together
        raise UserError(f"several processes need {path} as a file: export it to a .safetensors that all can read")
    config = complete(read_trained_config(path))
    return config, jax.device_get(restore_checkpoint(config, path).tree["state"].variables)


def check_agreement(config: FrozenConfigDict, teacher: FrozenConfigDict, name: str) -> None:
    """Raise UserError unless the network `name` has the classes and the images of `config`."""
    if tuple(teacher.data.classes) != tuple(config.data.classes):
        theirs, ours = (listed(one.data.classes) for one in (teacher, config))
        raise UserError(f"{name} has the classes {theirs}, and config.data.classes are {ours}: they must be the same")
    theirs, ours = (f"{shape[0]}x{shape[1]}" for shape in (image_shape(teacher.data), image_shape(config.data)))
    if theirs != ours:
        raise UserError(f"{name} takes images of {theirs} pixels, but those of config.data have {ours}")


def checksums(config: FrozenConfigDict, variables: tuple[Variables, ...]) -> dict[str, str]:
    """Return the CRC-32 over all arrays of each of the teacher's networks, by name: a dict that JSON can hold."""
    return {name: f"{arrays_checksum(one):08x}" for name, one in zip(teacher_names(config), variables, strict=True)}
