"""Small arrays of a tree packed together, so that a compiled program changes many of them at once.

A network has dozens of arrays with a value for each channel: scales, biases, statistics, and an optimiser's state for
them. Each by itself would cost a training step one or two kernel launches.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

# Arrays per vector: with many more, XLA no longer fuses all that changes it into a single kernel. If there are at most
# twice as many in total, they are one vector.
ARRAYS_PER_VECTOR = 48
WORD = jnp.dtype("uint32")


class Packed(NamedTuple):
    """The arrays of a tree."""

    large: list[jax.Array]  # those with two or more axes, and those whose values do not have 32 bits
    vectors: list[jax.Array]  # the bits of all others, uint32


def packing(
    tree: chex.ArrayTree,
) -> tuple[Callable[[chex.ArrayTree], Packed], Callable[[Packed], chex.ArrayTree]]:
    """Return `pack` and its inverse `unpack`, for trees with the structure, shapes and dtypes of `tree`.

    Only on a GPU; elsewhere both return their argument, as packing makes a CPU slower.
    """
    if jax.default_backend() != "gpu":
        return (lambda tree: tree), (lambda packed: packed)
    example, structure = jax.tree.flatten(tree)
    small = [place for place, leaf in enumerate(example) if leaf.ndim < 2 and leaf.dtype.itemsize == WORD.itemsize]
    large = sorted(set(range(len(example))) - set(small))
    most = ARRAYS_PER_VECTOR if len(small) > 2 * ARRAYS_PER_VECTOR else 2 * ARRAYS_PER_VECTOR
    groups = [small[start : start + most] for start in range(0, len(small), most)]

    def pack(tree: chex.ArrayTree) -> Packed:
        leaves = jax.tree.leaves(tree)
        words = [[jax.lax.bitcast_convert_type(leaves[place].ravel(), WORD) for place in group] for group in groups]
        return Packed([leaves[place] for place in large], [jnp.concatenate(group) for group in words])

    def unpack(packed: Packed) -> chex.ArrayTree:
        leaves = dict(zip(large, packed.large, strict=True))
        for group, vector in zip(groups, packed.vectors, strict=True):
            ends = np.cumsum([example[place].size for place in group])
            for place, words in zip(group, jnp.split(vector, ends[:-1]), strict=True):
                leaf = example[place]
                leaves[place] = jax.lax.bitcast_convert_type(words, leaf.dtype).reshape(leaf.shape)
        return jax.tree.unflatten(structure, [leaves[place] for place in range(len(example))])

    return pack, unpack


def together(tree: chex.ArrayTree) -> chex.ArrayTree:
    """Return `tree`; on a GPU its small arrays are parts of a few larger ones, computed before any of them is used."""
    if jax.default_backend() != "gpu":
        return tree
    pack, unpack = packing(tree)
    packed = pack(tree)
    return unpack(packed._replace(vectors=jax.lax.optimization_barrier(packed.vectors)))
