"""A stem whose kernel is not trained: it projects small patches of the images onto their principal directions."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resnet_flax.models.convolution import precision

SIDE = 2  # pixels of a patch along each axis
MAX_IMAGES = 2000  # images of 32 x 32 pixels whose patches are used: two million, for a 12 x 12 covariance matrix
VARIANCE_FLOOR = 5e-4  # added to the variance of each direction, so that noise is not amplified


class Whitening(nn.Module):
    """A fixed convolution with the principal directions of 2x2 patches, scaled to variance 1, and their negatives.

    Page (2018, How to train your ResNet), with 2x2 patches, both signs and a trained bias as in Jordan (2024,
    arXiv:2404.00498). The kernel is a statistic of the training images, like BatchNorm's means, so it is in
    `batch_stats`; it is zero until it is set to what `directions` returns.

    (batch, H, W, C) -> (batch, H - 1, W - 1, 8 C), of any float dtype, the same for both.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        outputs = 2 * SIDE * SIDE * channels
        kernel = self.variable("batch_stats", "kernel", jnp.zeros, (SIDE, SIDE, channels, outputs), jnp.float32).value
        bias = self.param("bias", nn.initializers.zeros, (outputs,), jnp.float32)
        kernel, layout, exact = kernel.astype(x.dtype), ("NHWC", "HWIO", "NHWC"), precision(x.dtype)
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=layout, precision=exact)
        return y + bias.astype(x.dtype)


def directions(images: np.ndarray, normalize: Callable[[jax.Array], jax.Array]) -> np.ndarray:
    """Return the kernel of `Whitening`, (2, 2, C, 8 C) float32, for training images (n, H, W, C) uint8.

    `normalize` returns images as the network sees them. At most MAX_IMAGES images are used, evenly spaced, and fewer if
    they are larger than 32 x 32 pixels.
    """
    most = max(1, MAX_IMAGES * 32 * 32 // max(32 * 32, images.shape[1] * images.shape[2]))
    some = np.ascontiguousarray(images[:: -(-len(images) // most)])
    channels = images.shape[-1]
    variance, directions = np.linalg.eigh(np.asarray(covariance(normalize(jnp.asarray(some))), np.float64))
    # The sign of an eigenvector is arbitrary: make its largest entry positive, so that it is the same on every machine.
    largest = np.abs(directions).argmax(0)
    directions = directions * np.sign(directions[largest, np.arange(len(largest))]) / np.sqrt(variance + VARIANCE_FLOOR)
    kernel = directions[:, ::-1].reshape(SIDE, SIDE, channels, -1)  # the strongest first
    return np.concatenate([kernel, -kernel], -1).astype(np.float32)


@jax.jit
def covariance(x: jax.Array) -> jax.Array:
    """Return the covariance (4 C, 4 C) float32 of the values of 2x2 patches, over all patches of images (n, H, W, C).

    The values of a patch are ordered (row, column, channel).
    """
    height, width = x.shape[1] - SIDE + 1, x.shape[2] - SIDE + 1
    moved = [x[:, row : row + height, column : column + width] for row in range(SIDE) for column in range(SIDE)]
    patches = jnp.concatenate(moved, -1).reshape(-1, SIDE * SIDE * x.shape[-1])
    patches = patches - patches.mean(0)
    return jnp.matmul(patches.T, patches, precision="highest") / len(patches)
