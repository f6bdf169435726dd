"""Augmentation policies: a string in the config names operations, and they are applied from left to right.

    "flip|crop(4)|color_jitter(0.2,0.2,0.2)|autoaugment|rotate(15)|normalize(cifar10)"

An operation is a function here that draws its parameters and calls a formula of `pixels`, and one line in `OPS`. All
follow torchvision's definitions (torchvision.transforms on PIL images): up to `normalize` images stay uint8 and every
operation rounds as Pillow does; what follows `normalize` works on float32, as torchvision's on tensors.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy

from resnet_flax.data.augment import autoaugment, pixels
from resnet_flax.data.augment.draws import Draws

Array = Any  # numpy.ndarray, jax.Array or tf.Tensor, as `np` makes them


def crop(np: Any, images: Array, draws: Draws, pad: int, mode: str) -> Array:
    """Pads by `pad` pixels on every side and cuts a random window of the old size (RandomCrop). The pixels are 0
    ("constant"), or the image mirrored at its border ("reflect")."""
    down, right = (pad - draws.integers(2 * pad + 1) for _ in range(2))
    return pixels.shift(np, images, down, right, reflect=mode == "reflect")


def flip(np: Any, images: Array, draws: Draws, when: str) -> Array:
    """Left and right exchanged: with probability a half ("random", RandomHorizontalFlip), or every other time that the
    example is seen, a half of the examples at first ("alternating"; Jordan, 2024, arXiv:2404.00498)."""
    return pixels.mirror(np, images, draws.turns if when == "alternating" else draws.chance(0.5))


def rotate(np: Any, images: Array, draws: Draws, degrees: float, interpolation: str) -> Array:
    """A rotation about the centre by an angle within +-`degrees` (RandomRotation)."""
    return affine(np, images, draws, degrees, 0.0, 1.0, 1.0, 0.0, interpolation)


def translate(np: Any, images: Array, draws: Draws, fraction: float) -> Array:
    """A move by whole pixels, up to +-`fraction` of the size along each axis (RandomAffine(0, translate))."""
    right, down = _moves(np, images, draws, fraction)
    return pixels.shift(np, images, np.asarray(down, np.int32), np.asarray(right, np.int32))


def affine(
    np: Any,
    images: Array,
    draws: Draws,
    degrees: float,
    translate: float,
    scale_low: float,
    scale_high: float,
    shear: float,
    interpolation: str,
) -> Array:
    """Rotation within +-`degrees`, moves as `translate`, scale, and shear along x within +-`shear` degrees
    (RandomAffine)."""
    angle = draws.uniform(-degrees, degrees)
    right, down = _moves(np, images, draws, translate)
    scale, shears = draws.uniform(scale_low, scale_high), draws.uniform(-shear, shear)
    matrix = pixels.affine_matrix(np, np.shape(images)[1:3], angle, right, down, scale, shears)
    return pixels.affine(np, images, matrix, interpolation)


def _moves(np: Any, images: Array, draws: Draws, fraction: float) -> tuple[Array, Array]:
    """Whole numbers of pixels to the right and down, float32 (B,)."""
    _, height, width, _ = np.shape(images)
    right, down = fraction * width, fraction * height
    return np.round(draws.uniform(-right, right)), np.round(draws.uniform(-down, down))


def color_jitter(
    np: Any, images: Array, draws: Draws, brightness: float, contrast: float, saturation: float, hue: float
) -> Array:
    """Brightness, contrast and saturation by factors within 1 +- strength, hue within +-`hue` of a turn, in an order
    drawn for each image (ColorJitter)."""
    factors = [_factor(np, draws, strength) for strength in (brightness, contrast, saturation)]
    steps = np.asarray(draws.uniform(-hue, hue) * 255.0, np.int32)
    order = draws.permutation(4 if hue else 3)
    for position in range(order.shape[1]):
        kind = order[:, position]
        factor = np.where(kind == 0, factors[0], np.where(kind == 1, factors[1], factors[2]))
        adjusted = pixels.adjust(np, images, kind, factor)
        if hue:
            turned = pixels.rotate_hue(np, images, steps)
            adjusted = np.where(pixels.per_image(np, kind == 3), turned, adjusted)
        images = pixels.barrier(np, adjusted)
    return images


def _factor(np: Any, draws: Draws, strength: float) -> Array:
    """Factors within 1 +- strength, not below 0: float32 (B,).

    Multiples of 1/4,096: their products with levels are exact in float32, so that no compiler rounds them differently.
    """
    return np.floor(draws.uniform(max(0.0, 1 - strength), 1 + strength) * 4096.0 + 0.5) * (1 / 4096)


def sharpness(np: Any, images: Array, draws: Draws, factor: float, p: float) -> Array:
    """Sharpened (`factor` > 1) or blurred (< 1) with probability `p` (RandomAdjustSharpness)."""
    chosen = draws.chance(p)
    return pixels.sharpen(np, images, np.where(chosen, numpy.float32(factor), numpy.float32(1)))


def random_erasing(
    np: Any,
    images: Array,
    draws: Draws,
    p: float,
    area_low: float,
    area_high: float,
    ratio_low: float,
    ratio_high: float,
    value: float,
) -> Array:
    """With probability `p` a rectangle of an area (a fraction of the image's) and a ratio of height to width, drawn
    in logarithm, becomes `value` (RandomErasing; Zhong et al. 2017)."""
    _, rows, columns, _ = np.shape(images)
    height = width = draws.integers(1) * 0 + max(rows, columns)
    # A rectangle that does not fit is drawn again, ten times at most: here all at once, and the first that fits stays.
    longest = math.sqrt(rows * columns * area_high * max(ratio_high, 1 / ratio_low))
    for _ in range(10 if longest >= min(rows, columns) - 1 else 1):
        area = draws.uniform(area_low, area_high) * (rows * columns)
        ratio = np.exp(draws.uniform(math.log(ratio_low), math.log(ratio_high)))
        again = (height >= rows) | (width >= columns)
        height = np.where(again, np.asarray(np.round(np.sqrt(area * ratio)), np.int32), height)
        width = np.where(again, np.asarray(np.round(np.sqrt(area / ratio)), np.int32), width)
    fits = (height < rows) & (width < columns)
    height = np.where(fits & draws.chance(p), height, 0)
    top = draws.integers(np.maximum(rows - height, 0) + 1)
    left = draws.integers(np.maximum(columns - width, 0) + 1)
    return pixels.erase(np, images, top, left, height, width, value)


def cutout(np: Any, images: Array, draws: Draws, size: int) -> Array:
    """A square of `size` pixels around a random pixel, cut off at the border, becomes 0 (DeVries and Taylor 2017)."""
    _, height, width, _ = np.shape(images)
    top, left = draws.integers(height) - size // 2, draws.integers(width) - size // 2
    extent = top * 0 + size // 2 * 2  # the authors' code rounds to even sizes
    return pixels.erase(np, images, top, left, extent, extent, 0.0)


class Number(NamedTuple):
    """A parameter that is a number in [low, high]; without a default it must be given."""

    low: float
    high: float
    default: float | None = None
    whole: bool = False

    def read(self, text: str) -> float:
        if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII):
            raise ValueError(self.right())
        value = float(text)
        if not self.low <= value <= self.high or (self.whole and value != int(value)):
            raise ValueError(self.right())
        return int(value) if self.whole else value

    def right(self) -> str:
        return f"must be a {'whole ' if self.whole else ''}number from {self.low:g} to {self.high:g}"


class Word(NamedTuple):
    """A parameter that is one of some words."""

    choices: tuple[str, ...]
    default: str | None = None

    def read(self, text: str) -> str:
        if text not in self.choices:
            raise ValueError(f"must be {' or '.join(self.choices)}")
        return text


INTERPOLATION = Word(("nearest", "bilinear"), "nearest")


@dataclass(frozen=True)
class Op:
    """An operation of the registry: its function, its parameters in order, and whether it follows `normalize`."""

    apply: Callable[..., Array]
    parameters: Mapping[str, Number | Word] = field(default_factory=dict)
    on_floats: bool = False
    check: Callable[..., str] = lambda **arguments: ""  # what is wrong with arguments that are each in range


def _ordered(*names: str) -> Callable[..., str]:
    """A check that NAME_low does not exceed NAME_high."""

    def check(**arguments: Any) -> str:
        wrong = [name for name in names if arguments[f"{name}_low"] > arguments[f"{name}_high"]]
        return f"{wrong[0]}_low must not exceed {wrong[0]}_high" if wrong else ""

    return check


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
        check=_ordered("scale"),
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
        check=_ordered("area", "ratio"),
    ),
    "cutout": Op(cutout, {"size": Number(1, 1024, whole=True)}, on_floats=True),
}
