"""Pixel formulas: what each operation does to a batch of images, given parameters that are already drawn.

Images are uint8 (B, H, W, C), parameters have one value per image (B,), and the result is uint8 again unless it says
otherwise. `xp` is the namespace that computes: numpy, jax.numpy or `resnet_flax.data.augment.tf_numpy`.
"""

from typing import Any

import numpy as np

from resnet_flax.data.augment.backends import Array, barrier, count_rows


def per_image(xp: Any, parameter: Array) -> Array:
    """Reshape (B,) to (B, 1, 1, 1), to broadcast against images."""
    return xp.reshape(barrier(xp, parameter), (-1, 1, 1, 1))


def pick(xp: Any, images: Array, rows: Array, columns: Array) -> Array:
    """Gather pixels: output (b, y, x) is the input at rows[b, y, x], columns[b, y, x]; 0 where that is outside.

    rows and columns: int32, broadcastable to (B, H, W).
    """
    batch, height, width, channels = xp.shape(images)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    # The pixel behind an image's last is the fill. One gather per image, so that devices can share a batch.
    place = xp.reshape(xp.where(inside, rows * width + columns, height * width), (batch, height * width, 1))
    fill = xp.zeros((batch, 1, channels), xp.uint8)
    table = xp.concatenate([xp.reshape(images, (batch, height * width, channels)), fill], 1)
    return xp.reshape(xp.take_along_axis(table, place, 1), (batch, height, width, channels))


def shift(xp: Any, images: Array, down: Array, right: Array, reflect: bool = False) -> Array:
    """Shift each image by whole pixels (int32 (B,)); outside is 0, or with `reflect` the image again,
    mirrored about its outermost pixels as np.pad's "reflect"."""
    _, height, width, _ = xp.shape(images)
    rows = xp.arange(height, dtype=xp.int32)[None, :, None] - per_image(xp, down)[..., 0]
    columns = xp.arange(width, dtype=xp.int32)[None, None, :] - per_image(xp, right)[..., 0]
    if reflect:
        rows, columns = mirrored(xp, rows, height), mirrored(xp, columns, width)
    return pick(xp, images, rows, columns)


def mirrored(xp: Any, place: Array, size: int) -> Array:
    """Reflect int32 positions along an axis of `size` > 1 into it: -1 becomes 1, and `size` becomes size - 2."""
    period = 2 * (size - 1)
    place = place % period
    return xp.where(place < size, place, period - place)


def mirror(xp: Any, images: Array, chosen: Array) -> Array:
    """Mirror left and right the images that are `chosen` (bool (B,))."""
    return xp.where(per_image(xp, chosen), xp.flip(images, 2), images)


def standardize(xp: Any, images: Array, mean: tuple, std: tuple) -> Array:
    """Return float32 (pixel / 255 - mean) / std per channel, as torchvision's ToTensor and Normalize."""
    scale = 1 / (255 * np.asarray(std, np.float64))
    offset = -np.asarray(mean, np.float64) / std
    return xp.asarray(images, xp.float32) * scale.astype(np.float32) + offset.astype(np.float32)


# Geometry. A matrix is float32 (B, 6), (a, b, c, d, e, f) as in Pillow's Image.transform: the output pixel (x, y) is
# the input at (a x + b y + c, d x + e y + f), where the centre of the first pixel is (0.5, 0.5).


def affine_matrix(xp: Any, size: tuple, angle: Array, right: Array, down: Array, scale: Array, shear: Array) -> Array:
    """Return the matrix that rotates clockwise by `angle`, shears along x by `shear` (degrees), scales and shifts.

    About the centre of images of `size` (height, width); every parameter is float32 (B,). Shear, then rotation, as
    torchvision.transforms.functional.affine defines it.
    """
    radian = np.float32(np.pi / 180)
    cos, sin, tan = xp.cos(angle * radian), xp.sin(angle * radian), xp.tan(shear * radian)
    a, b, d, e = (cos - sin * tan) / scale, (cos * tan + sin) / scale, -sin / scale, cos / scale
    y, x = size[0] / 2, size[1] / 2
    c = x - a * (x + right) - b * (y + down)
    f = y - d * (x + right) - e * (y + down)
    return xp.stack([a, b, c, d, e, f], 1)


def affine(xp: Any, images: Array, matrix: Array, interpolation: str = "nearest") -> Array:
    """Transform each image by its matrix; 0 outside."""
    formula = _affine_nearest if interpolation == "nearest" else _affine_bilinear
    return formula(xp, images, barrier(xp, matrix))


def _affine_nearest(xp: Any, images: Array, matrix: Array) -> Array:
    """Take the nearest pixel, in integers of 1/65,536 pixel as Pillow does for small images: no rounding can differ."""
    a, b, c, d, e, f = (matrix[:, i, None, None] for i in range(6))
    a, b, c, d, e, f = (
        xp.asarray(xp.floor(number * 65536.0 + 0.5), xp.int32)
        for number in (a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5)
    )
    _, height, width, _ = xp.shape(images)
    y = xp.arange(height, dtype=xp.int32)[None, :, None]
    x = xp.arange(width, dtype=xp.int32)[None, None, :]
    return pick(xp, images, xp.right_shift(d * x + e * y + f, 16), xp.right_shift(a * x + b * y + c, 16))


def _affine_bilinear(xp: Any, images: Array, matrix: Array) -> Array:
    """Take the mean of four pixels weighted by nearness, rounded down; at the border the outermost pixels repeat."""
    a, b, c, d, e, f = (matrix[:, i, None, None] for i in range(6))
    _, height, width, _ = xp.shape(images)
    y = xp.arange(height, dtype=xp.float32)[None, :, None] + 0.5
    x = xp.arange(width, dtype=xp.float32)[None, None, :] + 0.5
    x, y = a * x + b * y + c, d * x + e * y + f
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    left, top = xp.floor(x - 0.5), xp.floor(y - 0.5)
    right_weight, bottom_weight = (x - 0.5 - left)[..., None], (y - 0.5 - top)[..., None]
    left, top = xp.asarray(left, xp.int32), xp.asarray(top, xp.int32)

    def corner(down: int, right: int) -> Array:
        rows = xp.minimum(xp.maximum(top + down, 0), height - 1)
        columns = xp.minimum(xp.maximum(left + right, 0), width - 1)
        return xp.asarray(pick(xp, images, rows, columns), xp.float32)

    upper = corner(0, 0) + (corner(0, 1) - corner(0, 0)) * right_weight
    lower = corner(1, 0) + (corner(1, 1) - corner(1, 0)) * right_weight
    mixed = xp.where(inside[..., None], upper + (lower - upper) * bottom_weight, np.float32(0))
    return xp.asarray(mixed, xp.uint8)


# Colour. Float32 holds every whole number below 2**24, so these sums are exact in any order.

BRIGHTNESS, CONTRAST, SATURATION = range(3)


def grey(xp: Any, images: Array) -> Array:
    """Return luma as Pillow rounds it (ITU-R 601, in 1/65,536): whole numbers, float32 (B, H, W, 1)."""
    x = xp.asarray(images, xp.float32)
    # A sum of three channels written out, because XLA is slow at reducing over so short an axis.
    total = x[..., 0:1] * 19595.0 + x[..., 1:2] * 38470.0 + x[..., 2:3] * 7471.0
    return xp.floor((total + 32768.0) * (1 / 65536))


def blend(xp: Any, degenerate: Array, images: Array, factor: Array) -> Array:
    """Interpolate from `degenerate` (factor 0) to the image (1) and beyond, rounded down, as Pillow's ImageEnhance."""
    degenerate = xp.asarray(degenerate, xp.float32)
    mixed = degenerate + per_image(xp, factor) * (xp.asarray(images, xp.float32) - degenerate)
    return xp.asarray(xp.minimum(xp.maximum(mixed, 0.0), 255.0), xp.uint8)


def adjust(xp: Any, images: Array, kind: Array, factor: Array) -> Array:
    """Multiply brightness, contrast or saturation, by `kind` (int32 (B,)), by `factor` (float32 (B,))."""
    level = grey(xp, images)
    _, height, width, _ = xp.shape(images)
    mean = xp.floor(per_image(xp, xp.sum(level, axis=(1, 2, 3))) / (height * width) + 0.5)
    kind = per_image(xp, kind)
    degenerate = xp.where(kind == SATURATION, level, xp.where(kind == CONTRAST, mean, np.float32(0)))
    return blend(xp, degenerate, images, factor)


def rotate_hue(xp: Any, images: Array, steps: Array) -> Array:
    """Move the hue by `steps` (int32 (B,)) of 256 in Pillow's HSV, whose three channels are whole numbers, too."""
    x = xp.asarray(images, xp.float32)
    red, green, blue = x[..., 0], x[..., 1], x[..., 2]
    value = xp.maximum(xp.maximum(red, green), blue)
    chroma = value - xp.minimum(xp.minimum(red, green), blue)
    safe = xp.maximum(chroma, 1.0)
    sixth = xp.where(
        red == value,
        xp.where(green >= blue, 0.0 * safe, 6.0 * safe) + (green - blue),
        xp.where(green == value, 2.0 * safe + (blue - red), 4.0 * safe + (red - green)),
    )
    hue = xp.floor(sixth * 255.0 / (safe * 6.0))
    saturation = xp.floor(chroma * 255.0 / xp.maximum(value, 1.0)) / 255.0

    moved = xp.asarray(hue, xp.int32) + per_image(xp, steps)[..., 0]
    hue = xp.asarray(moved - xp.right_shift(moved, 8) * 256, xp.float32) * 6.0
    sector = xp.floor(hue / 255.0)
    fraction = hue / 255.0 - sector

    def level(weight: Array) -> Array:
        return xp.floor(value * (1.0 - saturation * weight) + 0.5)

    low, falling, rising = level(1.0), level(fraction), level(1.0 - fraction)
    sector = xp.where(sector == 6.0, 0.0, sector)
    by_sector = (  # red, green, blue
        (value, falling, low, low, rising, value),
        (rising, value, value, falling, low, low),
        (low, low, rising, value, value, falling),
    )
    channels = []
    for levels in by_sector:
        channel = levels[5]
        for number in range(5):
            channel = xp.where(sector == number, levels[number], channel)
        channels.append(channel)
    return xp.asarray(xp.stack(channels, 3), xp.uint8)


def sharpen(xp: Any, images: Array, factor: Array) -> Array:
    """Move away from (factor > 1) or towards (< 1) Pillow's SMOOTH, a 3x3 mean with weight 5 of 13 for the centre."""
    batch, height, width, channels = xp.shape(images)
    # Rows and columns * channels, and padded first, because XLA is fast with long axes and equal shapes.
    x = xp.reshape(xp.asarray(images, xp.float32), (batch, height, width * channels))
    padded = xp.pad(x, ((0, 0), (1, 1), (channels, channels)))
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    total = rows[..., : -2 * channels] + rows[..., channels:-channels] + rows[..., 2 * channels :] + 4.0 * x
    smooth = xp.floor((total + 6.5) * (1 / 13))  # whole totals are at least half a thirteenth away from a step
    border = np.ones((height, width, channels), bool)
    border[1:-1, 1:-1] = False
    smooth = xp.where(border.reshape(height, width * channels), x, smooth)
    return blend(xp, xp.reshape(smooth, (batch, height, width, channels)), images, factor)


# Tables of levels.


def solarize(xp: Any, images: Array, threshold: Array) -> Array:
    """Invert the levels from `threshold` (float32 (B,)) on; a threshold of 0 inverts the image, 256 keeps it."""
    x = xp.asarray(images, xp.float32)
    return xp.asarray(xp.where(x < per_image(xp, threshold), x, 255.0 - x), xp.uint8)


def posterize(xp: Any, images: Array, step: Array) -> Array:
    """Round levels down to multiples of `step` (float32 (B,)): 2**(8 - bits) keeps the upper `bits` of each level."""
    step = xp.maximum(per_image(xp, step), 1.0)
    return xp.asarray(xp.floor(xp.asarray(images, xp.float32) / step) * step, xp.uint8)


def autocontrast(xp: Any, images: Array) -> Array:
    """Stretch each channel so that its darkest level becomes 0 and its lightest 255, rounded down."""
    x = xp.asarray(images, xp.float32)
    low, high = (xp.asarray(_over_pixels(reduce, xp, images), xp.float32) for reduce in (xp.min, xp.max))
    stretched = xp.floor((x - low) * 255.0 / xp.maximum(high - low, 1.0))
    return xp.asarray(xp.where(high > low, stretched, x), xp.uint8)


def equalize(xp: Any, images: Array) -> Array:
    """Spread each channel's levels so that they are about equally frequent, as Pillow's ImageOps.equalize."""
    batch, height, width, channels = xp.shape(images)
    darker = xp.asarray(images < _over_pixels(xp.max, xp, images), xp.int32)  # than the lightest level there is
    step = xp.reshape(_over_pixels(xp.sum, xp, darker), (batch, channels, 1)) // 255
    # Bin 256 c + v counts level v of channel c.
    offset = np.arange(channels, dtype=np.int32) * 256
    index = xp.reshape(xp.asarray(images, xp.int32) + offset, (batch, height * width * channels))
    counts = xp.reshape(count_rows(xp, index, 256 * channels), (batch, channels, 256))
    below = xp.cumsum(counts, axis=2) - counts
    # Quotients of small whole numbers: float32 divides them exactly enough, and faster than integers.
    table = xp.floor(xp.asarray(below + step // 2, xp.float32) / xp.asarray(xp.maximum(step, 1), xp.float32))
    table = xp.where(step > 0, xp.minimum(table, 255.0), np.arange(256, dtype=np.float32))
    table = xp.reshape(xp.asarray(table, xp.uint8), (batch, 256 * channels, 1))
    return xp.reshape(xp.take_along_axis(table, index[..., None], 1), (batch, height, width, channels))


def _over_pixels(reduce: Any, xp: Any, x: Array) -> Array:
    """Reduce by xp.min, max or sum over the pixels of each channel: (B, H, W, C) -> (B, 1, 1, C)."""
    batch, height, width, channels = xp.shape(x)
    # Two steps, the first with a long last axis: XLA on CPU is four times as fast.
    columns = reduce(xp.reshape(x, (batch, height, width * channels)), axis=1)
    return reduce(xp.reshape(columns, (batch, width, channels)), axis=1)[:, None, None, :]


# On float32, after normalisation.


def erase(xp: Any, images: Array, top: Array, left: Array, height: Array, width: Array, value: float) -> Array:
    """Set a rectangle (all int32 (B,); it may cross the border) to `value`."""
    _, rows, columns, _ = xp.shape(images)
    y = xp.arange(rows, dtype=xp.int32)[None, :, None, None] - per_image(xp, top)
    x = xp.arange(columns, dtype=xp.int32)[None, None, :, None] - per_image(xp, left)
    inside = (y >= 0) & (y < per_image(xp, height)) & (x >= 0) & (x < per_image(xp, width))
    return xp.where(inside, np.float32(value), images)
