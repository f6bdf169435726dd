"""A batch as the network sees it in training: its examples mixed with each other, if the config says so."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from resnet_flax.data.augment.mixing import Mixing, draw_shares, mix

# What is right in training, wherever the training accuracy of a run that mixes is shown.
COUNTED = "mixed images, by the class with the larger share"


class Examples(NamedTuple):
    """A batch as the network sees it: images, and one label or two mixed ones for each."""

    image: jax.Array  # (batch, H, W, 3) float32
    label: jax.Array  # (batch,) int32
    other: jax.Array | None = None  # (batch,) int32, the labels mixed in
    share: jax.Array | float = 1.0  # (1,) float32, of `label`

    def targets(self, classes: int) -> jax.Array:
        """Return the probability of each class, (batch, classes) float32."""
        own = jax.nn.one_hot(self.label, classes)
        return own if self.other is None else mix(own, jax.nn.one_hot(self.other, classes), self.share)

    def answers(self) -> jax.Array:
        """Return the label with the larger share of each image, (batch,) int32, its own if both are equal."""
        return self.label if self.other is None else jnp.where(self.share >= 0.5, self.label, self.other)


def mix_batch(batch: dict, mixing: Mixing, seed: chex.Numeric, step: jax.Array, axis_name: str | None) -> Examples:
    """Return the batch of a step, mixed if that is on; under a mapped axis `axis_name` it is this device's share."""
    image, label = batch["image"], batch["label"]
    if not mixing.on:
        return Examples(image, label)
    shares = draw_shares(jnp, mixing, seed, step, image.shape[1:3])
    other, other_label = (row_before(rows, axis_name) for rows in (image, label))
    return Examples(mix(image, other, shares.pixels), label, other_label, shares.label)


def row_before(rows: jax.Array, axis_name: str | None) -> jax.Array:
    """Return for each row of the whole batch the one before it, wherever that lies; for the first one the last."""
    if axis_name is None:
        return jnp.roll(rows, 1, axis=0)
    devices = jax.lax.axis_size(axis_name)
    to_next = [(device, (device + 1) % devices) for device in range(devices)]
    return jnp.concatenate([jax.lax.ppermute(rows[-1:], axis_name, to_next), rows[:-1]])
