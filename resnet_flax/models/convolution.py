"""The convolution, with gradients written in the form that XLA computes fastest on a CPU.

There XLA hands a convolution to its fast kernel if its operands are laid out as (batch, H, W, channels) and (H, W,
inputs, outputs). It rewrites those that are not, but in the outermost computation alone: in a loop the gradients that
JAX derives are computed naively, dozens of times slower. Here they are in that form from the start.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

import flax.linen as nn
import jax
from jax.experimental.xla_metadata import set_xla_metadata

Pads = Sequence[tuple[int, int]]


def convolution(width: int, kernel: int, stride: int, **kwargs) -> nn.Conv:
    """A square convolution without bias, padded as PyTorch's `padding=kernel // 2`."""
    if jax.default_backend() == "cpu":
        kwargs["conv_general_dilated"] = on_cpu
    return nn.Conv(width, (kernel, kernel), (stride, stride), padding=kernel // 2, use_bias=False, **kwargs)


def on_cpu(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Pads, **_) -> jax.Array:
    """`jax.lax.conv_general_dilated` as nn.Conv calls it for a `convolution`: one stride, one padding, no groups."""
    return _convolve(x, kernel, strides[0], padding[0][0])


def _conv(x: jax.Array, kernel: jax.Array, pads: Pads, **kwargs) -> jax.Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, padding=pads, dimension_numbers=layout, **kwargs)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """(batch, H, W, I) and (K, K, I, O) -> (batch, H', W', O)."""
    return _conv(x, kernel, [(padding, padding)] * 2, window_strides=(stride, stride))


def _forward(x, kernel, stride, padding):
    return _convolve(x, kernel, stride, padding), (x, kernel)


def _backward(stride, padding, saved, gradient):
    x, kernel = saved
    # Inlined, what made x and the gradient would be fused into their transposition: computed again, in strides. But in
    # a computation of its own a sum over devices would come at any time, and they would wait for different ones.
    apart = set_xla_metadata(inlineable="false") if jax.device_count() == 1 else nullcontext()
    with apart:
        of_kernel = _kernel_gradient(x, gradient, kernel.shape[0], stride, padding)
    return _input_gradient(x.shape, kernel, gradient, stride, padding), of_kernel


_convolve.defvjp(_forward, _backward)


def _input_gradient(shape: tuple[int, ...], kernel: jax.Array, gradient: jax.Array, stride: int, padding: int):
    """The gradient spread out by the stride, convolved with the kernel turned round."""
    before = kernel.shape[0] - 1 - padding
    spreads = zip(shape[1:3], _spread(gradient, stride), strict=True)
    pads = [(before, pixels + padding - spread) for pixels, spread in spreads]
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    return _conv(gradient, turned, pads, window_strides=(1, 1), lhs_dilation=(stride, stride))


@partial(jax.jit, static_argnums=(2, 3, 4))
def _kernel_gradient(x: jax.Array, gradient: jax.Array, size: int, stride: int, padding: int):
    """The images convolved with the gradient: channels take the place of the batch, and the batch of the channels."""
    spreads = zip(x.shape[1:3], _spread(gradient, stride), strict=True)
    pads = [(padding, spread + size - 1 - padding - pixels) for pixels, spread in spreads]
    images, kernels = x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3)
    return _conv(images, kernels, pads, window_strides=(1, 1), rhs_dilation=(stride, stride)).transpose(1, 2, 0, 3)


def _spread(gradient: jax.Array, stride: int) -> list[int]:
    """The height and width of a gradient whose pixels lie `stride` apart."""
    return [stride * (pixels - 1) + 1 for pixels in gradient.shape[1:3]]
