"""Pixel formulas: the effect of each operation on a batch of images, given parameters that are already drawn.

Images are uint8 (B, H, W, C), parameters have one value per image (B,), and the result is uint8 unless stated
otherwise. Each of its values is Pillow's, whichever array namespace `xp` computes it and however its compiler fuses
multiplications with additions: products are exact, or in float64 and far finer than a level. (Only if an interpolated
level came within 1e-12 of a whole number could its rounding depend on the compiler.) A TPU only emulates float64.
"""

from functools import cache
from typing import Any

import numpy as np

from resnet_flax.data.augment.backends import Array, barrier, count_rows, float64, gather, prefers_products

RADIAN = np.pi / 180


def per_image(xp: Any, parameter: Array) -> Array:
    """Reshape (B,) to (B, 1, 1, 1), to broadcast against images."""
    return xp.reshape(barrier(xp, parameter), (-1, 1, 1, 1))


def pick(xp: Any, images: Array, rows: Array, columns: Array) -> Array:
    """Return images whose pixel (b, y, x) is the input's at rows[b, y, x], columns[b, y, x]; 0 where that is outside.

    rows and columns are int32, broadcastable to (B, H, W).
    """
    if prefers_products(xp):
        return pick_by_products(xp, images, rows, columns)
    batch, height, width, channels = xp.shape(images)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    # One gather per image, so that devices can share a batch.
    place = xp.reshape(xp.where(inside, rows * width + columns, 0), (batch, height * width, 1))
    picked = gather(xp, xp.reshape(images, (batch, height * width, channels)), place)
    return xp.where(inside[..., None], xp.reshape(picked, (batch, height, width, channels)), np.uint8(0))


def pick_by_products(xp: Any, images: Array, rows: Array, columns: Array) -> Array:
    """Return what `pick` does, as products of the images with matrices of zeros and ones, in jax.numpy.

    Each sum has at most one term that is not 0, and a level of 8 bits is exact in bfloat16.
    """
    batch, height, width, channels = xp.shape(images)

    def chosen(places: Array, size: int) -> Array:
        return xp.asarray(places[..., None] == xp.arange(size, dtype=xp.int32), xp.bfloat16)

    levels = xp.asarray(images, xp.bfloat16)
    if rows.shape[2] == columns.shape[1] == 1:  # whole rows and columns move
        moved = xp.einsum("byh,bhwc->bcyw", chosen(rows[:, :, 0], height), levels)
        picked = xp.einsum("bcyw,bxw->byxc", moved, chosen(columns[:, 0], width))
    else:
        rows, columns = (
            xp.reshape(xp.broadcast_to(x, (batch, height, width)), (batch, height * width)) for x in (rows, columns)
        )
        candidates = xp.einsum("bnw,bhwc->bnch", chosen(columns, width), levels)  # of every row
        wanted = rows[:, :, None, None] == xp.arange(height, dtype=xp.int32)
        picked = xp.reshape(xp.sum(xp.where(wanted, candidates, 0), axis=3), (batch, height, width, channels))
    return xp.asarray(picked, xp.uint8)


def shift(xp: Any, images: Array, down: Array, right: Array, reflect: bool = False) -> Array:
    """Shift each image by whole pixels (int32 (B,)). Outside are zeros, or with `reflect` the image mirrored about its
    outermost pixels, as in np.pad's "reflect"."""
    _, height, width, _ = xp.shape(images)
    rows = xp.arange(height, dtype=xp.int32)[None, :, None] - per_image(xp, down)[..., 0]
    columns = xp.arange(width, dtype=xp.int32)[None, None, :] - per_image(xp, right)[..., 0]
    if reflect:
        rows, columns = mirrored(xp, rows, height), mirrored(xp, columns, width)
    return pick(xp, images, rows, columns)


def mirrored(xp: Any, place: Array, size: int) -> Array:
    """Reflect int32 places into an axis of `size` > 1, however far outside: -1 becomes 1, `size` becomes size - 2."""
    period = 2 * (size - 1)
    place = place % period
    return xp.where(place < size, place, period - place)


def mirror(xp: Any, images: Array, chosen: Array) -> Array:
    """Mirror left and right in the images where `chosen` (bool (B,))."""
    return xp.where(per_image(xp, chosen), xp.flip(images, 2), images)


def standardize(xp: Any, images: Array, mean: tuple, std: tuple) -> Array:
    """Return (pixel / 255 - mean) / std per channel, as torchvision does, to within 1e-6: float32."""
    scale = 1 / (255 * np.asarray(std, np.float64))
    offset = -np.asarray(mean, np.float64) / std
    return xp.asarray(images, xp.float32) * scale.astype(np.float32) + offset.astype(np.float32)


# Geometry, in float64 as in Pillow. A matrix is (B, 6): (a, b, c, d, e, f) as for Pillow's Image.transform, where the
# output pixel (x, y) is the input at (a x + b y + c, d x + e y + f) and the centre of the first pixel is (0.5, 0.5).


def affine(
    xp: Any,
    images: Array,
    angle: Array,
    right: Array,
    down: Array,
    scale: Array,
    shear: Array,
    interpolation: str = "nearest",
) -> Array:
    """Rotate clockwise by `angle` and shear along x by `shear` (degrees), scale, and shift (pixels); 0 outside.

    About the centre; every parameter is float32 (B,). Shear comes before rotation, as torchvision.transforms.functional
    defines it.
    """
    with float64(xp):
        matrix = affine_matrix(xp, xp.shape(images)[1:3], angle, right, down, scale, shear)
        if interpolation == "bilinear":
            return affine_bilinear(xp, images, matrix)
        matrix = fixed_point(xp, matrix)
    return affine_nearest(xp, images, matrix)


def affine_matrix(xp: Any, size: tuple, angle: Array, right: Array, down: Array, scale: Array, shear: Array) -> Array:
    """Return the matrix of `affine` for images of `size` (height, width): float64."""
    angle, right, down, scale, shear = (xp.asarray(x, xp.float64) for x in (angle, right, down, scale, shear))
    # To 15 digits as in Pillow's rotate: right angles become exact, and last bits, which depend on the library, vanish.
    cos, sin = (xp.round(function(angle * RADIAN) * 1e15) * 1e-15 for function in (xp.cos, xp.sin))
    tan = xp.tan(shear * RADIAN)
    a, b, d, e = (cos - sin * tan) / scale, (cos * tan + sin) / scale, -sin / scale, cos / scale
    y, x = size[0] / 2, size[1] / 2
    c = a * (-x - right) + b * (-y - down) + x
    f = d * (-x - right) + e * (-y - down) + y
    return xp.stack([a, b, c, d, e, f], 1)


def fixed_point(xp: Any, matrix: Array) -> Array:
    """Round a matrix as Pillow does for small images, to 65,536ths of a pixel: int32.

    It maps the corner of each output pixel to where that pixel's centre comes from.
    """
    a, b, c, d, e, f = (matrix[:, i] for i in range(6))
    centred = xp.stack([a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5], 1)
    return xp.asarray(xp.floor(centred * 65536.0 + 0.5), xp.int32)


def affine_nearest(xp: Any, images: Array, matrix: Array) -> Array:
    """Transform each image by its matrix in `fixed_point`, taking the nearest pixel; 0 outside."""
    matrix = barrier(xp, matrix)
    a, b, c, d, e, f = (matrix[:, i, None, None] for i in range(6))
    _, height, width, _ = xp.shape(images)
    y = xp.arange(height, dtype=xp.int32)[None, :, None]
    x = xp.arange(width, dtype=xp.int32)[None, None, :]
    return pick(xp, images, xp.right_shift(d * x + e * y + f, 16), xp.right_shift(a * x + b * y + c, 16))


def affine_bilinear(xp: Any, images: Array, matrix: Array) -> Array:
    """Transform each image by its matrix, taking the mean of four pixels weighted by nearness, rounded down.

    At the border the outermost pixels repeat; 0 outside.
    """
    matrix = barrier(xp, matrix)
    a, b, c, d, e, f = (matrix[:, i, None, None] for i in range(6))
    _, height, width, _ = xp.shape(images)
    y = xp.asarray(xp.arange(height, dtype=xp.int32)[None, :, None], xp.float64) + 0.5
    x = xp.asarray(xp.arange(width, dtype=xp.int32)[None, None, :], xp.float64) + 0.5
    x, y = a * x + b * y + c, d * x + e * y + f
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    left, top = xp.floor(x - 0.5), xp.floor(y - 0.5)
    right_weight, bottom_weight = (x - 0.5 - left)[..., None], (y - 0.5 - top)[..., None]
    left, top = xp.asarray(left, xp.int32), xp.asarray(top, xp.int32)

    def corner(down: int, right: int) -> Array:
        rows = xp.minimum(xp.maximum(top + down, 0), height - 1)
        columns = xp.minimum(xp.maximum(left + right, 0), width - 1)
        return xp.asarray(pick(xp, images, rows, columns), xp.float64)

    upper = corner(0, 0) + (corner(0, 1) - corner(0, 0)) * right_weight
    lower = corner(1, 0) + (corner(1, 1) - corner(1, 0)) * right_weight
    return xp.asarray(xp.where(inside[..., None], upper + (lower - upper) * bottom_weight, 0.0), xp.uint8)


# Colour. Float32 holds every whole number up to 2**24, so these sums are exact in any order.

BRIGHTNESS, CONTRAST, SATURATION = range(3)


def grey(xp: Any, images: Array) -> Array:
    """Return luma as Pillow rounds it (ITU-R 601, in 1/65,536): whole numbers, float32 (B, H, W, 1)."""
    x = xp.asarray(images, xp.float32)
    # A sum of three channels written out, because XLA is slow at reducing over so short an axis.
    total = x[..., 0:1] * 19595.0 + x[..., 1:2] * 38470.0 + x[..., 2:3] * 7471.0
    return xp.floor((total + 32768.0) * (1 / 65536))


def product(xp: Any, whole: Array, factor: Array) -> Array:
    """Return whole * factor, for whole numbers within +-255, rounded even if the compiler fuses it with an addition.

    Fused, a product is not rounded. With the factor split in two, both products are exact (for float32 factors from
    1/32 up), so fused or not, their sum is rounded as the product would be.
    """
    coarse = xp.floor(factor * 4096.0) * (1 / 4096)
    return whole * coarse + whole * (factor - coarse)


def blend(xp: Any, degenerate: Array, images: Array, factor: Array) -> Array:
    """Interpolate from `degenerate` (factor 0) to the image (1) and beyond, rounded down, as Pillow's ImageEnhance."""
    degenerate = xp.asarray(degenerate, xp.float32)
    difference = xp.asarray(images, xp.float32) - degenerate
    mixed = degenerate + product(xp, difference, per_image(xp, factor))
    return xp.asarray(xp.minimum(xp.maximum(mixed, 0.0), 255.0), xp.uint8)


def adjust(xp: Any, images: Array, kind: Array, factor: Array) -> Array:
    """Multiply brightness, contrast or saturation, by `kind` (int32 (B,)), by `factor` (float32 (B,))."""
    level = grey(xp, images)
    _, height, width, _ = xp.shape(images)
    total = xp.sum(xp.asarray(level, xp.int32), axis=(1, 2, 3))
    mean = xp.asarray((total * 2 + height * width) // (2 * height * width), xp.float32)  # rounded, halves up
    kind = per_image(xp, kind)
    degenerate = xp.where(kind == SATURATION, level, xp.where(kind == CONTRAST, per_image(xp, mean), np.float32(0)))
    return blend(xp, degenerate, images, factor)


def rotate_hue(xp: Any, images: Array, steps: Array) -> Array:
    """Move the hue by `steps` (int32 (B,)) of 256 in Pillow's HSV, whose three channels are whole numbers, too."""
    hue, saturation, value = to_hsv(xp, images)
    hue = xp.bitwise_and(xp.asarray(hue, xp.int32) + per_image(xp, steps)[..., 0], 255)
    return from_hsv(xp, hue, saturation, value)


@cache
def _hues() -> np.ndarray:
    """Tabulate Pillow's hue: uint8 (6 * 256 * 256,) by sector, chroma, and largest minus middle channel.

    Pillow divides in float32 and continues in float64. Where the exact hue is a whole number, only the same roundings
    tell whether Pillow's is one less.
    """
    chroma, below = np.arange(256, dtype=np.float32)[:, None], np.arange(256, dtype=np.float32)
    part = (below / np.maximum(chroma, 1)).astype(np.float64)
    sixths = np.stack([1 - part, 1 + part, 3 - part, 3 + part, 5 - part, part - 1]).astype(np.float32)
    turns = np.fmod(sixths.astype(np.float64) / 6 + 1, 1).astype(np.float32)
    return (turns.astype(np.float64) * 255).astype(np.uint8).ravel()


def to_hsv(xp: Any, images: Array) -> tuple[Array, Array, Array]:
    """Return hue (uint8), saturation and value (int32) of every pixel, each (B, H, W) in 0..255."""
    x = xp.asarray(images, xp.int32)
    red, green, blue = x[..., 0], x[..., 1], x[..., 2]
    value, least = xp.maximum(xp.maximum(red, green), blue), xp.minimum(xp.minimum(red, green), blue)
    chroma = value - least
    sector = xp.where(
        red == value,
        xp.where(green >= blue, 0, 5),
        xp.where(green == value, xp.where(red >= blue, 1, 2), xp.where(green >= red, 3, 4)),
    )
    below = value * 2 + least - red - green - blue
    hue = xp.take(_hues(), barrier(xp, (sector * 256 + chroma) * 256 + below), axis=0)
    # The half keeps the quotient off the steps, so that no rounding of the division matters.
    quotient = (xp.asarray(chroma * 255, xp.float32) + 0.5) / xp.asarray(xp.maximum(value, 1), xp.float32)
    return barrier(xp, hue), xp.asarray(quotient, xp.int32), value


def from_hsv(xp: Any, hue: Array, saturation: Array, value: Array) -> Array:
    """Return the images uint8 (B, H, W, 3) of hue, saturation and value, int32 (B, H, W) in 0..255.

    Uses whole numbers below 2**24, which float32 holds: for all colours the exact quotients round as Pillow's do.
    """
    hue, saturation, value = (xp.asarray(x, xp.float32) for x in (hue, saturation, value))
    sector = xp.floor((hue * 6.0 + 0.5) * (1 / 255))
    part = hue * 6.0 - sector * 255.0
    sector = xp.where(sector == 6.0, 0.0, sector)
    falling = (sector == 1.0) | (sector == 3.0) | (sector == 5.0)
    low = xp.floor((value * (255.0 - saturation) + 127.5) * (1 / 255))
    product = value * (65025.0 - saturation * xp.where(falling, part, 255.0 - part))
    middle = xp.floor(product * (1 / 65025) + 0.5)
    remainder = product - middle * 65025.0  # tells where the quotient was rounded to the wrong side of a half
    middle = middle + xp.where(remainder > 32512.0, 1.0, 0.0) - xp.where(remainder < -32512.0, 1.0, 0.0)

    def channel(*sectors: float) -> Array:
        """Return the middle level in the first two of these sectors, the least in the other two."""
        is_middle, is_low = ((sector == sectors[i]) | (sector == sectors[i + 1]) for i in (0, 2))
        return xp.where(is_middle, middle, xp.where(is_low, low, value))

    return xp.asarray(xp.stack([channel(1, 4, 2, 3), channel(0, 3, 4, 5), channel(2, 5, 0, 1)], 3), xp.uint8)


def sharpen(xp: Any, images: Array, factor: Array) -> Array:
    """Extrapolate from (factor > 1) or interpolate to (< 1) Pillow's SMOOTH, a 3x3 mean with 5/13 for the centre."""
    batch, height, width, channels = xp.shape(images)
    # As (rows, columns * channels), and padded first, because XLA is fast with long axes and equal shapes.
    x = xp.reshape(xp.asarray(images, xp.float32), (batch, height, width * channels))
    padded = xp.pad(x, ((0, 0), (1, 1), (channels, channels)))
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    total = rows[..., : -2 * channels] + rows[..., channels:-channels] + rows[..., 2 * channels :] + 4.0 * x
    smooth = xp.floor((total + 6.5) * (1 / 13))  # whole totals are at least half a thirteenth away from a step
    border = np.ones((height, width, channels), bool)
    border[1:-1, 1:-1] = False
    smooth = xp.where(border.reshape(height, width * channels), x, smooth)
    return blend(xp, xp.reshape(smooth, (batch, height, width, channels)), images, factor)


# Tables of levels. Adding a half keeps float32 quotients of whole numbers off the steps: no rounding of them matters.


def solarize(xp: Any, images: Array, threshold: Array) -> Array:
    """Invert the levels from `threshold` (float32 (B,)) on; a threshold of 0 inverts the image, 256 keeps it."""
    x = xp.asarray(images, xp.float32)
    return xp.asarray(xp.where(x < per_image(xp, threshold), x, 255.0 - x), xp.uint8)


def posterize(xp: Any, images: Array, step: Array) -> Array:
    """Round levels down to multiples of `step` (float32 (B,)): 2**(8 - bits) keeps the upper `bits` of each level."""
    step = xp.maximum(per_image(xp, step), 1.0)
    return xp.asarray(xp.floor((xp.asarray(images, xp.float32) + 0.5) / step) * step, xp.uint8)


def autocontrast(xp: Any, images: Array) -> Array:
    """Stretch each channel so that its darkest level becomes 0 and its lightest 255; rounded down.

    Uses float64 like Pillow, where a result that should be a whole number may lie just below it and become one less.
    """
    low, high = (_over_pixels(reduce, xp, images) for reduce in (xp.min, xp.max))
    with float64(xp):
        darkest, lightest, level = (xp.asarray(x, xp.float64) for x in (low, high, images))
        scale = barrier(xp, 255.0 / xp.maximum(lightest - darkest, 1.0))
        stretched = product(xp, level, scale) - product(xp, darkest, scale)
        stretched = xp.asarray(xp.minimum(xp.maximum(stretched, 0.0), 255.0), xp.uint8)
    return xp.where(high > low, stretched, images)


def equalize(xp: Any, images: Array) -> Array:
    """Spread the levels of each channel so that they are about equally frequent."""
    batch, height, width, channels = xp.shape(images)
    darker = xp.asarray(images < _over_pixels(xp.max, xp, images), xp.int32)  # than the lightest level of the channel
    step = xp.reshape(_over_pixels(xp.sum, xp, darker), (batch, channels, 1)) // 255
    # Bin 256 c + v counts level v of channel c.
    offset = np.arange(channels, dtype=np.int32) * 256
    index = xp.reshape(xp.asarray(images, xp.int32) + offset, (batch, height * width * channels))
    counts = xp.reshape(count_rows(xp, index, 256 * channels), (batch, channels, 256))
    below = xp.cumsum(counts, axis=2) - counts
    # Faster than integer division, and as exact.
    table = xp.floor((xp.asarray(below + step // 2, xp.float32) + 0.5) / xp.asarray(xp.maximum(step, 1), xp.float32))
    table = xp.where(step > 0, xp.minimum(table, 255.0), np.arange(256, dtype=np.float32))
    table = xp.reshape(xp.asarray(table, xp.uint8), (batch, 256 * channels, 1))
    return xp.reshape(gather(xp, table, index[..., None]), (batch, height, width, channels))


def _over_pixels(reduce: Any, xp: Any, x: Array) -> Array:
    """Apply xp.min, max or sum to the pixels of each channel: (B, H, W, C) -> (B, 1, 1, C)."""
    batch, height, width, channels = xp.shape(x)
    # Two steps, the first with a long last axis: XLA on CPU is four times as fast.
    columns = reduce(xp.reshape(x, (batch, height, width * channels)), axis=1)
    return reduce(xp.reshape(columns, (batch, width, channels)), axis=1)[:, None, None, :]


# On float32, after normalisation.


def erase(xp: Any, images: Array, top: Array, left: Array, height: Array, width: Array, value: float) -> Array:
    """Set a rectangle (all int32 (B,); it may extend beyond the border) to `value`."""
    _, rows, columns, _ = xp.shape(images)
    y = xp.arange(rows, dtype=xp.int32)[None, :, None, None] - per_image(xp, top)
    x = xp.arange(columns, dtype=xp.int32)[None, None, :, None] - per_image(xp, left)
    inside = (y >= 0) & (y < per_image(xp, height)) & (x >= 0) & (x < per_image(xp, width))
    return xp.where(inside, np.float32(value), images)
