"""The state before the first step: new weights, or trained ones from which a run starts (config.train.init_from)."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import FrozenConfigDict

from resnet_flax.config.checks import complete
from resnet_flax.config.stored import CONFIG_KEY
from resnet_flax.errors import UserError
from resnet_flax.models.resnet import Variables
from resnet_flax.models.torch_weights import Tensors, common_name, from_torch, to_torch, torch_name
from resnet_flax.models.weight_files import read_metadata, read_weights
from resnet_flax.parallel.processes import run_in_agreement
from resnet_flax.text import print_line
from resnet_flax.training.restore import restore_checkpoint
from resnet_flax.training.run import Run
from resnet_flax.workdir.checkpoints import Checkpoint, broadcast_checkpoint
from resnet_flax.workdir.trained import display_name, find_trained, read_trained_config

HEAD = torch_name(["head", "kernel"]).rpartition(".")[0]


class InitialWeights(NamedTuple):
    """Trained weights: their name in messages, their path, and the config of their run, None if it is unknown."""

    name: str
    path: Path
    config: FrozenConfigDict | None


def first_checkpoint(run: Run, template: dict[str, Any]) -> Checkpoint:
    """Return the state before the first step of `run` as a checkpoint; `template` is this state with new weights.

    If the run starts from trained weights, "init" in the checkpoint's `run` has their name under "weights" and, under
    "sha256", the hash of their arrays in the order of their names in PyTorch. Raises UserError if they cannot be read
    or do not fit.
    """
    if not run.config.train.init_from:
        return Checkpoint(0, template)
    initial = run_in_agreement(lambda: find_initial_weights(run.config.train.init_from))
    tensors = read_tensors(initial)
    host = jax.device_get(template)
    new = dict(params=host["state"].params, batch_stats=host["state"].batch_stats)
    reason = why_new_head(initial, tensors, run.config)
    body = {name: one for name, one in tensors.items() if not common_name(name).startswith(f"{HEAD}.")}
    used = body if reason else tensors
    variables = run_in_agreement(lambda: with_weights(new, used, initial, run.config))
    average = jax.tree.map(np.copy, variables) if host["state"].average else {}
    state = host["state"].replace(**variables, average=average)
    init = {"weights": initial.name, "sha256": digest(tensors)}
    print_line(f"starting from {initial.name} (SHA-256 {init['sha256'][:12]}){reason}")
    description = run.identity | {"seconds": 0.0, "init": init}
    return broadcast(Checkpoint(0, host | {"state": state}, [], description), template)


def broadcast(checkpoint: Checkpoint, template: dict[str, Any]) -> Checkpoint:
    """Return the first process's checkpoint of NumPy arrays in all of them, on the devices of `template`."""
    found = broadcast_checkpoint(lambda: checkpoint, template)
    assert found
    return found


def find_initial_weights(name: str) -> InitialWeights:
    """Return the trained weights that config.train.init_from names, see find_trained. UserError if there are none."""
    try:
        path = find_trained(name)
        beside = path.with_name("config.json")
        says = not path.is_file() or beside.is_file() or CONFIG_KEY in read_metadata(path)
        return InitialWeights(display_name(path), path, complete(read_trained_config(path)) if says else None)
    except UserError as mistake:
        raise UserError(f"config.train.init_from: {mistake}") from None


def read_tensors(initial: InitialWeights) -> Tensors:
    """Return the weights as a state_dict: for a run, those of its best epoch, averaged if it keeps an average."""
    if initial.path.is_file():
        return run_in_agreement(lambda: read_weights(initial.path))
    assert initial.config
    return to_torch(restore_checkpoint(initial.config, initial.path).tree["state"].variables)


def why_new_head(initial: InitialWeights, tensors: Tensors, config: FrozenConfigDict) -> str:
    """Return in words why the head of trained weights does not suit the classes of `config`, "" if it does."""
    classes = config.data.classes
    if initial.config:
        count, same = len(initial.config.data.classes), initial.config.data.classes == classes
    else:
        count = sum(len(tensor) for name, tensor in tensors.items() if common_name(name) == f"{HEAD}.bias")
        same = count == len(classes)
    other = " others" if count == len(classes) else ""
    return "" if same else f"; the head is new: {len(classes)} classes instead of {count}{other}"


def with_weights(new: Variables, tensors: Tensors, initial: InitialWeights, config: FrozenConfigDict) -> Variables:
    """Return the variables `new` with trained weights in all layers; the head stays new if they have none."""
    has_head = any(common_name(name).startswith(f"{HEAD}.") for name in tensors)
    params = {name: layer for name, layer in new["params"].items() if has_head or name != "head"}
    try:
        found = from_torch(tensors, new | {"params": params})
    except UserError as misfit:
        theirs = f", which has config.model.name {initial.config.model.name!r}," if initial.config else ""
        raise UserError(f"{initial.name}{theirs} does not fit config.model {config.model.name!r}: {misfit}") from None
    return {"params": new["params"] | found["params"], "batch_stats": found.get("batch_stats", {})}


def digest(tensors: Tensors) -> str:
    """Return the SHA-256 of all arrays in the order of their names, including names, dtypes and shapes."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode() + np.ascontiguousarray(tensor).tobytes())
    return found.hexdigest()
