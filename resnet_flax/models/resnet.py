"""The residual network: stem, stages of blocks, head."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_flax.errors import UserError
from resnet_flax.models.blocks import BLOCKS, PreActBlock
from resnet_flax.models.convolution import convolution, precision
from resnet_flax.models.dropout import Dropout
from resnet_flax.models.initializers import KERNEL_INITS, torch_bias_init
from resnet_flax.models.norm import BatchNorm
from resnet_flax.models.whitening import Whitening


def gelu(x: jax.Array) -> jax.Array:
    """Return x times the standard normal CDF of x, like torch.nn.GELU; JAX's default approximates it.

    JAX's exact GELU uses erfc, which takes a CPU 1.3 times as long as erf. Only dtypes of lower precision than float32
    need it, because in them 1 + erf loses digits where x is negative.
    """
    if x.dtype == jnp.float32:
        return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))
    return jax.nn.gelu(x, approximate=False)


Variables = dict[str, dict]  # {"params": ..., "batch_stats": ...} of a ResNet

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"relu": jax.nn.relu, "gelu": gelu}


class ResNet(nn.Module):
    """A residual network for small images: a 3x3 stem without pooling, stages, global average pooling, one dense layer.

    The first block of every stage but the first halves height and width; with a "whitening" stem, a fixed `Whitening`
    instead of the convolution, the first stage's does, too. The convolutions of stem and blocks have no bias and
    explicit padding (k - 1) / 2, as in PyTorch; XLA's "SAME" differs from this at stride 2.

    Input: (batch, height, width, 3), normalised, of a float dtype (UserError for anything else). Output: logits,
    (batch, num_classes) float32.
    Collections: `params` and `batch_stats`; `intermediates`, if it is mutable, gets the pooled `features` before the
    last layer, (batch, channels) float32. Training needs a "dropout" key if a dropout rate or drop_path is not 0.
    """

    blocks: Sequence[int]  # number of blocks of each stage
    widths: Sequence[int]  # channels of each stage
    stem: str = "conv"
    stem_width: int = 0  # channels of a "conv" stem; 0: those of the first stage
    block: str = "basic"
    bottleneck_ratio: float = 0.25  # bottleneck: channels of the 3x3 convolution over those of the stage
    groups: int = 1  # bottleneck: groups of the 3x3 convolution, ResNeXt's cardinality
    shortcut: str = "conv"
    activation: str = "relu"
    stem_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0  # stochastic depth: rate of the last block
    se: bool = False  # squeeze-and-excitation in every block
    final_norm: bool = False  # preact: BatchNorm and activation after the last block
    kernel_init: str = "torch"
    zero_last_scale: bool = False  # the last BatchNorm of every block starts with scale 0
    num_classes: int = 10
    dtype: Any = jnp.float32  # of the convolutions; parameters, statistics and logits are float32
    axis_name: str | None = None  # mapped axis over which the batch is spread, and BatchNorm averages
    frozen: Sequence[str] = ()  # part_names whose BatchNorm and dropout behave in training as in evaluation

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        activation = jax.named_scope(self.activation)(ACTIVATIONS[self.activation])  # its name in profiles and graphs
        init = KERNEL_INITS[self.kernel_init]
        conv = partial(convolution, kernel_init=init, dtype=self.dtype)
        norm = partial(BatchNorm, axis_name=self.axis_name)
        norm_act = partial(norm, activation=activation)
        block = partial(
            BLOCKS[self.block],
            conv=conv,
            norm=norm,
            norm_act=norm_act,
            last_norm=partial(norm, scale_init=nn.initializers.zeros) if self.zero_last_scale else norm,
            activation=activation,
            shortcut=self.shortcut,
            bottleneck_ratio=self.bottleneck_ratio,
            groups=self.groups,
            dropout=self.block_dropout,
            se=self.se,
            axis_name=self.axis_name,
        )
        preact = BLOCKS[self.block] is PreActBlock  # such blocks activate their own input

        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise UserError(f"a network takes normalised images of a float dtype, not {x.dtype}: normalize them first")
        if x.ndim != 4 or x.shape[-1] != 3:
            raise UserError(f"a network takes images of shape (batch, height, width, 3), not {x.shape}")
        trains = {name: train and name not in self.frozen for name in part_names(len(self.blocks), self.final_norm)}
        x = x.astype(self.dtype)
        if self.stem == "whitening":
            x = activation(Whitening(name="stem_whitening")(x))
        else:
            x = conv(self.stem_width or self.widths[0], 3, 1, name="stem_conv")(x)
            if not preact:
                x = norm_act(name="stem_norm")(x, trains["stem"])
        if self.stem_dropout:
            dropout = Dropout(self.stem_dropout, axis_name=self.axis_name, name="stem_dropout")
            x = dropout(x, deterministic=not trains["stem"])
        depth = 0
        for stage, (count, width) in enumerate(zip(self.blocks, self.widths, strict=True), start=1):
            name = f"stage{stage}"
            for index in range(1, count + 1):
                stride = 2 if index == 1 and (stage > 1 or self.stem == "whitening") else 1
                depth += 1
                drop_path = self.drop_path * depth / sum(self.blocks)
                x = block(width, stride, drop_path=drop_path, name=f"{name}_block{index}")(x, trains[name])
        if preact and self.final_norm:
            x = norm_act(name="final_norm")(x, trains["final"])
        x = x.astype(jnp.float32).mean((1, 2))
        self.sow("intermediates", "features", x)
        exact, bias_init = precision(x.dtype), torch_bias_init(x.shape[-1])
        return nn.Dense(self.num_classes, name="head", precision=exact, kernel_init=init, bias_init=bias_init)(x)


def part_names(stages: int, final_norm: bool) -> list[str]:
    """Return the parts of a network, in order: each is trained or frozen as a whole."""
    return ["stem", *[f"stage{stage}" for stage in range(1, stages + 1)], *["final"] * final_norm, "head"]


def part_of(layer: str) -> str:
    """Return the part of a network that a top-level layer belongs to: stem, stage1 and so on, final or head."""
    return layer.partition("_")[0]
