"""Residual blocks, one module per variant."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

Layer = Callable[..., Any]


class Block(nn.Module):
    """The fields of every variant. Input (batch, H, W, C), output (batch, H / stride, W / stride, width)."""

    width: int
    stride: int
    conv: Layer
    norm: Layer
    activation: Callable[[jax.Array], jax.Array]
    dropout: float


class BasicBlock(Block):
    """Two 3x3 convolutions, each followed by BatchNorm, added to the shortcut before the last activation.

    He et al. (2015), the block of ResNet-18. If the shape changes, the shortcut is a 1x1 convolution with BatchNorm.
    Dropout follows the first activation.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = self.conv(self.width, 3, self.stride, name="conv1")(x)
        y = self.activation(self.norm(name="norm1")(y, train))
        if self.dropout:
            y = nn.Dropout(self.dropout, name="dropout")(y, deterministic=not train)
        y = self.conv(self.width, 3, 1, name="conv2")(y)
        y = self.norm(name="norm2")(y, train)
        if x.shape != y.shape:
            x = self.conv(self.width, 1, self.stride, name="shortcut_conv")(x)
            x = self.norm(name="shortcut_norm")(x, train)
        return self.activation(y + x)


class PreActBlock(Block):
    """BatchNorm and activation before each of two 3x3 convolutions; nothing after the addition.

    He et al. (2016), pre-activation. If the shape changes, the shortcut is a 1x1 convolution of the activated input,
    without BatchNorm. Dropout follows the second activation.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        activated = self.activation(self.norm(name="norm1")(x, train))
        y = self.conv(self.width, 3, self.stride, name="conv1")(activated)
        y = self.activation(self.norm(name="norm2")(y, train))
        if self.dropout:
            y = nn.Dropout(self.dropout, name="dropout")(y, deterministic=not train)
        y = self.conv(self.width, 3, 1, name="conv2")(y)
        if x.shape != y.shape:
            x = self.conv(self.width, 1, self.stride, name="shortcut_conv")(activated)
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
            x = self.activation(self.norm(name="entry_norm")(x, train))
        y = self.conv(self.width, 3, 1, name="conv1")(x)
        y = self.activation(self.norm(name="norm1")(y, train))
        if self.dropout:
            y = nn.Dropout(self.dropout, name="dropout")(y, deterministic=not train)
        y = self.conv(self.width, 3, 1, name="conv2")(y)
        return self.activation(x + self.norm(name="norm2")(y, train))


def max_pool(x: jax.Array, side: int) -> jax.Array:
    """Return the maximum of each `side` x `side` window: (batch, H, W, C) -> (batch, H // side, W // side, C).

    The windows do not overlap, so this is a maximum over axes, whose gradient XLA fuses into its neighbours; the
    gradient of a reduce_window is a scatter.
    """
    batch, height, width, channels = x.shape
    rows, columns = height // side, width // side
    windows = x[:, : rows * side, : columns * side].reshape(batch, rows, side, columns, side, channels)
    return windows.max((2, 4))


BLOCKS: dict[str, type[Block]] = {"basic": BasicBlock, "preact": PreActBlock, "pool": PoolBlock}
