"""The weights of a network under PyTorch's names, and back.

Names are written as is common in ResNet code for CIFAR (conv1, layer1.0.bn1, shortcut.0, linear); those of torchvision
and timm are read, too. The final BatchNorm of a pre-activation network, which such code mostly lacks, is bn.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_flax.errors import UserError
from resnet_flax.models.resnet import Variables
from resnet_flax.text import listed

Tensors = dict[str, np.ndarray]  # a state_dict: dotted name -> float32 array in PyTorch's layout

# Our modules and leaves that have other names in PyTorch.
MODULES = {
    "stem_conv": "conv1",
    "stem_norm": "bn1",
    "stem_whitening": "whitening",
    "entry_conv": "entry.0",
    "entry_norm": "entry.1",
    "norm1": "bn1",
    "norm2": "bn2",
    "norm3": "bn3",
    "shortcut_conv": "shortcut.0",
    "shortcut_norm": "shortcut.1",
    "pooled_shortcut_conv": "shortcut.1",  # 0 is the pooling
    "pooled_shortcut_norm": "shortcut.2",
    "final_norm": "bn",
    "head": "linear",
}
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}

SYNONYMS = {"downsample": "shortcut", "fc": "linear"}  # of torchvision and timm
# What DataParallel, torch.compile and the usual attributes of a training class put before or into a name.
WRAPPERS = {"module", "_orig_mod", "model", "net"}


def torch_name(path: Sequence[str]) -> str:
    """Return PyTorch's name of a leaf, given its path below `params` or `batch_stats`."""
    *modules, leaf = path
    names = [MODULES.get(name, name) for name in modules] + [LEAVES.get(leaf, leaf)]
    return re.sub(r"stage(\d+)_block(\d+)", lambda m: f"layer{m[1]}.{int(m[2]) - 1}", ".".join(names))


def common_name(name: str) -> str:
    """Return a name from a file as torch_name would write it."""
    return ".".join(SYNONYMS.get(part, part) for part in name.split(".") if part not in WRAPPERS)


def torch_axes(ndim: int) -> tuple[int, ...]:
    """Return our axes in PyTorch's order: HWIO -> OIHW for convolutions, (in, out) -> (out, in) for dense layers."""
    return (3, 2, 0, 1) if ndim == 4 else tuple(reversed(range(ndim)))


def to_torch(variables: Variables) -> Tensors:
    """Return the state_dict of a network, without the counters (num_batches_tracked) that PyTorch adds itself."""
    leaves = flatten_dict(variables)
    refuse_equal_names(leaves)
    return {
        torch_name(path[1:]): np.array(np.transpose(leaf, torch_axes(np.ndim(leaf))), order="C")
        for path, leaf in leaves.items()
    }


def refuse_equal_names(paths: Iterable[Sequence[str]]) -> None:
    """Raise UserError if two leaves have the same name in PyTorch, such as a kernel and a scale of one module."""
    counts = Counter(torch_name(path[1:]) for path in paths)
    if equal := [name for name, count in counts.items() if count > 1]:
        raise UserError(f"several parameters are called {listed(equal)} in PyTorch: give them names of their own")


def from_torch(tensors: Tensors, like: Variables) -> Variables:
    """Return the variables of a network, shaped like `like`, from its state_dict; scalars (counters) are ignored.

    Raises UserError with the first names that are missing, unexpected, ambiguous or of another shape.
    """
    names = [name for name, tensor in tensors.items() if tensor.ndim]
    found = {common_name(name): name for name in names}
    counts = Counter(map(common_name, names))
    refuse_equal_names(flatten_dict(like))
    paths = {torch_name(path[1:]): (path, leaf.shape) for path, leaf in flatten_dict(like).items()}
    shapes = {name: tuple(shape[axis] for axis in torch_axes(len(shape))) for name, (_, shape) in paths.items()}
    misfits = {
        "missing": [name for name in shapes if name not in found],
        "unexpected": [name for name in names if common_name(name) not in shapes],
        "ambiguous": [name for name in names if counts[common_name(name)] > 1],
        "of another shape": [
            f"{found[name]} {tensors[found[name]].shape} instead of {shape}"
            for name, shape in shapes.items()
            if name in found and tensors[found[name]].shape != shape
        ],
    }
    if any(misfits.values()):
        raise UserError("; ".join(f"{kind}: {listed(names)}" for kind, names in misfits.items() if names))
    return unflatten_dict(
        {
            path: np.ascontiguousarray(tensors[found[name]].transpose(np.argsort(torch_axes(len(shape)))), np.float32)
            for name, (path, shape) in paths.items()
        }
    )
