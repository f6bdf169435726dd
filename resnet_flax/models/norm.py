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
        return scale_and_shift(offset, factor, bias - mean * factor).astype(x.dtype)

    def moments(self, x: jax.Array) -> tuple[jax.Array, jax.Array, int]:
        """Return mean and biased variance per channel, in one pass over `x`, and the number of values per channel."""
        count = x.size // x.shape[-1]
        sums = jnp.stack(sums_of_powers(x)) / count
        if self.axis_name is not None:
            sums = jax.lax.pmean(sums, self.axis_name)
            count *= jax.lax.axis_size(self.axis_name)
        mean, mean_square = sums
        return mean, jnp.maximum(mean_square - jnp.square(mean), 0.0), count


def channel_sums(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the sums per channel, (C,) each, of two arrays of the same shape (batch, H, W, C) and dtype.

    On one GPU they are one reduction of pairs: two would end in a kernel each. For several GPUs XLA gathers what each
    has of a pair instead of adding it up, so there, and where pairs have not been tried, the sums are separate.
    """
    if jax.default_backend() != "gpu" or jax.device_count() > 1:
        return a.sum((0, 1, 2)), b.sum((0, 1, 2))
    zero = jnp.zeros((), a.dtype)
    return jax.lax.reduce((a, b), (zero, zero), _add_pairs, (0, 1, 2))


def _add_pairs(left: tuple, right: tuple) -> tuple:
    return left[0] + right[0], left[1] + right[1]


# The gradients below are those that JAX would derive, with their sums in pairs.


@jax.custom_vjp
def sums_of_powers(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the sums per channel, (C,) each, of `x` (batch, H, W, C) and of its square."""
    return channel_sums(x, jnp.square(x))


def _sums_of_powers_backward(x, gradients):
    of_sum, of_square_sum = gradients
    return (of_sum + 2 * x * of_square_sum,)


sums_of_powers.defvjp(lambda x: (sums_of_powers(x), x), _sums_of_powers_backward)


@jax.custom_vjp
def scale_and_shift(x: jax.Array, factor: jax.Array, shift: jax.Array) -> jax.Array:
    """Return `x` (batch, H, W, C) times a factor per channel, (C,), plus a shift per channel, (C,)."""
    return x * factor + shift


def _scale_and_shift_forward(x, factor, shift):
    return scale_and_shift(x, factor, shift), (x, factor)


def _scale_and_shift_backward(saved, gradient):
    x, factor = saved
    return gradient * factor, *channel_sums(gradient * x, gradient)


scale_and_shift.defvjp(_scale_and_shift_forward, _scale_and_shift_backward)
