"""Small arrays of a tree put together in one, so that a compiled program changes them all at once.

A network has dozens of arrays with a value for each channel: scales, biases, statistics, and what an optimiser keeps
of them. Each would be a kernel or two of a training step, and take the time of its launch.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
from jax.flatten_util import ravel_pytree

Packed = dict[str, Any]  # "large": the arrays with two or more axes; a dtype: all others of it, as one vector


def packing(tree: chex.ArrayTree) -> tuple[Callable[[chex.ArrayTree], Packed], Callable[[Packed], chex.ArrayTree]]:
    """Return `pack` and its inverse `unpack`, for trees with the structure, shapes and dtypes of `tree`.

    Only on a GPU: a CPU takes longer for it, and for others both return what they get.
    """
    if jax.default_backend() != "gpu":
        return (lambda tree: tree), (lambda packed: packed)
    example, structure = jax.tree.flatten(tree)
    places: dict[str, list[int]] = {"large": []}
    for place, leaf in enumerate(example):
        places.setdefault(str(leaf.dtype) if leaf.ndim < 2 else "large", []).append(place)
    vectors = [name for name in places if name != "large"]
    unravel = {name: ravel_pytree([example[place] for place in places[name]])[1] for name in vectors}

    def pack(tree: chex.ArrayTree) -> Packed:
        leaves = jax.tree.leaves(tree)
        groups = {name: [leaves[place] for place in some] for name, some in places.items()}
        return groups | {name: ravel_pytree(groups[name])[0] for name in vectors}

    def unpack(packed: Packed) -> chex.ArrayTree:
        leaves = [None] * len(example)
        for name, some in places.items():
            values = packed[name] if name == "large" else unravel[name](packed[name])
            for place, value in zip(some, values, strict=True):
                leaves[place] = value
        return jax.tree.unflatten(structure, leaves)

    return pack, unpack


def together(tree: chex.ArrayTree) -> chex.ArrayTree:
    """Return `tree`, whose small arrays are parts of one on a GPU, which is computed before any of them is used."""
    if jax.default_backend() != "gpu":
        return tree
    pack, unpack = packing(tree)
    packed = pack(tree)
    large = {"large": packed.pop("large")}
    return unpack(jax.lax.optimization_barrier(packed) | large)
