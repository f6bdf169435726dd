"""A batch as the network sees it in training: its examples mixed with each other if the config says so."""

from itertools import accumulate, repeat
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from resnet_flax.data.augment.mixing import Mixing, mixed

# What the training accuracy of a run that mixes refers to, wherever it is shown.
MIXED_ACCURACY = "mixed images, by the class with the largest share"


class TrainBatch(NamedTuple):
    """A batch as the network sees it: images, each with a label or, if mixed, several."""

    image: jax.Array  # (batch, H, W, 3) float32
    labels: tuple[jax.Array, ...]  # (batch,) int32 each, the image's own first
    shares: tuple[jax.Array | float, ...] = (1.0,)  # (1,) float32 each, one for each of `labels`

    def targets(self, classes: int) -> jax.Array:
        """Return the probability of each class, (batch, classes) float32."""
        first, *others = (
            share * jax.nn.one_hot(label, classes) for label, share in zip(self.labels, self.shares, strict=True)
        )
        return sum(others, first)

    def dominant_labels(self) -> jax.Array:
        """Return the class with the largest share in each image, (batch,) int32; the first one in a tie."""
        if len(self.labels) == 1:
            return self.labels[0]
        labels = jnp.stack(self.labels, 1)
        shares = sum(share * (labels == label[:, None]) for label, share in zip(self.labels, self.shares, strict=True))
        return jnp.take_along_axis(labels, jnp.argmax(shares, 1)[:, None], 1)[:, 0]


def mix_batch(batch: dict, mixing: Mixing, seed: chex.Numeric, step: jax.Array, axis_name: str | None) -> TrainBatch:
    """Return the batch of a step, mixed if mixing is on; under a mapped axis `axis_name`, this device's share of it."""
    images, labels = (with_rows_before(batch[name], mixing.images, axis_name) for name in ("image", "label"))
    image, shares = mixed(jnp, mixing, seed, step, images)
    return TrainBatch(image, labels, shares)


def with_rows_before(rows: jax.Array, count: int, axis_name: str | None) -> tuple[jax.Array, ...]:
    """Return `count` arrays: `rows`, then in place of each row the one before it, the one before that, and so on."""
    return tuple(accumulate(repeat(axis_name, count - 1), row_before, initial=rows))


def row_before(rows: jax.Array, axis_name: str | None) -> jax.Array:
    """Return, for each row, the one before it in the whole batch, on whichever device; for the first one, the last."""
    if axis_name is None:
        return jnp.roll(rows, 1, axis=0)
    devices = jax.lax.axis_size(axis_name)
    to_next = [(device, (device + 1) % devices) for device in range(devices)]
    return jnp.concatenate([jax.lax.ppermute(rows[-1:], axis_name, to_next), rows[:-1]])
