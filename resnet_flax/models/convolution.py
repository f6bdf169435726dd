"""Convolution whose gradients have the layout of XLA's fast CPU kernel, and whose kernel gradients are float32.

Several devices sum a kernel's gradient in the dtype in which each computes its part. JAX uses the convolution's,
bfloat16 on an accelerator; here it is the kernel's own, float32, in which a TPU accumulates anyway. On a GPU, JAX's
gradients are used, because cuDNN computes a float32 gradient only from float32 images.

On a CPU, XLA uses its fast kernel for operands laid out as (batch, H, W, channels) and (H, W, inputs, outputs). It
converts other layouts only in the outermost computation: inside a loop, the gradients that JAX derives are computed
naively, dozens of times slower. The gradients here have the right layout from the start. Where it is faster, a training
step on a CPU uses Winograd's algorithm; without gradients, as in evaluation, XLA's convolution is used everywhere.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.experimental.xla_metadata import set_xla_metadata

from resnet_flax.models import winograd
from resnet_flax.processor import has_full_rate_avx512

Pads = Sequence[tuple[int, int]]

# Fewest input and output channels for which Winograd's algorithm speeds up training: benchmarks/results/step.md.
FEWEST_CHANNELS = 64


def convolution(
    width: int, kernel: int, stride: int, *, use_bias: bool = False, dtype: Any = jnp.float32, **kwargs
) -> nn.Conv:
    """Return a square convolution that computes in `dtype`, padded like PyTorch's `padding=kernel // 2`."""
    if jax.default_backend() != "gpu":
        kwargs |= {"conv_general_dilated": with_gradients, "promote_dtype": _promote_all_but_kernel}
    size, strides, pad = (kernel, kernel), (stride, stride), kernel // 2
    return nn.Conv(width, size, strides, pad, use_bias=use_bias, dtype=dtype, precision=precision(dtype), **kwargs)


def precision(dtype: Any) -> jax.lax.Precision | None:
    """Return the precision at which products of `dtype` have its accuracy.

    By default, a TPU rounds float32 factors to bfloat16, and a GPU to TF32, with 10 instead of 23 bits of the fraction.
    """
    return jax.lax.Precision.HIGHEST if jnp.dtype(dtype) == jnp.float32 else None


def _promote_all_but_kernel(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, *, dtype: Any) -> tuple:
    x, bias = promote_dtype(x, bias, dtype=dtype)
    return x, kernel, bias


def with_gradients(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Pads, feature_group_count: int = 1, **_
) -> jax.Array:
    """Compute `jax.lax.conv_general_dilated` for a `convolution`: one stride, one padding.

    The result has the dtype of `x`, and the gradient of the kernel that of the kernel.
    """
    return _convolve(x, kernel, strides[0], padding[0][0], feature_group_count)


def ungrouped(kernel: jax.Array, groups: int) -> jax.Array:
    """Return (K, K, I / groups, O) as (K, K, I, O), with zeros between inputs and outputs of different groups.

    XLA has no fast CPU kernel for the gradients of a grouped convolution: multiplying by these zeros is dozens of times
    faster.
    """
    if groups == 1:
        return kernel
    height, width, inputs, outputs = kernel.shape
    split = kernel.reshape(height, width, 1, inputs, groups, outputs // groups)
    same_group = jnp.eye(groups, dtype=kernel.dtype)[:, None, :, None]
    return (split * same_group).reshape(height, width, groups * inputs, outputs)


def _conv(x: jax.Array, kernel: jax.Array, pads: Pads, **kwargs) -> jax.Array:
    kwargs |= {"padding": pads, "dimension_numbers": ("NHWC", "HWIO", "NHWC"), "precision": precision(x.dtype)}
    return jax.lax.conv_general_dilated(x, kernel, **kwargs)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: int, groups: int) -> jax.Array:
    """Convolve images (batch, H, W, I) with a kernel (K, K, I / groups, O) to (batch, H', W', O)."""
    pads, strides = [(padding, padding)] * 2, (stride, stride)
    return _conv(x, kernel.astype(x.dtype), pads, window_strides=strides, feature_group_count=groups)


def _forward(x, kernel, stride, padding, groups):
    dense = ungrouped(kernel, groups)
    if _by_winograd(x, dense, stride, padding):
        return _not_inlined(winograd.convolve, x, dense), (x, kernel)
    return _convolve(x, dense, stride, padding, 1), (x, kernel)


def _backward(stride, padding, groups, saved, gradient):
    x, kernel = saved
    dense, of_grouped = jax.vjp(partial(ungrouped, groups=groups), kernel)
    of_images, of_dense = _gradients(x, dense, stride, padding, gradient)
    return of_images, *of_grouped(of_dense)


def _gradients(x: jax.Array, kernel: jax.Array, stride: int, padding: int, gradient: jax.Array) -> tuple:
    """Return the gradients of the images and of the kernel (K, K, I, O)."""
    if _by_winograd(x, kernel, stride, padding):
        of_kernel = _not_inlined(winograd.kernel_gradient, x, gradient)
        return _not_inlined(winograd.convolve, gradient, _rotated(kernel)), of_kernel
    of_kernel = _not_inlined(_kernel_gradient, x, gradient, kernel.shape[0], stride, padding, kernel.dtype)
    return _input_gradient(x.shape, kernel.astype(x.dtype), gradient, stride, padding), of_kernel


_convolve.defvjp(_forward, _backward)


def _by_winograd(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> bool:
    """Return whether Winograd's algorithm applies and a training step is known to be faster with it."""
    applies = kernel.shape[:2] == (3, 3) and (stride, padding) == (1, 1) and x.dtype == kernel.dtype == jnp.float32
    return applies and min(kernel.shape[2:]) >= FEWEST_CHANNELS and _on_one_cpu() and not has_full_rate_avx512()


def _not_inlined(function: Callable[..., jax.Array], *arguments) -> jax.Array:
    """Call a jitted function without letting XLA inline it, where that is safe.

    XLA would fuse the producers of the arguments into the function's first operations, and recompute them there, with
    strides. With several devices the function must be inlined: in a separate computation, a sum over devices has no
    fixed place in the order of execution, so two devices could wait for different sums.
    """
    with set_xla_metadata(inlineable="false") if _on_one_cpu() else nullcontext():
        return function(*arguments)


def _on_one_cpu() -> bool:
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def _input_gradient(shape: tuple[int, ...], kernel: jax.Array, gradient: jax.Array, stride: int, padding: int):
    """Convolve the gradient, dilated by the stride, with the rotated kernel."""
    before = kernel.shape[0] - 1 - padding
    spreads = zip(shape[1:3], _spread(gradient, stride), strict=True)
    pads = [(before, pixels + padding - spread) for pixels, spread in spreads]
    return _conv(gradient, _rotated(kernel), pads, window_strides=(1, 1), lhs_dilation=(stride, stride))


def _rotated(kernel: jax.Array) -> jax.Array:
    """Return the kernel of the input gradient (K, K, O, I): rotated, with inputs and outputs exchanged."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


@partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _kernel_gradient(x: jax.Array, gradient: jax.Array, size: int, stride: int, padding: int, dtype: Any):
    """Convolve the images with the gradient, with batch and channels exchanged, in `dtype`."""
    spreads = zip(x.shape[1:3], _spread(gradient, stride), strict=True)
    pads = [(padding, spread + size - 1 - padding - pixels) for pixels, spread in spreads]
    images, kernels = x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3)
    options = dict(window_strides=(1, 1), rhs_dilation=(stride, stride), preferred_element_type=dtype)
    return _conv(images, kernels, pads, **options).transpose(1, 2, 0, 3)


def _spread(gradient: jax.Array, stride: int) -> list[int]:
    """Return the height and width of a gradient dilated by `stride`."""
    return [stride * (pixels - 1) + 1 for pixels in gradient.shape[1:3]]
