"""A first layer that nobody trains: it takes the small patches of the images apart into independent directions."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

SIDE = 2  # pixels of a patch along each axis
EXAMPLES = 2000  # images that the directions are found from: two million patches for a 12 x 12 matrix
FLOOR = 5e-4  # added to each direction's variance, so that noise is not blown up


class Whitening(nn.Module):
    """The principal directions of 2x2 patches, scaled to variance 1, and their negatives: a fixed convolution.

    Page (2018, How to train your ResNet), with patches of 2x2 and both signs by Jordan (2024, arXiv:2404.00498). Its
    kernel is a statistic of the training images, as BatchNorm's means are, and lies in `batch_stats`: zeros until
    `directions` fills it.

    (batch, H, W, C) -> (batch, H - 1, W - 1, 8 C), any float dtype, kept.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        shape = (SIDE, SIDE, channels, 2 * SIDE * SIDE * channels)
        kernel = self.variable("batch_stats", "kernel", jnp.zeros, shape, jnp.float32).value
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel.astype(x.dtype), (1, 1), "VALID", dimension_numbers=layout)


def directions(images: np.ndarray, normalize: Callable[[jax.Array], jax.Array]) -> np.ndarray:
    """The kernel of `Whitening`, (2, 2, C, 8 C) float32, for training images (n, H, W, C) uint8.

    `normalize` makes images what the network is shown. Some images from the whole of them are looked at.
    """
    some = np.ascontiguousarray(images[:: -(-len(images) // EXAMPLES)])
    channels = images.shape[-1]
    variance, directions = np.linalg.eigh(np.asarray(covariance(normalize(jnp.asarray(some))), np.float64))
    # An eigenvector may point either way: here the largest entry is positive, on every machine.
    largest = np.abs(directions).argmax(0)
    directions = directions * np.sign(directions[largest, np.arange(len(largest))]) / np.sqrt(variance + FLOOR)
    kernel = directions[:, ::-1].reshape(SIDE, SIDE, channels, -1)  # the strongest first
    return np.concatenate([kernel, -kernel], -1).astype(np.float32)


@jax.jit
def covariance(x: jax.Array) -> jax.Array:
    """Of the values of a 2x2 patch over all patches of images (n, H, W, C) float32: (4 C, 4 C) float32.

    The values are ordered (row, column, channel).
    """
    height, width = x.shape[1] - SIDE + 1, x.shape[2] - SIDE + 1
    moved = [x[:, row : row + height, column : column + width] for row in range(SIDE) for column in range(SIDE)]
    patches = jnp.concatenate(moved, -1).reshape(-1, SIDE * SIDE * x.shape[-1])
    patches = patches - patches.mean(0)
    return jnp.matmul(patches.T, patches, precision="highest") / len(patches)
