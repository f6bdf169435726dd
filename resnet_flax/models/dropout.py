"""Dropout whose random numbers cost less than the layer around it."""

import zlib
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_flax.hashing import mix


class Dropout(nn.Dropout):
    """Flax's dropout, with a hash of (key, path of the layer, position) instead of the stronger and slower threefry.

    The position is in the global array, so the result does not depend on the number of devices.
    """

    axis_name: str | None = None  # mapped axis over which the first axis of the input is spread

    @nn.compact
    def __call__(self, inputs: Any, deterministic: bool | None = None, rng: jax.Array | None = None) -> Any:
        if nn.merge_param("deterministic", self.deterministic, deterministic) or self.rate == 0:
            return inputs
        key = jax.random.key_data(self._key() if rng is None else rng)
        shape = tuple(1 if axis in self.broadcast_dims else size for axis, size in enumerate(inputs.shape))
        first_row = jax.lax.axis_index(self.axis_name) * shape[0] if self.axis_name else 0
        keep = uniform_bits(key, "/".join(self.path), shape, first_row) >= jnp.uint32(round(self.rate * 2**32))
        return jnp.where(keep, inputs / (1 - self.rate), 0)

    def _key(self) -> jax.Array:
        """Return the key that all layers share; make_rng would hash it with the path, using threefry."""
        if self.scope is None or not self.has_rng(self.rng_collection):
            return self.make_rng(self.rng_collection)  # raises an error that says which key is missing
        return self.scope.rngs[self.rng_collection].rng


def uniform_bits(key: jax.Array, name: str, shape: tuple[int, ...], first_row: chex.Numeric) -> jax.Array:
    """Return uint32 values of `shape` (size below 2**32), functions of `key` (2,) uint32, `name` and their positions.

    They are a slice of a larger array: its rows from `first_row` on.
    """
    first, second = mix(jnp, key + jnp.uint32(zlib.crc32(name.encode())))
    position = jax.lax.broadcasted_iota(jnp.uint32, shape, 0) + jnp.uint32(first_row)
    for axis, size in list(enumerate(shape))[1:]:
        position = position * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    # Two rounds, because after one the counters of two layers overlap.
    return mix(jnp, mix(jnp, position + first) ^ second)
