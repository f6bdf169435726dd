"""All differences between the array namespaces that augmentation computes in.

Wherever a function of this package takes `xp`, it is numpy, jax.numpy or `tf_numpy` (TensorFlow). The formulas are
written once, against the NumPy API; only what that API cannot express, or what one compiler does badly, is here.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = Any  # np.ndarray, jax.Array or tf.Tensor, as `xp` makes them


def call_compiled(xp: Any, function: Callable[..., Array], *arguments: Array) -> Array:
    """Call `function`, compiling it first for TensorFlow, whose graphs do not fuse operations."""
    return function(*arguments) if xp in (np, jnp) else xp.jit(function)(*arguments)


def float64(xp: Any) -> AbstractContextManager:
    """Return a context in which `xp` has float64, which JAX has only on request."""
    return jax.enable_x64(True) if xp is jnp else nullcontext()


def _cond(xp: Any) -> Callable[..., Array] | None:
    """Return the conditional of a namespace that compiles for a CPU; None for others, where branches do not pay off."""
    if xp is jnp:
        return jax.lax.cond if jax.default_backend() == "cpu" else None
    return None if xp is np else xp.cond


def barrier(xp: Any, x: Array) -> Array:
    """Return the same array, computed once: a wall between operations, and between parameters and pixels.

    XLA on CPU fuses whatever it can into the loops that use it: neighbouring pixels that an operation reads are
    recomputed for each use, and the draws of an image for each of its pixels. It does not fuse across a branch, and
    cannot know that this one is always taken. Elsewhere XLA weighs fusion against recomputation itself.
    """
    cond = _cond(xp)
    if cond is None:
        return x
    always = xp.asarray(x[(0,) * len(x.shape)], xp.int32) != -(2**31)
    return cond(always, lambda: x, lambda: xp.zeros(xp.shape(x), x.dtype))


def for_few(xp: Any, chosen: Array, formula: Callable[[Array], Array], images: Array) -> Array:
    """Apply a costly `formula` to the images `chosen` (bool (B,)), expected to be few; leave the others as they are.

    On a CPU the chosen images are moved to the front and the formula is applied to a quarter of the batch, or to all
    of it in the rare case that more were chosen. An accelerator is better off without a branch.
    """
    where_chosen = xp.reshape(barrier(xp, chosen), (-1, 1, 1, 1))
    cond = _cond(xp)
    if cond is None:
        return xp.where(where_chosen, formula(images), images)
    few = max(1, images.shape[0] // 4)
    order = xp.argsort(xp.where(chosen, 0, 1), stable=True)
    place = xp.argsort(order, stable=True)
    ordered = barrier(xp, xp.take(images, order, axis=0))
    changed = cond(
        xp.sum(xp.asarray(chosen, xp.int32)) <= few,
        lambda: xp.concatenate([formula(ordered[:few]), ordered[few:]], 0),
        lambda: formula(ordered),
    )
    return xp.where(where_chosen, xp.take(changed, place, axis=0), images)


def prefers_products(xp: Any) -> bool:
    """Return whether matrix products pick pixels faster than a gather does.

    A TPU keeps the last two axes in tiles of at least 8 x 128, so pixels of three channels take some forty times their
    size, and it is strong at matrix products.
    """
    return xp is jnp and jax.default_backend() == "tpu"


def gather(xp: Any, x: Array, place: Array) -> Array:
    """Return the rows of `x` (B, M, C) at `place` (int32 (B, N, 1), all in range(M)): (B, N, C)."""
    # By default JAX checks for places out of bounds, and makes another pass over the result to mark their values.
    mode = {"mode": "promise_in_bounds"} if xp is jnp else {}
    return xp.take_along_axis(x, place, 1, **mode)


def count_rows(xp: Any, index: Array, bins: int) -> Array:
    """Count how often each of range(bins) occurs in each row of `index` (int32 (B, N)): int32 (B, bins)."""
    if xp not in (np, jnp):
        return xp.count_rows(index, bins)
    counts = xp.zeros((len(index), bins), xp.int32)
    place = (xp.arange(len(index))[:, None], index)
    if xp is jnp:
        return counts.at[place].add(1)
    np.add.at(counts, place, 1)
    return counts
