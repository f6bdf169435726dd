"""Batch normalisation with PyTorch's conventions."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp


class BatchNorm(nn.Module):
    """Normalise each channel over batch, height and width (Ioffe & Szegedy, 2015), like `torch.nn.BatchNorm2d`.

    In training the output uses the biased variance of the batch, and `batch_stats` the unbiased one, unlike
    `flax.linen.BatchNorm`. Statistics, scale and bias are float32 whatever the dtype of the input.

    Input and output: (batch, height, width, channels), any float dtype; the output has that of the input.
    """

    momentum: float = 0.9  # weight of the old running value; PyTorch's momentum, 0.1, is that of the new one
    epsilon: float = 1e-5
    scale_init: Callable[..., jax.Array] = nn.initializers.ones
    axis_name: str | None = None  # mapped axis to average over, for pmap; under jit the batch is global already

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        # Relative to the running mean, as E[x^2] - E[x]^2 loses its digits if the mean is large against the deviation.
        offset = x.astype(jnp.float32) - running_mean.value
        if train:
            mean, var, count = self.moments(offset)
            if not self.is_initializing():
                blend = 1 - self.momentum
                running_mean.value += blend * mean
                running_var.value += blend * (var * (count / max(count - 1, 1)) - running_var.value)
        else:
            mean, var = jnp.zeros(shape), running_var.value
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return (offset * factor + (bias - mean * factor)).astype(x.dtype)

    def moments(self, x: jax.Array) -> tuple[jax.Array, jax.Array, int]:
        """Return mean and biased variance per channel, in one pass over `x`, and the number of values per channel."""
        sums = jnp.stack([x.mean((0, 1, 2)), jnp.square(x).mean((0, 1, 2))])
        count = x.size // x.shape[-1]
        if self.axis_name is not None:
            sums = jax.lax.pmean(sums, self.axis_name)
            count *= jax.lax.axis_size(self.axis_name)
        mean, mean_square = sums
        return mean, jnp.maximum(mean_square - jnp.square(mean), 0.0), count
