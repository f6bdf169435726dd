"""Residual blocks, one module per variant, and the parts that they share."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_flax.models.dropout import Dropout
from resnet_flax.models.initializers import torch_bias_init

Layer = Callable[..., Any]

SE_REDUCTION = 16  # ratio of a block's channels to those of its squeeze-and-excitation bottleneck
SHORTCUTS = ("conv", "avg_pool", "pad")


class SqueezeExcite(nn.Module):
    """Multiply each channel by a factor between 0 and 1, computed from the means of all channels.

    Hu et al. (2018), with the layers of torchvision.ops.SqueezeExcitation: 1x1 convolutions with bias to 1/16 of the
    channels and back, ReLU between them and a sigmoid at the end.
    """

    conv: Layer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        means, channels = x.mean((1, 2), keepdims=True), x.shape[-1]
        squeezed = max(channels // SE_REDUCTION, 1)
        fc1 = self.conv(squeezed, 1, 1, use_bias=True, bias_init=torch_bias_init(channels), name="fc1")
        fc2 = self.conv(channels, 1, 1, use_bias=True, bias_init=torch_bias_init(squeezed), name="fc2")
        return x * nn.sigmoid(fc2(nn.relu(fc1(means))))


class Block(nn.Module):
    """The fields and parts that all variants share.

    Input (batch, H, W, C), output (batch, H / stride, W / stride, width). Dropout precedes the last convolution.
    """

    width: int
    stride: int
    conv: Layer
    norm: Layer
    norm_act: Layer  # with the activation after it
    last_norm: Layer  # of the residual branch
    activation: Callable[[jax.Array], jax.Array]
    shortcut: str  # one of SHORTCUTS, for a block that changes the shape
    bottleneck_ratio: float
    groups: int
    dropout: float
    drop_path: float
    se: bool
    axis_name: str | None  # mapped axis over which the batch is spread

    def drop(self, y: jax.Array, train: bool) -> jax.Array:
        """Apply dropout, if its rate is not 0."""
        if not self.dropout:
            return y
        return Dropout(self.dropout, axis_name=self.axis_name, name="dropout")(y, deterministic=not train)

    def finish(self, y: jax.Array, train: bool) -> jax.Array:
        """Apply squeeze-and-excitation and stochastic depth, if they are used, to the end of the residual branch.

        Stochastic depth (Huang et al., 2016) zeroes the whole branch for an example with probability `drop_path` and
        divides it by 1 - drop_path otherwise, like torchvision.ops.StochasticDepth with mode "row".
        """
        if self.se:
            y = SqueezeExcite(self.conv, name="se")(y)
        if self.drop_path:
            rows = Dropout(self.drop_path, broadcast_dims=(1, 2, 3), axis_name=self.axis_name, name="drop_path")
            y = rows(y, deterministic=not train)
        return y

    def project(self, x: jax.Array, train: bool, norm: bool = True) -> jax.Array:
        """Return the block's input in the shape of its output, as the kind of shortcut defines it.

        - "conv": a 1x1 convolution with the stride, and BatchNorm if `norm`; option B of He et al. (2015).
        - "avg_pool": the same after averaging over windows of `stride`; ResNet-D of He et al. (2019).
        - "pad": every stride-th pixel, and zeros for the missing channels, on both sides; option A of He et al. (2015).
        """
        stride, name = self.stride, "shortcut"
        if self.shortcut == "pad":
            missing = self.width - x.shape[-1]
            sides = (missing // 2, missing - missing // 2)
            return jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), sides))
        if self.shortcut == "avg_pool":
            x, stride, name = avg_pool(x, stride), 1, "pooled_shortcut"
        x = self.conv(self.width, 1, stride, name=f"{name}_conv")(x)
        return self.norm(name=f"{name}_norm")(x, train) if norm else x


class BasicBlock(Block):
    """Two 3x3 convolutions, each followed by BatchNorm, added to the shortcut before the last activation.

    He et al. (2015), the block of ResNet-18.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = self.conv(self.width, 3, self.stride, name="conv1")(x)
        y = self.drop(self.norm_act(name="norm1")(y, train), train)
        y = self.conv(self.width, 3, 1, name="conv2")(y)
        y = self.finish(self.last_norm(name="norm2")(y, train), train)
        if x.shape != y.shape:
            x = self.project(x, train)
        return self.activation(y + x)


class BottleneckBlock(Block):
    """Convolutions 1x1, 3x3 and 1x1, each followed by BatchNorm, added to the shortcut before the last activation.

    He et al. (2015), the block of ResNet-50, with the stride in the 3x3 convolution as in torchvision. The 3x3
    convolution has bottleneck_ratio x width channels; with several groups this is ResNeXt's block (Xie et al., 2017).
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        inner = round(self.width * self.bottleneck_ratio)
        y = self.conv(inner, 1, 1, name="conv1")(x)
        y = self.norm_act(name="norm1")(y, train)
        y = self.conv(inner, 3, self.stride, feature_group_count=self.groups, name="conv2")(y)
        y = self.drop(self.norm_act(name="norm2")(y, train), train)
        y = self.conv(self.width, 1, 1, name="conv3")(y)
        y = self.finish(self.last_norm(name="norm3")(y, train), train)
        if x.shape != y.shape:
            x = self.project(x, train)
        return self.activation(y + x)


class PreActBlock(Block):
    """BatchNorm and activation before each of two 3x3 convolutions; nothing after the addition.

    He et al. (2016), pre-activation. If the shape changes, the shortcut starts from the activated input, and has no
    BatchNorm.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        activated = self.norm_act(name="norm1")(x, train)
        y = self.conv(self.width, 3, self.stride, name="conv1")(activated)
        y = self.drop(self.norm_act(name="norm2")(y, train), train)
        y = self.finish(self.conv(self.width, 3, 1, name="conv2")(y), train)
        if x.shape != y.shape:
            x = self.project(activated, train, norm=False)
        return y + x


class PoolBlock(Block):
    """A basic block with an identity shortcut; an entry layer before it changes the shape if necessary.

    The entry layer is a 3x3 convolution, max pooling over windows of `stride`, BatchNorm and activation, as in Page's
    ResNet-9 (2018, How to train your ResNet) and Jordan's airbench96 (2024, arXiv:2404.00498). Pixels at the border
    that do not fill a window are dropped.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.stride > 1 or x.shape[-1] != self.width:
            x = max_pool(self.conv(self.width, 3, 1, name="entry_conv")(x), self.stride)
            x = self.norm_act(name="entry_norm")(x, train)
        y = self.conv(self.width, 3, 1, name="conv1")(x)
        y = self.drop(self.norm_act(name="norm1")(y, train), train)
        y = self.conv(self.width, 3, 1, name="conv2")(y)
        return self.activation(x + self.finish(self.last_norm(name="norm2")(y, train), train))


def max_pool(x: jax.Array, side: int) -> jax.Array:
    """Return the maximum of each `side` x `side` window: (batch, H, W, C) -> (batch, H // side, W // side, C).

    The windows do not overlap, so a maximum over axes can replace reduce_window, whose gradient is a scatter. As in
    PyTorch, the gradient goes to the first maximum of each window in row-major order; `side` is at most 16.
    """
    rows, columns = x.shape[1] // side, x.shape[2] // side
    return _window_maximum(x[:, : rows * side, : columns * side], side)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _window_maximum(x: jax.Array, side: int) -> jax.Array:
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // side, side, width // side, side, channels).max((2, 4))


def _window_maximum_forward(x, side):
    """Return the maximum and, for the gradient, only its place in the window: one byte each."""
    largest, place = x[:, ::side, ::side], jnp.uint8(0)
    for number in range(1, side * side):
        candidate = x[:, number // side :: side, number % side :: side]
        larger = (candidate > largest) | jnp.isnan(candidate)
        largest, place = jnp.where(larger, candidate, largest), jnp.where(larger, jnp.uint8(number), place)
    return largest, jnp.broadcast_to(place, largest.shape)


def _window_maximum_backward(side, place, gradient):
    numbers = jnp.arange(side * side, dtype=jnp.uint8).reshape(side, 1, side, 1)
    spread = jnp.where(place[:, :, None, :, None] == numbers, gradient[:, :, None, :, None], 0)
    batch, rows, columns, channels = place.shape
    return (spread.reshape(batch, rows * side, columns * side, channels),)


_window_maximum.defvjp(_window_maximum_forward, _window_maximum_backward)


def avg_pool(x: jax.Array, side: int) -> jax.Array:
    """Return the mean of each `side` x `side` window, or of as much of it as lies within the image.

    (batch, H, W, C) -> (batch, H / side, W / side, C), rounded up; like torch.nn.AvgPool2d with ceil_mode and without
    count_include_pad.
    """
    padding = [(0, -length % side) for length in x.shape[1:3]]
    return nn.avg_pool(x, (side, side), (side, side), padding, count_include_pad=False)


BLOCKS: dict[str, type[Block]] = {
    "basic": BasicBlock,
    "bottleneck": BottleneckBlock,
    "preact": PreActBlock,
    "pool": PoolBlock,
}
