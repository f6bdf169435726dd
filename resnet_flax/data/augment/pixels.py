"""Pixel formulas: what each operation does to a batch of images, given parameters that are already drawn.

Images are uint8 (B, H, W, C), parameters have one value per image (B,), and the result is uint8 again unless it says
otherwise. `np` is the namespace that computes: numpy, jax.numpy or `resnet_flax.data.augment.tf_numpy`.
"""

from collections.abc import Callable
from typing import Any

import numpy

Array = Any  # numpy.ndarray, jax.Array or tf.Tensor, as `np` makes them


def per_image(np: Any, parameter: Array) -> Array:
    """(B,) -> (B, 1, 1, 1), to meet images."""
    return np.reshape(barrier(np, parameter), (-1, 1, 1, 1))


def barrier(np: Any, x: Array) -> Array:
    """The same array, but computed once: a wall between operations, and between parameters and the pixels they meet.

    XLA on CPU fuses whatever it can into the loops that use it, and so would compute again for each use the pixels that
    an operation reads from its neighbours, and for each pixel the draws of its image. It does not fuse across a branch,
    and cannot know that this one is always taken.
    """
    if np is numpy:
        return x
    always = np.asarray(x[(0,) * len(x.shape)], np.int32) != -(2**31)
    if hasattr(np, "cond"):
        return np.cond(always, lambda: x, lambda: np.zeros(np.shape(x), x.dtype))
    import jax  # here, so that the TensorFlow feed does without

    if jax.default_backend() != "cpu":  # where XLA weighs fusion against repetition
        return jax.lax.optimization_barrier(x)
    return jax.lax.cond(always, lambda: x, lambda: np.zeros_like(x))


def for_few(np: Any, chosen: Array, formula: Callable[[Array], Array], images: Array) -> Array:
    """`formula` of the images `chosen` (bool (B,)), expected to be few; the others as they are.

    On a CPU the chosen ones are brought to the front, and the formula is spent on a quarter of the batch only, or on
    all of it in the rare case that more were chosen. An accelerator is better off without a branch.
    """
    cond = getattr(np, "cond", None)
    if np is not numpy and cond is None:
        import jax

        cond = jax.lax.cond if jax.default_backend() == "cpu" else None
    if cond is None:
        return np.where(per_image(np, chosen), formula(images), images)
    few = max(1, images.shape[0] // 4)
    order = np.argsort(np.where(chosen, 0, 1), stable=True)
    place = np.argsort(order, stable=True)
    ordered = barrier(np, np.take(images, order, axis=0))
    changed = cond(
        np.sum(np.asarray(chosen, np.int32)) <= few,
        lambda: np.concatenate([formula(ordered[:few]), ordered[few:]], 0),
        lambda: formula(ordered),
    )
    return np.where(per_image(np, chosen), np.take(changed, place, axis=0), images)


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


def shift(np: Any, images: Array, down: Array, right: Array, reflect: bool = False) -> Array:
    """Moves each image by whole pixels (int32 (B,)); outside is 0, or with `reflect` the image again,
    mirrored about its outermost pixels as numpy.pad's "reflect"."""
    _, height, width, _ = np.shape(images)
    rows = np.arange(height, dtype=np.int32)[None, :, None] - per_image(np, down)[..., 0]
    columns = np.arange(width, dtype=np.int32)[None, None, :] - per_image(np, right)[..., 0]
    if reflect:
        rows, columns = mirrored(np, rows, height), mirrored(np, columns, width)
    return pick(np, images, rows, columns)


def mirrored(np: Any, place: Array, size: int) -> Array:
    """int32 places along an axis of `size` > 1 as they go back and forth in it: -1 is 1, and `size` is size - 2."""
    period = 2 * (size - 1)
    place = place % period
    return np.where(place < size, place, period - place)


def mirror(np: Any, images: Array, chosen: Array) -> Array:
    """Left and right exchanged in the images where `chosen` (bool (B,))."""
    return np.where(per_image(np, chosen), np.flip(images, 2), images)


def standardize(np: Any, images: Array, mean: tuple, std: tuple) -> Array:
    """float32: (pixel / 255 - mean) / std per channel, as torchvision's ToTensor and Normalize."""
    scale = 1 / (255 * numpy.asarray(std, numpy.float64))
    offset = -numpy.asarray(mean, numpy.float64) / std
    return np.asarray(images, np.float32) * scale.astype(numpy.float32) + offset.astype(numpy.float32)


# Geometry. A matrix is float32 (B, 6), (a, b, c, d, e, f) as in Pillow's Image.transform: the output pixel (x, y) is
# the input at (a x + b y + c, d x + e y + f), where the centre of the first pixel is (0.5, 0.5).


def affine_matrix(np: Any, size: tuple, angle: Array, right: Array, down: Array, scale: Array, shear: Array) -> Array:
    """The matrix that turns clockwise by `angle` and shears along x by `shear` (degrees), scales, and moves (pixels).

    About the centre of images of `size` (height, width); every parameter is float32 (B,). Shear, then rotation, as
    torchvision.transforms.functional.affine defines it.
    """
    radian = numpy.float32(numpy.pi / 180)
    cos, sin, tan = np.cos(angle * radian), np.sin(angle * radian), np.tan(shear * radian)
    a, b, d, e = (cos - sin * tan) / scale, (cos * tan + sin) / scale, -sin / scale, cos / scale
    y, x = size[0] / 2, size[1] / 2
    c = x - a * (x + right) - b * (y + down)
    f = y - d * (x + right) - e * (y + down)
    return np.stack([a, b, c, d, e, f], 1)


def affine(np: Any, images: Array, matrix: Array, interpolation: str = "nearest") -> Array:
    """Each image under its matrix, 0 outside."""
    formula = _affine_nearest if interpolation == "nearest" else _affine_bilinear
    return formula(np, images, barrier(np, matrix))


def _affine_nearest(np: Any, images: Array, matrix: Array) -> Array:
    """In integers, 65,536 to a pixel, as Pillow walks over small images: so there is nothing to round differently."""
    a, b, c, d, e, f = (matrix[:, i, None, None] for i in range(6))
    a, b, c, d, e, f = (
        np.asarray(np.floor(number * 65536.0 + 0.5), np.int32)
        for number in (a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5)
    )
    _, height, width, _ = np.shape(images)
    y = np.arange(height, dtype=np.int32)[None, :, None]
    x = np.arange(width, dtype=np.int32)[None, None, :]
    return pick(np, images, np.right_shift(d * x + e * y + f, 16), np.right_shift(a * x + b * y + c, 16))


def _affine_bilinear(np: Any, images: Array, matrix: Array) -> Array:
    """The mean of four pixels, weighted by nearness and rounded down; at the border the outermost pixels repeat."""
    a, b, c, d, e, f = (matrix[:, i, None, None] for i in range(6))
    _, height, width, _ = np.shape(images)
    y = np.arange(height, dtype=np.float32)[None, :, None] + 0.5
    x = np.arange(width, dtype=np.float32)[None, None, :] + 0.5
    x, y = a * x + b * y + c, d * x + e * y + f
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    left, top = np.floor(x - 0.5), np.floor(y - 0.5)
    right_weight, bottom_weight = (x - 0.5 - left)[..., None], (y - 0.5 - top)[..., None]
    left, top = np.asarray(left, np.int32), np.asarray(top, np.int32)

    def corner(down: int, right: int) -> Array:
        rows = np.minimum(np.maximum(top + down, 0), height - 1)
        columns = np.minimum(np.maximum(left + right, 0), width - 1)
        return np.asarray(pick(np, images, rows, columns), np.float32)

    upper = corner(0, 0) + (corner(0, 1) - corner(0, 0)) * right_weight
    lower = corner(1, 0) + (corner(1, 1) - corner(1, 0)) * right_weight
    mixed = np.where(inside[..., None], upper + (lower - upper) * bottom_weight, numpy.float32(0))
    return np.asarray(mixed, np.uint8)


# Colour. Float32 holds every whole number below 2**24, so these sums are exact in any order.

BRIGHTNESS, CONTRAST, SATURATION = range(3)


def grey(np: Any, images: Array) -> Array:
    """Luma as Pillow rounds it (ITU-R 601, in 1/65,536): whole numbers, float32 (B, H, W, 1)."""
    x = np.asarray(images, np.float32)
    # A sum of three channels written out, because XLA is slow at reducing over so short an axis.
    total = x[..., 0:1] * 19595.0 + x[..., 1:2] * 38470.0 + x[..., 2:3] * 7471.0
    return np.floor((total + 32768.0) * (1 / 65536))


def blend(np: Any, degenerate: Array, images: Array, factor: Array) -> Array:
    """What Pillow's ImageEnhance does: from `degenerate` (factor 0) over the image (1) and beyond, rounded down."""
    degenerate = np.asarray(degenerate, np.float32)
    mixed = degenerate + per_image(np, factor) * (np.asarray(images, np.float32) - degenerate)
    return np.asarray(np.minimum(np.maximum(mixed, 0.0), 255.0), np.uint8)


def adjust(np: Any, images: Array, kind: Array, factor: Array) -> Array:
    """Brightness, contrast or saturation, by `kind` (int32 (B,)), times `factor` (float32 (B,))."""
    level = grey(np, images)
    _, height, width, _ = np.shape(images)
    mean = np.floor(per_image(np, np.sum(level, axis=(1, 2, 3))) / (height * width) + 0.5)
    kind = per_image(np, kind)
    degenerate = np.where(kind == SATURATION, level, np.where(kind == CONTRAST, mean, numpy.float32(0)))
    return blend(np, degenerate, images, factor)


def rotate_hue(np: Any, images: Array, steps: Array) -> Array:
    """Hue moved by `steps` (int32 (B,)) of 256 in Pillow's HSV, whose three channels are whole numbers, too."""
    x = np.asarray(images, np.float32)
    red, green, blue = x[..., 0], x[..., 1], x[..., 2]
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    safe = np.maximum(chroma, 1.0)
    sixth = np.where(
        red == value,
        np.where(green >= blue, 0.0 * safe, 6.0 * safe) + (green - blue),
        np.where(green == value, 2.0 * safe + (blue - red), 4.0 * safe + (red - green)),
    )
    hue = np.floor(sixth * 255.0 / (safe * 6.0))
    saturation = np.floor(chroma * 255.0 / np.maximum(value, 1.0)) / 255.0

    moved = np.asarray(hue, np.int32) + per_image(np, steps)[..., 0]
    hue = np.asarray(moved - np.right_shift(moved, 8) * 256, np.float32) * 6.0
    sector = np.floor(hue / 255.0)
    fraction = hue / 255.0 - sector

    def level(weight: Array) -> Array:
        return np.floor(value * (1.0 - saturation * weight) + 0.5)

    low, falling, rising = level(1.0), level(fraction), level(1.0 - fraction)
    sector = np.where(sector == 6.0, 0.0, sector)
    by_sector = (  # red, green, blue
        (value, falling, low, low, rising, value),
        (rising, value, value, falling, low, low),
        (low, low, rising, value, value, falling),
    )
    channels = []
    for levels in by_sector:
        channel = levels[5]
        for number in range(5):
            channel = np.where(sector == number, levels[number], channel)
        channels.append(channel)
    return np.asarray(np.stack(channels, 3), np.uint8)


def sharpen(np: Any, images: Array, factor: Array) -> Array:
    """Away from (factor > 1) or towards (< 1) Pillow's SMOOTH: a 3x3 mean with weight 5 of 13 for the centre."""
    batch, height, width, channels = np.shape(images)
    # Rows and columns * channels, and padded first, because XLA is fast with long axes and equal shapes.
    x = np.reshape(np.asarray(images, np.float32), (batch, height, width * channels))
    padded = np.pad(x, ((0, 0), (1, 1), (channels, channels)))
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    total = rows[..., : -2 * channels] + rows[..., channels:-channels] + rows[..., 2 * channels :] + 4.0 * x
    smooth = np.floor((total + 6.5) * (1 / 13))  # whole totals are at least half a thirteenth away from a step
    border = numpy.ones((height, width, channels), bool)
    border[1:-1, 1:-1] = False
    smooth = np.where(border.reshape(height, width * channels), x, smooth)
    return blend(np, np.reshape(smooth, (batch, height, width, channels)), images, factor)


# Tables of levels.


def solarize(np: Any, images: Array, threshold: Array) -> Array:
    """Levels from `threshold` (float32 (B,)) on inverted; a threshold of 0 inverts the image, 256 keeps it."""
    x = np.asarray(images, np.float32)
    return np.asarray(np.where(x < per_image(np, threshold), x, 255.0 - x), np.uint8)


def posterize(np: Any, images: Array, step: Array) -> Array:
    """Levels rounded down to multiples of `step` (float32 (B,)): 2**(8 - bits) keeps the upper `bits` of each level."""
    step = np.maximum(per_image(np, step), 1.0)
    return np.asarray(np.floor(np.asarray(images, np.float32) / step) * step, np.uint8)


def autocontrast(np: Any, images: Array) -> Array:
    """Each channel stretched so that its darkest level becomes 0 and its lightest 255; rounded down."""
    x = np.asarray(images, np.float32)
    low, high = (np.asarray(_over_pixels(reduce, np, images), np.float32) for reduce in (np.min, np.max))
    stretched = np.floor((x - low) * 255.0 / np.maximum(high - low, 1.0))
    return np.asarray(np.where(high > low, stretched, x), np.uint8)


def equalize(np: Any, images: Array) -> Array:
    """Each channel's levels spread so that they are about equally frequent, as Pillow's ImageOps.equalize."""
    batch, height, width, channels = np.shape(images)
    darker = np.asarray(images < _over_pixels(np.max, np, images), np.int32)  # than the lightest level there is
    step = np.reshape(_over_pixels(np.sum, np, darker), (batch, channels, 1)) // 255
    # Bin 256 c + v counts level v of channel c.
    offset = numpy.arange(channels, dtype=numpy.int32) * 256
    index = np.reshape(np.asarray(images, np.int32) + offset, (batch, height * width * channels))
    counts = np.reshape(_count(np, index, 256 * channels), (batch, channels, 256))
    below = np.cumsum(counts, axis=2) - counts
    # Quotients of small whole numbers: float32 divides them exactly enough, and faster than integers.
    table = np.floor(np.asarray(below + step // 2, np.float32) / np.asarray(np.maximum(step, 1), np.float32))
    table = np.where(step > 0, np.minimum(table, 255.0), numpy.arange(256, dtype=numpy.float32))
    table = np.reshape(np.asarray(table, np.uint8), (batch, 256 * channels, 1))
    return np.reshape(np.take_along_axis(table, index[..., None], 1), (batch, height, width, channels))


def _over_pixels(reduce: Any, np: Any, x: Array) -> Array:
    """np.min, max or sum over the pixels of each channel: (B, H, W, C) -> (B, 1, 1, C)."""
    batch, height, width, channels = np.shape(x)
    # Two steps, the first with a long last axis: XLA on CPU is four times as fast.
    columns = reduce(np.reshape(x, (batch, height, width * channels)), axis=1)
    return reduce(np.reshape(columns, (batch, width, channels)), axis=1)[:, None, None, :]


def _count(np: Any, index: Array, bins: int) -> Array:
    """How often each of range(bins) stands in a row of `index` (int32 (B, N)): int32 (B, bins)."""
    if hasattr(np, "count_rows"):
        return np.count_rows(index, bins)
    zeros = np.zeros((len(index), bins), np.int32)
    place = (np.arange(len(index))[:, None], index)
    if np is not numpy:
        return zeros.at[place].add(1)
    numpy.add.at(zeros, place, 1)
    return zeros


# On float32, after normalisation.


def erase(np: Any, images: Array, top: Array, left: Array, height: Array, width: Array, value: float) -> Array:
    """A rectangle (all int32 (B,); it may reach over the border) set to `value`."""
    _, rows, columns, _ = np.shape(images)
    y = np.arange(rows, dtype=np.int32)[None, :, None, None] - per_image(np, top)
    x = np.arange(columns, dtype=np.int32)[None, None, :, None] - per_image(np, left)
    inside = (y >= 0) & (y < per_image(np, height)) & (x >= 0) & (x < per_image(np, width))
    return np.where(inside, numpy.float32(value), images)
