"""Weights from and to PyTorch, in the names that ResNet code for CIFAR commonly has (conv1, layer1.0.bn1, linear).

A final BatchNorm of a pre-activation network, which that code mostly lacks, is called bn.
"""

import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_flax.errors import UserError, reason
from resnet_flax.files import unpacked_size
from resnet_flax.text import escape_line

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
    return ", ".join(escape_line(name, 100) for name in names[:count]) + (f" and {rest} more" if rest > 0 else "")


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
