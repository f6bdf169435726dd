"""Weights from and to PyTorch, in the names that ResNet code for CIFAR commonly has (conv1, layer1.0.bn1, linear).

A final BatchNorm of a pre-activation network, which that code mostly lacks, is called bn.
"""

import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import FrozenConfigDict

from resnet_flax import config as configs
from resnet_flax.checkpoint import Checkpoint, Checkpoints
from resnet_flax.classifier import blank, optimizer
from resnet_flax.errors import UserError, lookup, reason
from resnet_flax.files import unpacked_size
from resnet_flax.steps import TrainState
from resnet_flax.text import printable, say
from resnet_flax.workdir import claim, hold

Tensors = dict[str, np.ndarray]  # a state_dict: dotted name -> float32 array in PyTorch's layout
Variables = dict[str, dict]  # {"params": ..., "batch_stats": ...} of a ResNet

# The modules and leaves whose names differ.
MODULES = {
    "stem_conv": "conv1",
    "stem_norm": "bn1",
    "stem_whitening": "whitening",
    "entry_conv": "entry.0",
    "entry_norm": "entry.1",
    "norm1": "bn1",
    "norm2": "bn2",
    "shortcut_conv": "shortcut.0",
    "shortcut_norm": "shortcut.1",
    "final_norm": "bn",
    "head": "linear",
}
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}

NEEDS_TORCH = "{} needs PyTorch: install it (pip install '.[reference]') or take safetensors"


def torch_name(path: Sequence[str]) -> str:
    """PyTorch's name of a leaf, given its path below `params` or `batch_stats`."""
    *modules, leaf = path
    names = [MODULES.get(name, name) for name in modules] + [LEAVES[leaf]]
    return re.sub(r"stage(\d+)_block(\d+)", lambda m: f"layer{m[1]}.{int(m[2]) - 1}", ".".join(names))


def torch_axes(ndim: int) -> tuple[int, ...]:
    """The order of our axes in PyTorch: HWIO -> OIHW for a convolution, (in, out) -> (out, in) for a dense layer."""
    return (3, 2, 0, 1) if ndim == 4 else tuple(reversed(range(ndim)))


def to_torch(variables: Variables) -> Tensors:
    """The state_dict of a network, without the step counters (num_batches_tracked), which PyTorch fills in itself."""
    return {
        torch_name(path[1:]): np.array(np.transpose(leaf, torch_axes(np.ndim(leaf))), order="C")
        for path, leaf in flatten_dict(variables).items()
    }


def from_torch(tensors: Tensors, like: Variables) -> Variables:
    """The variables of a network whose shapes `like` has, from its state_dict; num_batches_tracked is ignored.

    Names may start with "module.", as torch.nn.DataParallel writes them. Raises UserError with the first names that
    are missing, unexpected or of another shape.
    """
    tensors = {
        name.removeprefix("module."): tensor
        for name, tensor in tensors.items()
        if not name.endswith("num_batches_tracked")
    }
    paths = {torch_name(path[1:]): (path, leaf.shape) for path, leaf in flatten_dict(like).items()}
    shapes = {name: tuple(shape[axis] for axis in torch_axes(len(shape))) for name, (_, shape) in paths.items()}
    misfits = {
        "missing": [name for name in shapes if name not in tensors],
        "unexpected": [name for name in tensors if name not in shapes],
        "of another shape": [
            f"{name} {tensors[name].shape} instead of {shape}"
            for name, shape in shapes.items()
            if name in tensors and tensors[name].shape != shape
        ],
    }
    if any(misfits.values()):
        raise UserError("; ".join(f"{kind}: {first(names)}" for kind, names in misfits.items() if names))
    return unflatten_dict(
        {
            path: np.ascontiguousarray(tensors[name].transpose(np.argsort(torch_axes(len(shape)))), np.float32)
            for name, (path, shape) in paths.items()
        }
    )


def first(names: list[str], count: int = 3) -> str:
    """The first few of `names`, and how many more there are."""
    rest = len(names) - count
    return ", ".join(printable(name, 100) for name in names[:count]) + (f" and {rest} more" if rest > 0 else "")


def read_safetensors(file: Path) -> Tensors:
    try:
        return safetensors.numpy.load_file(file)
    except Exception as error:  # not only SafetensorError: NumPy has not every dtype
        raise UserError(f"{file} is no safetensors file of float32 tensors: {reason(error)}") from None


def read_torch(file: Path) -> Tensors:
    """A state_dict, or the one that a checkpoint such as {"net": state_dict, "epoch": 90} holds."""
    try:
        import torch
    except ImportError:
        raise UserError(NEEDS_TORCH.format(f"reading {file}")) from None
    size = file.stat().st_size

    def is_state_dict(value: object) -> bool:
        return isinstance(value, dict) and all(
            isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items()
        )

    def as_array(tensor: torch.Tensor) -> np.ndarray:
        if tensor.numel() > size:  # a few bytes may say that they are repeated without end
            raise ValueError("a tensor is larger than the file")
        return tensor.float().numpy()

    try:
        if zipfile.is_zipfile(file) and unpacked_size(file) > size:  # PyTorch itself compresses nothing
            raise ValueError("it is compressed")
        content = torch.load(file, map_location="cpu", weights_only=True)
        candidates: Iterable = [content, *(content.values() if isinstance(content, dict) else [])]
        found = [value for value in candidates if is_state_dict(value) and value]
        if len(found) == 1:
            return {name: as_array(tensor) for name, tensor in found[0].items()}
    except Exception:  # PyTorch lets many kinds through
        raise UserError(f"{file} is damaged, or holds more than tensors: save a state_dict") from None
    raise UserError(f"{file} must hold one state_dict, and holds {len(found)}")


def write_torch(tensors: Tensors, file: Path) -> None:
    try:
        import torch
    except ImportError:
        raise UserError(NEEDS_TORCH.format(f"writing {file}")) from None
    torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, file)


READERS = {".safetensors": read_safetensors, ".pt": read_torch, ".pth": read_torch}


def import_torch(config: FrozenConfigDict, workdir: Path, file: str) -> None:
    """Make `workdir` a run of `config` that starts from the weights in `file` (.pt, .pth or .safetensors).

    Raises UserError for a file that does not fit the config's network, and for a workdir that has a run already.
    """
    path = Path(file)
    if not path.is_file():
        raise UserError(f"there is no file {file!r}" if file else "which weights? Give --file=PATH")
    tree = blank(config)
    like = {"params": tree["state"].params, "batch_stats": tree["state"].batch_stats}
    tensors = lookup("ending of a weights file", path.suffix, READERS)(path)
    try:
        variables = from_torch(tensors, like)
    except UserError as misfit:
        raise UserError(f"{file} does not fit config.model {config.model.name!r}: {misfit}") from None
    with hold(workdir), Checkpoints(workdir / "checkpoints") as checkpoints:
        claim(workdir, configs.settle(config))
        if checkpoints.steps():
            raise UserError(f"{workdir} holds a run already: choose another --workdir")
        params = jax.tree.map(jnp.asarray, variables["params"])
        averaged = config.train.ema_decay > 0
        state = TrainState.start(params, variables["batch_stats"], optimizer(config), averaged)
        state = jax.device_put(state, jax.tree.map(lambda leaf: leaf.sharding, tree["state"]))
        checkpoints.save(Checkpoint(0, tree | {"state": state}), None)
    say(f"{len(jax.tree.leaves(variables))} tensors of {file} imported into {workdir}")
