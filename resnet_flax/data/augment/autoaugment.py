"""Policies that draw operations from a list: AutoAugment, TrivialAugment and RandAugment, as in torchvision.

Every operation that can be drawn, at every magnitude and with either sign, is a row of a table of parameters. Images of
a batch that drew different operations thus go through the same few pixel formulas, and the row selects the result.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from resnet_flax.data.augment import pixels
from resnet_flax.data.augment.backends import Array, barrier, for_few
from resnet_flax.data.augment.draws import Draws

IDENTITY, AFFINE, ADJUST, SHARPEN, SOLARIZE, POSTERIZE, AUTOCONTRAST, EQUALIZE = range(8)
IDENTITY_MATRIX = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # the matrix that leaves an image as it is


class Operation(NamedTuple):
    """One operation: its formula and the parameters of that formula. In a table every field is an array."""

    formula: Any = IDENTITY
    matrix: Any = IDENTITY_MATRIX  # of AFFINE
    kind: Any = pixels.BRIGHTNESS  # of ADJUST
    amount: Any = 1.0  # factor of ADJUST and SHARPEN, threshold of SOLARIZE, step of POSTERIZE


def operation(name: str, magnitude: float, size: tuple[int, int]) -> Operation:
    """Return the row of a named operation at a signed magnitude, for images of `size` (height, width)."""
    factor = 1 + magnitude
    match name:
        case "Identity":
            return Operation()
        case "ShearX":
            return Operation(AFFINE, (1.0, magnitude, 0.0, 0.0, 1.0, 0.0))
        case "ShearY":
            return Operation(AFFINE, (1.0, 0.0, 0.0, magnitude, 1.0, 0.0))
        case "TranslateX":
            return Operation(AFFINE, (1.0, 0.0, -int(magnitude), 0.0, 1.0, 0.0))
        case "TranslateY":
            return Operation(AFFINE, (1.0, 0.0, 0.0, 0.0, 1.0, -int(magnitude)))
        case "Rotate":
            return Operation(AFFINE, _rotation(magnitude, size))
        case "Brightness":
            return Operation(ADJUST, kind=pixels.BRIGHTNESS, amount=factor)
        case "Contrast":
            return Operation(ADJUST, kind=pixels.CONTRAST, amount=factor)
        case "Color":
            return Operation(ADJUST, kind=pixels.SATURATION, amount=factor)
        case "Sharpness":
            return Operation(SHARPEN, amount=factor)
        case "Posterize":
            return Operation(POSTERIZE, amount=2.0 ** (8 - magnitude))
        case "Solarize":
            return Operation(SOLARIZE, amount=magnitude)
        case "Invert":
            return Operation(SOLARIZE, amount=0.0)
        case "AutoContrast":
            return Operation(AUTOCONTRAST)
        case "Equalize":
            return Operation(EQUALIZE)
    raise ValueError(name)


def _rotation(degrees: float, size: tuple[int, int]) -> tuple[float, ...]:
    """Return the matrix of a counter-clockwise rotation about the centre."""
    cos, sin, y, x = math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), size[0] / 2, size[1] / 2
    return (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)


def table(rows: list[Operation]) -> Operation:
    """Stack rows into arrays: formula and kind int32 (N,), matrix in fixed point int32 (N, 6), amount float32 (N,)."""
    formula, matrix, kind, amount = zip(*rows, strict=True)
    return Operation(
        np.asarray(formula, np.int32),
        pixels.fixed_point(np, np.asarray(matrix)),
        np.asarray(kind, np.int32),
        np.asarray(amount, np.float32),
    )


def apply(xp: Any, images: Array, operations: Operation, index: Array) -> Array:
    """Apply to each image the operation in row `index` (int32 (B,)) of a table."""
    formula, matrix, kind, amount = (barrier(xp, xp.take(column, index, axis=0)) for column in operations)
    possible = set(operations.formula.tolist())
    results = {
        AFFINE: lambda: pixels.affine_nearest(xp, images, matrix),
        ADJUST: lambda: pixels.adjust(xp, images, kind, amount),
        SHARPEN: lambda: pixels.sharpen(xp, images, amount),
        SOLARIZE: lambda: pixels.solarize(xp, images, amount),
        POSTERIZE: lambda: pixels.posterize(xp, images, amount),
        AUTOCONTRAST: lambda: pixels.autocontrast(xp, images),
        # The one costly formula, which one image in ten needs.
        EQUALIZE: lambda: for_few(xp, formula == EQUALIZE, lambda x: pixels.equalize(xp, x), images),
    }
    output = images
    for number, result in results.items():
        if number in possible:
            output = xp.where(pixels.per_image(xp, formula == number), barrier(xp, result()), output)
    return output


# The 25 sub-policies of AutoAugment for CIFAR-10 (Cubuk et al. 2018, "AutoAugment: Learning Augmentation Policies from
# Data", table 7), each two operations with a probability and a magnitude of 0 to 9.
CIFAR10 = (
    "Invert 0.1 0, Contrast 0.2 6",
    "Rotate 0.7 2, TranslateX 0.3 9",
    "Sharpness 0.8 1, Sharpness 0.9 3",
    "ShearY 0.5 8, TranslateY 0.7 9",
    "AutoContrast 0.5 0, Equalize 0.9 0",
    "ShearY 0.2 7, Posterize 0.3 7",
    "Color 0.4 3, Brightness 0.6 7",
    "Sharpness 0.3 9, Brightness 0.7 9",
    "Equalize 0.6 0, Equalize 0.5 0",
    "Contrast 0.6 7, Sharpness 0.6 5",
    "Color 0.7 7, TranslateX 0.5 8",
    "Equalize 0.3 0, AutoContrast 0.4 0",
    "TranslateY 0.4 3, Sharpness 0.2 6",
    "Brightness 0.9 6, Color 0.2 8",
    "Solarize 0.5 2, Invert 0 0",
    "Equalize 0.2 0, AutoContrast 0.6 0",
    "Equalize 0.2 0, Equalize 0.6 0",
    "Color 0.9 9, Equalize 0.6 0",
    "AutoContrast 0.8 0, Solarize 0.2 8",
    "Brightness 0.1 3, Color 0.7 0",
    "Solarize 0.4 5, AutoContrast 0.9 0",
    "TranslateY 0.9 9, TranslateY 0.7 9",
    "AutoContrast 0.9 0, Solarize 0.8 3",
    "Equalize 0.8 0, Invert 0.1 0",
    "TranslateY 0.7 9, AutoContrast 0.9 0",
)
SIGNED = {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness"}
# The 14 operations of TrivialAugment and RandAugment.
NAMES = ("Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast",
         "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize")  # fmt: skip


def linspace(start: float, end: float, n: int) -> np.ndarray:
    """Return the values of torch.linspace as computed with fused multiply-add (AVX2 and newer): float64 (n,).

    The arithmetic is float32, from `start` in the first half and from `end` in the second: `end - step * 15` may be
    15.999999.
    """
    step = float((np.float32(end) - np.float32(start)) / np.float32(n - 1))
    place = np.arange(n)
    values = np.where(place < n // 2, np.float32(start) + step * place, np.float32(end) - step * (n - 1 - place))
    return values.astype(np.float32).astype(np.float64)


def magnitudes(name: str, bins: int, size: tuple[int, int], wide: bool = False) -> np.ndarray:
    """Return torchvision's magnitudes 0 .. bins - 1 of an operation: float64 (bins,); `wide` for TrivialAugment's."""
    height, width = size
    match name:
        case "ShearX" | "ShearY":
            return linspace(0, 0.99 if wide else 0.3, bins)
        case "TranslateX" | "TranslateY":
            return linspace(0, 32 if wide else 150 / 331 * (width if name == "TranslateX" else height), bins)
        case "Rotate":
            return linspace(0, 135 if wide else 30, bins)
        case "Brightness" | "Color" | "Contrast" | "Sharpness":
            return linspace(0, 0.99 if wide else 0.9, bins)
        case "Posterize":
            return 8 - np.round(np.arange(bins) / ((bins - 1) / (6 if wide else 4)))
        case "Solarize":
            return linspace(255, 0, bins)
    return np.zeros(bins)


def signed(name: str, magnitude: float, size: tuple[int, int]) -> list[Operation]:
    """Return an operation in both directions, or the same one twice if it has none."""
    return [operation(name, -magnitude if name in SIGNED else magnitude, size), operation(name, magnitude, size)]


def autoaugment(xp: Any, images: Array, draws: Draws) -> Array:
    """Apply one of the 25 sub-policies of AutoAugment for CIFAR-10, each of its two operations with its probability."""
    size = xp.shape(images)[1:3]
    policy = draws.integers(len(CIFAR10))
    for slot in range(2):
        names, chances, bins = zip(*(text.split(",")[slot].split() for text in CIFAR10), strict=True)
        strengths = [magnitudes(name, 10, size)[int(number)] for name, number in zip(names, bins, strict=True)]
        rows = [row for name, strength in zip(names, strengths, strict=True) for row in signed(name, strength, size)]
        applied = draws.uniform() < xp.take(np.asarray(chances, np.float32), policy, axis=0)
        index = xp.where(applied, policy * 2 + draws.integers(2), len(rows))
        images = barrier(xp, apply(xp, images, table([*rows, Operation()]), index))
    return images


def trivial_augment(xp: Any, images: Array, draws: Draws) -> Array:
    """Apply one of 14 operations at one of 31 magnitudes (Müller and Hutter 2021, "TrivialAugment", wide space)."""
    size = xp.shape(images)[1:3]
    rows = [
        row
        for name in NAMES
        for strength in magnitudes(name, 31, size, wide=True)
        for row in signed(name, strength, size)
    ]
    return apply(xp, images, table(rows), draws.integers(len(rows)))


def rand_augment(xp: Any, images: Array, draws: Draws, n: int, m: int) -> Array:
    """Apply `n` of 14 operations, one after the other, at magnitude `m` of 30 (Cubuk et al. 2019, "RandAugment")."""
    size = xp.shape(images)[1:3]
    rows = [row for name in NAMES for row in signed(name, magnitudes(name, 31, size)[m], size)]
    for _ in range(n):
        images = barrier(xp, apply(xp, images, table(rows), draws.integers(len(rows))))
    return images
