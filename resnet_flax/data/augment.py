"""Augmentation policies: a string in the config names operations, and they are applied from left to right.

    "flip|crop(4)|color_jitter(0.2,0.2,0.2)|autoaugment|rotate(15)|normalize(cifar10)"

An operation is a function here that draws its parameters and calls a formula of `pixels`, and one line in `OPS`. All
follow torchvision's definitions (torchvision.transforms on PIL images): up to `normalize` images stay uint8 and every
operation rounds as Pillow does; what follows `normalize` works on float32, as torchvision's on tensors.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

import numpy

from resnet_flax.data import autoaugment, pixels
from resnet_flax.data.draws import Draws
from resnet_flax.errors import UserError, nearest

Array = Any  # numpy.ndarray, jax.Array or tf.Tensor, as `np` makes them

NORMALIZATIONS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),  # of CIFAR-10's training images
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # to [-1, 1]
}
LONGEST = 1000  # characters of a policy


# The operations: (np, images, draws, arguments) -> images.


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
        images = pixels.settled(np, adjusted)
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


# The registry.


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
NORMALIZE = "normalize"  # not in OPS: it has no draws, may stand once, and parts the operations


# Reading a policy.


class Part(NamedTuple):
    """A piece of the policy's text and where it begins."""

    text: str
    start: int

    def split(self, separator: str) -> list["Part"]:
        parts, start = [], self.start
        for text in self.text.split(separator):
            parts.append(Part(text.strip(), start + len(text) - len(text.lstrip())))
            start += len(text) + len(separator)
        return parts


class Step(NamedTuple):
    """An operation with its arguments."""

    name: str
    op: Op
    arguments: dict[str, Any]

    def __str__(self) -> str:
        """Canonical: no defaults; by position up to the first default, from there on by name."""
        texts, skipped = [], False
        for name, parameter in self.op.parameters.items():
            if self.arguments[name] == parameter.default:
                skipped = True
            else:
                texts.append(f"{name}=" * skipped + _text(self.arguments[name]))
        return _call(self.name, texts)


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else repr(int(value) if value == int(value) else value)


def _call(name: str, arguments: list[str]) -> str:
    return f"{name}({','.join(arguments)})" if arguments else name


class Policy:
    """An augmentation policy read from `text`; raises UserError with the bad part marked."""

    def __init__(self, text: str) -> None:
        self.before: list[Step] = []  # on uint8
        self.after: list[Step] = []  # on float32
        self._normalize = ""  # canonical text of that step, "" without one
        # (mean, std) per channel, of pixels / 255; None where they are still to be found
        self.normalization: tuple[tuple, tuple] | None = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        if not isinstance(text, str):
            raise UserError(f"a policy is a text such as 'crop(4)|flip|normalize(cifar10)', not {text!r}")
        if len(text) > LONGEST:
            raise UserError(f"a policy has at most {LONGEST} characters, not {len(text)}")
        self._source = text
        if text.strip():
            for part in Part(text, 0).split("|"):
                self._read(part)

    def __call__(self, np: Any, images: Array, keys: Array, turns: Array) -> Array:
        """Augmented images: uint8 (B, H, W, 3), `draws.keys` (B,) and `draws.turns` (B,) -> float32 (B, H, W, 3).

        With jax.numpy, call it inside jit. TensorFlow's graphs do not fuse, so there it compiles itself.
        """
        if hasattr(np, "jit"):
            return np.jit(lambda *batch: self._apply(np, *batch))(images, keys, turns)
        return self._apply(np, images, keys, turns)

    def _apply(self, np: Any, images: Array, keys: Array, turns: Array) -> Array:
        draws = Draws(np, keys, turns)
        for step in self.before:
            images = pixels.settled(np, step.op.apply(np, images, draws, **step.arguments))
        images = self.plain(np, images)
        for step in self.after:
            images = step.op.apply(np, images, draws, **step.arguments)
        return images

    def plain(self, np: Any, images: Array) -> Array:
        """Images as validation and test see them: uint8 (B, H, W, 3) -> float32, only normalised."""
        assert self.normalization, "normalize(auto) is settled before it is applied"
        return pixels.standardize(np, images, *self.normalization)

    def normalized_by(self, mean: Iterable[float], std: Iterable[float]) -> str:
        """The policy's text with these numbers, rounded to four digits, for what normalize has."""
        numbers = [_text(round(number, 4)) for number in (*mean, *std)]
        return "|".join([*map(str, self.before), _call(NORMALIZE, numbers), *map(str, self.after)])

    def __str__(self) -> str:
        return "|".join([*map(str, self.before), *filter(None, [self._normalize]), *map(str, self.after)])

    def __repr__(self) -> str:
        return f"Policy({str(self)!r})"

    def _read(self, part: Part) -> None:
        call = re.fullmatch(r"([^\s()]+)\s*(\((.*)\))?", part.text, re.DOTALL)
        if not call:
            self._refuse(part, "an operation is written name or name(argument,...), and operations are parted by |")
        name, inside = call[1], call[3]
        if name not in OPS and name != NORMALIZE:
            self._refuse(Part(name, part.start), f"unknown operation {name!r}: {nearest(name, [*OPS, NORMALIZE])}")
        arguments = Part(inside, part.start + call.start(3)).split(",") if inside and inside.strip() else []
        if name == NORMALIZE:
            self._read_normalize(part, arguments)
        else:
            self._read_step(part, name, arguments)

    def _read_normalize(self, part: Part, arguments: list[Part]) -> None:
        if self._normalize:
            self._refuse(part, "normalize stands once")
        if self.after:
            self._refuse(part, f"{self.after[-1].name} works on normalised images: put normalize before it")
        texts = [argument.text for argument in arguments]
        if texts == ["auto"]:
            self.normalization = None
        elif len(texts) == 1 and texts[0] in NORMALIZATIONS:
            self.normalization = NORMALIZATIONS[texts[0]]
        elif len(texts) == 6:
            mean = [self._value(argument, Number(0, 1), "mean") for argument in arguments[:3]]
            std = [self._value(argument, Number(1e-3, 10), "std") for argument in arguments[3:]]
            texts = [_text(number) for number in mean + std]
            self.normalization = (tuple(mean), tuple(std))
        else:
            names = " or ".join(f"normalize({name})" for name in ("auto", *NORMALIZATIONS))
            self._refuse(part, f"write {names} or six numbers, three means and three standard deviations")
        self._normalize = _call(NORMALIZE, texts)

    def _read_step(self, part: Part, name: str, texts: list[Part]) -> None:
        op = OPS[name]
        arguments: dict[str, Any] = {}
        for position, argument in enumerate(texts):
            key, value = self._keyed(argument, part, name, position)
            if key in arguments:
                self._refuse(argument, f"{name} has {key} twice")
            arguments[key] = self._value(value, op.parameters[key], key)
        for key, parameter in op.parameters.items():
            if parameter.default is None and key not in arguments:
                self._refuse(part, f"{key} is missing: {_usage(name)}")
            arguments.setdefault(key, parameter.default)
        if wrong := op.check(**arguments):
            self._refuse(part, wrong)
        if not op.on_floats and (self._normalize or self.after):
            barrier = NORMALIZE if self._normalize else self.after[0].name
            self._refuse(part, f"{name} works on pixels of 0 to 255: put it before {barrier}")
        (self.after if op.on_floats else self.before).append(Step(name, op, arguments))

    def _keyed(self, argument: Part, part: Part, name: str, position: int) -> tuple[str, Part]:
        """The parameter that an argument is for, and the argument's value."""
        parameters = list(OPS[name].parameters)
        if "=" not in argument.text:
            if position >= len(parameters):
                self._refuse(part, f"too many arguments: {_usage(name)}")
            return parameters[position], argument
        key, value = Part(argument.text.partition("=")[0], argument.start), argument.text.partition("=")[2]
        if key.text.strip() not in parameters:
            self._refuse(key, f"{name} has no parameter {key.text.strip()!r}: {_usage(name)}")
        return key.text.strip(), Part(value, argument.start + len(key.text) + 1)

    def _value(self, argument: Part, parameter: Number | Word, key: str) -> float | str:
        try:
            return parameter.read(argument.text.strip())
        except ValueError as wrong:
            self._refuse(argument, f"{key} {wrong}")

    def _refuse(self, part: Part, why: str) -> NoReturn:
        shown = "".join(c if c.isprintable() else "?" for c in self._source)
        raise UserError(f"policy: {why}\n  {shown}\n  {' ' * part.start}{'^' * max(1, len(part.text))}")


def channel_statistics(images: numpy.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of pixels / 255, exactly: images (n, H, W, 3) uint8.

    The deviation of a channel in which all pixels are the same is 1, so that it can be divided by.
    """
    counts = numpy.zeros((3, 256), numpy.int64)
    for start in range(0, len(images), 1000):  # not all in memory at once
        for channel in range(3):
            counts[channel] += numpy.bincount(images[start : start + 1000, ..., channel].ravel(), minlength=256)
    levels = numpy.arange(256)
    total = int(counts[0].sum())
    sums, squares = ([int(value) for value in counts @ levels**power] for power in (1, 2))
    variances = [total * square - sum**2 for sum, square in zip(sums, squares, strict=True)]  # x (255 total)^2
    std = [math.sqrt(variance) / (255 * total) for variance in variances]
    return [sum / (255 * total) for sum in sums], [value if value >= 1e-3 else 1.0 for value in std]


def _usage(name: str) -> str:
    """How an operation is written, such as rotate(degrees,interpolation=nearest)."""
    texts = [
        key if parameter.default is None else f"{key}={_text(parameter.default)}"
        for key, parameter in OPS[name].parameters.items()
    ]
    return f"write {_call(name, texts)}"
