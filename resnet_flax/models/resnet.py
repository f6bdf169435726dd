"""The residual network: stem, stages of blocks, head."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import variance_scaling

from resnet_flax.errors import UserError
from resnet_flax.models.blocks import BLOCKS, PreActBlock
from resnet_flax.models.convolution import convolution
from resnet_flax.models.norm import BatchNorm
from resnet_flax.models.whitening import Whitening

# PyTorch's GELU is exact (erf); JAX's default is the tanh approximation.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "gelu": partial(jax.nn.gelu, approximate=False),
}

# The default of torch.nn.Conv2d and Linear: uniform in +-1/sqrt(fan_in).
TORCH_INIT = variance_scaling(1 / 3, "fan_in", "uniform")


def dirac(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Initialise a convolution so that its first outputs copy its inputs, like torch.nn.init.dirac_.

    Further outputs, and dense layers, are initialised by TORCH_INIT. Zagoruyko & Komodakis (2017, DiracNets); partly
    random as in Jordan (2024, arXiv:2404.00498).
    """
    kernel = TORCH_INIT(key, shape, dtype)
    if len(shape) != 4:
        return kernel
    height, width, inputs, outputs = shape
    same = jnp.arange(min(inputs, outputs))
    return kernel.at[..., : len(same)].set(0).at[height // 2, width // 2, same, same].set(1)


KERNEL_INITS: dict[str, Callable[..., jax.Array]] = {
    "torch": TORCH_INIT,
    "he_normal": variance_scaling(2.0, "fan_in", "normal"),
    "dirac": dirac,
}


def torch_bias_init(fan_in: int) -> Callable[..., jax.Array]:
    """Return the bias initialiser of `torch.nn.Linear`: uniform in +-1/sqrt(fan_in)."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)

    return init


class ResNet(nn.Module):
    """A residual network for small images: a 3x3 stem without pooling, stages, global average pooling, one dense layer.

    The first block of every stage but the first halves height and width. With a "whitening" stem, a fixed `Whitening`
    instead of the convolution, that of the first stage does so, too. Convolutions have no bias and explicit padding
    (k - 1) / 2, as in PyTorch; XLA's "SAME" differs from it at stride 2.

    Input: (batch, height, width, 3), normalised, of a float dtype (UserError for anything else). Output: logits,
    (batch, num_classes) float32.
    Collections: `params` and `batch_stats`; `intermediates`, if it is mutable, gets the pooled `features` before the
    last layer, (batch, channels) float32. Training needs a "dropout" key if a dropout rate is not 0.
    """

    blocks: Sequence[int]  # number of blocks of each stage
    widths: Sequence[int]  # channels of each stage
    stem: str = "conv"
    block: str = "basic"
    activation: str = "relu"
    stem_dropout: float = 0.0
    block_dropout: float = 0.0
    final_norm: bool = False  # preact: BatchNorm and activation after the last block
    kernel_init: str = "torch"
    num_classes: int = 10
    dtype: Any = jnp.float32  # of the convolutions; parameters, statistics and logits are float32
    axis_name: str | None = None  # mapped axis over which BatchNorm averages

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        activation = jax.named_scope(self.activation)(ACTIVATIONS[self.activation])  # as profiles and graphs call it
        init = KERNEL_INITS[self.kernel_init]
        conv = partial(convolution, kernel_init=init, dtype=self.dtype)
        norm = partial(BatchNorm, axis_name=self.axis_name)
        block = partial(BLOCKS[self.block], conv=conv, norm=norm, activation=activation, dropout=self.block_dropout)
        preact = BLOCKS[self.block] is PreActBlock  # such blocks activate their own input

        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise UserError(f"a network takes normalised images of a float dtype, not {x.dtype}: normalize them first")
        if x.ndim != 4 or x.shape[-1] != 3:
            raise UserError(f"a network takes images of shape (batch, height, width, 3), not {x.shape}")
        x = x.astype(self.dtype)
        if self.stem == "whitening":
            x = activation(Whitening(name="stem_whitening")(x))
        else:
            x = conv(self.widths[0], 3, 1, name="stem_conv")(x)
            if not preact:
                x = activation(norm(name="stem_norm")(x, train))
        if self.stem_dropout:
            x = nn.Dropout(self.stem_dropout, name="stem_dropout")(x, deterministic=not train)
        for stage, (count, width) in enumerate(zip(self.blocks, self.widths, strict=True), start=1):
            for index in range(1, count + 1):
                stride = 2 if index == 1 and (stage > 1 or self.stem == "whitening") else 1
                x = block(width, stride, name=f"stage{stage}_block{index}")(x, train)
        if preact and self.final_norm:
            x = activation(norm(name="final_norm")(x, train))
        x = x.astype(jnp.float32).mean((1, 2))
        self.sow("intermediates", "features", x)
        return nn.Dense(self.num_classes, name="head", kernel_init=init, bias_init=torch_bias_init(x.shape[-1]))(x)
