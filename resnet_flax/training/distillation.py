"""Distillation (Hinton et al., 2015): the loss also compares the outputs with those of trained networks."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from resnet_flax.models.resnet import ResNet, Variables


class TeacherNetwork(NamedTuple):
    """A teacher network; its input is `scale` x images + `offset`, as its training may have normalised differently."""

    model: ResNet
    scale: np.ndarray  # (3,) float32
    offset: np.ndarray  # (3,) float32

    def logits(self, variables: Variables, images: jax.Array) -> jax.Array:
        """Return the logits (batch, classes) float32 of normalised images."""
        logits: Any = self.model.apply(variables, images * self.scale + self.offset, train=False)
        return logits


class Teacher(NamedTuple):
    """An ensemble of teacher networks, with the weight and the temperature of the distillation."""

    networks: tuple[TeacherNetwork, ...]
    temperature: float
    weight: float

    def probabilities(self, variables: tuple[Variables, ...], images: jax.Array) -> jax.Array:
        """Return the mean of the networks' probabilities at the temperature, (batch, classes) float32.

        `images` (batch, H, W, 3) are normalised for the student; `variables` has an entry for each teacher network.
        """
        pairs = zip(self.networks, variables, strict=True)
        softened = [jax.nn.softmax(network.logits(one, images) / self.temperature) for network, one in pairs]
        return jnp.mean(jnp.stack(softened), axis=0)

    def loss(self, losses: jax.Array, logits: jax.Array, probabilities: jax.Array) -> jax.Array:
        """Return (1 - weight) x losses + weight x the divergence from the teacher, (batch,) each."""
        return (1 - self.weight) * losses + self.weight * divergence(logits, probabilities, self.temperature)


def divergence(logits: jax.Array, probabilities: jax.Array, temperature: float) -> jax.Array:
    """Return temperature**2 x KL(probabilities || softmax(logits / temperature)), (batch,) float32.

    Logits are (batch, classes); probabilities are those of the teacher, at the same temperature.
    """
    chex.assert_equal_shape([logits, probabilities])
    return temperature**2 * optax.losses.kl_divergence(jax.nn.log_softmax(logits / temperature), probabilities)
