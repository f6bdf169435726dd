"""Batch normalisation with PyTorch's conventions."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class BatchNorm(nn.Module):
    """Normalise every channel over batch, height and width (Ioffe & Szegedy, 2015), as `torch.nn.BatchNorm2d` does.

    Training uses the biased variance of the batch for the output and keeps the unbiased one in `batch_stats`, which
    `flax.linen.BatchNorm` does not. Statistics, scale and bias are float32 whatever the dtype of the input.

    Input and output: (batch, height, width, channels), any float dtype, kept.
    """

    momentum: float = 0.9  # share of the old running value; PyTorch writes it as 0.1, the share of the new one
    epsilon: float = 1e-5
    axis_name: str | None = None  # the mapped axis to average over (pmap); under jit the batch is already global

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        # All is measured from the running mean, so that no digits cancel where a mean is large against the spread.
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
        """Mean and biased variance per channel, in one pass over `x`, and the number of values each is taken over."""
        sums = jnp.stack([x.mean((0, 1, 2)), jnp.square(x).mean((0, 1, 2))])
        count = x.size // x.shape[-1]
        if self.axis_name is not None:
            sums = jax.lax.pmean(sums, self.axis_name)
            count *= jax.lax.axis_size(self.axis_name)
        mean, mean_square = sums
        return mean, jnp.maximum(mean_square - jnp.square(mean), 0.0), count
