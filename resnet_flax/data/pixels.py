"""Pixel formulas: what each operation does to a batch of images, given parameters that are already drawn.

Images are uint8 (B, H, W, C), parameters have one value per image (B,), and the result is uint8 again unless it says
otherwise. `np` is the namespace that computes: numpy, jax.numpy or `resnet_flax.data.tf_numpy`.
"""

from typing import Any

import numpy

Array = Any  # numpy.ndarray, jax.Array or tf.Tensor, as `np` makes them


def per_image(np: Any, parameter: Array) -> Array:
    """(B,) -> (B, 1, 1, 1), to meet images."""
    return np.reshape(parameter, (-1, 1, 1, 1))


def pick(np: Any, images: Array, rows: Array, columns: Array) -> Array:
    """Output pixel (b, y, x) is the input's at rows[b, y, x], columns[b, y, x]; 0 where that is outside.

    rows and columns: int32, broadcastable to (B, H, W).
    """
    batch, height, width, channels = np.shape(images)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    # The pixel behind an image's last is the fill. One gather per image, so that devices can share a batch.
    place = np.reshape(np.where(inside, rows * width + columns, height * width), (batch, height * width, 1))
    fill = np.zeros((batch, 1, channels), np.uint8)
    table = np.concatenate([np.reshape(images, (batch, height * width, channels)), fill], 1)
    return np.reshape(np.take_along_axis(table, place, 1), (batch, height, width, channels))


def shift(np: Any, images: Array, down: Array, right: Array) -> Array:
    """Moves each image by whole pixels (int32 (B,)); what comes in from outside is 0."""
    _, height, width, _ = np.shape(images)
    rows = np.arange(height, dtype=np.int32)[None, :, None] - down[:, None, None]
    columns = np.arange(width, dtype=np.int32)[None, None, :] - right[:, None, None]
    return pick(np, images, rows, columns)


def mirror(np: Any, images: Array, chosen: Array) -> Array:
    """Left and right exchanged in the images where `chosen` (bool (B,))."""
    return np.where(per_image(np, chosen), np.flip(images, 2), images)


def standardize(np: Any, images: Array, mean: tuple, std: tuple) -> Array:
    """float32: (pixel / 255 - mean) / std per channel, as torchvision's ToTensor and Normalize."""
    scale = 1 / (255 * numpy.asarray(std, numpy.float64))
    offset = -numpy.asarray(mean, numpy.float64) / std
    return np.asarray(images, np.float32) * scale.astype(numpy.float32) + offset.astype(numpy.float32)
