"""The operations of augmentation policies, and `OPS`, the registry of their names and parameters.

An operation is one line in `OPS` and a function (xp, images, draws, arguments) -> images, which draws parameters for
each image and calls a formula of `pixels`. All follow torchvision.transforms on PIL images: before `normalize`, images
are uint8 and, given the drawn parameters, every value is the one that Pillow returns; operations after `normalize` work
on float32.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from resnet_flax.data.augment import autoaugment, pixels
from resnet_flax.data.augment.backends import Array, barrier
from resnet_flax.data.augment.draws import Draws

# Operations: (xp, images, draws, arguments) -> images.


def crop(xp: Any, images: Array, draws: Draws, pad: int, mode: str) -> Array:
    """Pad every side by `pad` pixels, which are 0 ("constant") or mirror the image at its border ("reflect"), and cut
    out a random window of the original size (RandomCrop)."""
    down, right = (pad - draws.integers(2 * pad + 1) for _ in range(2))
    return pixels.shift(xp, images, down, right, reflect=mode == "reflect")


def flip(xp: Any, images: Array, draws: Draws, when: str) -> Array:
    """Mirror left and right with probability 1/2 ("random", RandomHorizontalFlip), or in every other epoch, starting
    with half of the examples in the first ("alternating"; Jordan, 2024, arXiv:2404.00498)."""
    return pixels.mirror(xp, images, draws.turns if when == "alternating" else draws.chance(0.5))


def rotate(xp: Any, images: Array, draws: Draws, degrees: float, interpolation: str) -> Array:
    """Rotate about the centre by an angle within +-`degrees` (RandomRotation)."""
    return affine(xp, images, draws, degrees, 0.0, 1.0, 1.0, 0.0, interpolation)


def translate(xp: Any, images: Array, draws: Draws, fraction: float) -> Array:
    """Shift by whole pixels, up to +-`fraction` of the size along each axis (RandomAffine(0, translate))."""
    right, down = _moves(xp, images, draws, fraction)
    return pixels.shift(xp, images, xp.asarray(down, xp.int32), xp.asarray(right, xp.int32))


def affine(
    xp: Any,
    images: Array,
    draws: Draws,
    degrees: float,
    translate: float,
    scale_low: float,
    scale_high: float,
    shear: float,
    interpolation: str,
) -> Array:
    """Rotate within +-`degrees`, shift as `translate` does, scale, and shear along x within +-`shear` degrees
    (RandomAffine)."""
    angle = draws.uniform(-degrees, degrees)
    right, down = _moves(xp, images, draws, translate)
    scale, shears = draws.uniform(scale_low, scale_high), draws.uniform(-shear, shear)
    return pixels.affine(xp, images, angle, right, down, scale, shears, interpolation)


def _moves(xp: Any, images: Array, draws: Draws, fraction: float) -> tuple[Array, Array]:
    """Draw shifts to the right and down, in whole pixels: float32 (B,) each."""
    _, height, width, _ = xp.shape(images)
    right, down = fraction * width, fraction * height
    return xp.round(draws.uniform(-right, right)), xp.round(draws.uniform(-down, down))


def color_jitter(
    xp: Any, images: Array, draws: Draws, brightness: float, contrast: float, saturation: float, hue: float
) -> Array:
    """Scale brightness, contrast and saturation by factors within 1 +- strength and rotate the hue within +-`hue` of a
    turn, in an order drawn for each image (ColorJitter)."""
    factors = [draws.uniform(max(0, 1 - strength), 1 + strength) for strength in (brightness, contrast, saturation)]
    steps = xp.asarray(draws.uniform(-hue, hue) * 255.0, xp.int32)
    for kind in draws.permutation(4 if hue else 3):
        factor = xp.where(kind == 0, factors[0], xp.where(kind == 1, factors[1], factors[2]))
        adjusted = pixels.adjust(xp, images, kind, factor)
        if hue:
            turned = pixels.rotate_hue(xp, images, steps)
            adjusted = xp.where(pixels.per_image(xp, kind == 3), turned, adjusted)
        images = barrier(xp, adjusted)
    return images


def sharpness(xp: Any, images: Array, draws: Draws, factor: float, p: float) -> Array:
    """Sharpen (`factor` > 1) or blur (< 1) with probability `p` (RandomAdjustSharpness)."""
    chosen = draws.chance(p)
    return pixels.sharpen(xp, images, xp.where(chosen, np.float32(factor), np.float32(1)))


def random_erasing(
    xp: Any,
    images: Array,
    draws: Draws,
    p: float,
    area_low: float,
    area_high: float,
    ratio_low: float,
    ratio_high: float,
    value: float,
) -> Array:
    """Set a rectangle to `value` with probability `p`; its area is a fraction of the image's, and the logarithm of its
    ratio of height to width is uniform (RandomErasing; Zhong et al. 2017)."""
    _, rows, columns, _ = xp.shape(images)
    height = width = draws.integers(1) + max(rows, columns)  # an array of the largest size
    # torchvision redraws a rectangle that does not fit, up to ten times: draw all at once and keep the first that fits.
    longest = math.sqrt(rows * columns * area_high * max(ratio_high, 1 / ratio_low))
    for _ in range(10 if longest >= min(rows, columns) - 1 else 1):
        area = draws.uniform(area_low, area_high) * (rows * columns)
        ratio = xp.exp(draws.uniform(math.log(ratio_low), math.log(ratio_high)))
        again = (height >= rows) | (width >= columns)
        height = xp.where(again, xp.asarray(xp.round(xp.sqrt(area * ratio)), xp.int32), height)
        width = xp.where(again, xp.asarray(xp.round(xp.sqrt(area / ratio)), xp.int32), width)
    fits = (height < rows) & (width < columns)
    height = xp.where(fits & draws.chance(p), height, 0)
    top = draws.integers(xp.maximum(rows - height, 0) + 1)
    left = draws.integers(xp.maximum(columns - width, 0) + 1)
    return pixels.erase(xp, images, top, left, height, width, value)


def cutout(xp: Any, images: Array, draws: Draws, size: int) -> Array:
    """Set a square around a random pixel, clipped at the border, to 0 (DeVries and Taylor 2017).

    Its side is `size` pixels, rounded down to an even number, as in the authors' code.
    """
    _, height, width, _ = xp.shape(images)
    top, left = draws.integers(height) - size // 2, draws.integers(width) - size // 2
    extent = top * 0 + size // 2 * 2
    return pixels.erase(xp, images, top, left, extent, extent, 0.0)


# The registry.


class Number(NamedTuple):
    """A parameter that is a number in [low, high]; it is required if it has no default."""

    low: float
    high: float
    default: float | None = None
    whole: bool = False

    def read(self, text: str) -> float:
        if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII):
            raise ValueError(self.expected())
        value = float(text)
        if not self.low <= value <= self.high or (self.whole and value != int(value)):
            raise ValueError(self.expected())
        return int(value) if self.whole else value

    def expected(self) -> str:
        return f"must be a {'whole ' if self.whole else ''}number from {self.low:g} to {self.high:g}"


class Word(NamedTuple):
    """A parameter that is one of a few words, required if it has no default."""

    choices: tuple[str, ...]
    default: str | None = None

    def read(self, text: str) -> str:
        if text not in self.choices:
            raise ValueError(f"must be {' or '.join(self.choices)}")
        return text


INTERPOLATION = Word(("nearest", "bilinear"), "nearest")


@dataclass(frozen=True)
class Op:
    """An operation: its function, its parameters in order, and whether it follows `normalize`."""

    apply: Callable[..., Array]
    parameters: Mapping[str, Number | Word] = field(default_factory=dict)
    on_floats: bool = False
    ranges: tuple[str, ...] = ()  # parameters NAME_low and NAME_high are the bounds of a range NAME


STRENGTH = Number(0, 10)

OPS = {
    "crop": Op(crop, {"pad": Number(0, 64, whole=True), "mode": Word(("constant", "reflect"), "constant")}),
    "flip": Op(flip, {"when": Word(("random", "alternating"), "random")}),
    "rotate": Op(rotate, {"degrees": Number(0, 180), "interpolation": INTERPOLATION}),
    "translate": Op(translate, {"fraction": Number(0, 1)}),
    "affine": Op(
        affine,
        {
            "degrees": Number(0, 180),
            "translate": Number(0, 1, 0),
            "scale_low": Number(0.1, 10, 1),
            "scale_high": Number(0.1, 10, 1),
            "shear": Number(0, 80, 0),
            "interpolation": INTERPOLATION,
        },
        ranges=("scale",),
    ),
    "color_jitter": Op(
        color_jitter,
        {"brightness": STRENGTH, "contrast": STRENGTH, "saturation": STRENGTH, "hue": Number(0, 0.5, 0)},
    ),
    "sharpness": Op(sharpness, {"factor": Number(0, 10), "p": Number(0, 1, 0.5)}),
    "autoaugment": Op(autoaugment.autoaugment),
    "trivial_augment": Op(autoaugment.trivial_augment),
    "rand_augment": Op(
        autoaugment.rand_augment, {"n": Number(1, 10, 2, whole=True), "m": Number(0, 30, 9, whole=True)}
    ),
    "random_erasing": Op(
        random_erasing,
        {
            "p": Number(0, 1, 0.5),
            "area_low": Number(0, 1, 0.02),
            "area_high": Number(0, 1, 0.33),
            "ratio_low": Number(0.01, 100, 0.3),
            "ratio_high": Number(0.01, 100, 3.3),
            "value": Number(-100, 100, 0),
        },
        on_floats=True,
        ranges=("area", "ratio"),
    ),
    "cutout": Op(cutout, {"size": Number(2, 1024, whole=True)}, on_floats=True),
}
