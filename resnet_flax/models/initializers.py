"""Initial values of kernels and biases."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.nn.initializers import variance_scaling

# The default of torch.nn.Conv2d and Linear: uniform in +-1/sqrt(fan_in).
TORCH_INIT = variance_scaling(1 / 3, "fan_in", "uniform")


def dirac(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Initialise a convolution so that its first outputs copy its inputs, like torch.nn.init.dirac_.

    All other outputs, and dense layers, are initialised by TORCH_INIT. Zagoruyko & Komodakis (2017, DiracNets); partly
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
    """Return the bias initialiser of `torch.nn.Conv2d` and `Linear`: uniform in +-1/sqrt(fan_in)."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)

    return init
