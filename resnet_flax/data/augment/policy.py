"""Read a policy string such as "flip|crop(4)|color_jitter(0.2,0.2,0.2)|normalize(cifar10)", and apply it.

The string names operations of `ops`, which are applied from left to right. `normalize` is not one of them: it turns
uint8 into float32, may appear only once, and separates the operations on the one from those on the other.
"""

import re
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple, NoReturn

from resnet_flax.data.augment import pixels
from resnet_flax.data.augment.backends import Array, barrier, call_compiled
from resnet_flax.data.augment.draws import Draws
from resnet_flax.data.augment.ops import OPS, Number, Op, Word
from resnet_flax.errors import UserError, nearest

NORMALIZE = "normalize"
NORMALIZATIONS = {  # mean and standard deviation of each channel of pixels / 255
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),  # of CIFAR-10's training images
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # to [-1, 1]
}
MAX_POLICY_CHARS = 1000


class Part(NamedTuple):
    """A piece of the policy string and where it starts."""

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
        """Return the canonical text: no defaults; by position up to the first default, by name after it."""
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
    """An augmentation policy, read from `text`. Raises UserError with the bad part marked."""

    def __init__(self, text: str) -> None:
        self.before: list[Step] = []  # on uint8
        self.after: list[Step] = []  # on float32
        self._normalize_text = ""  # the canonical text of normalize, "" if there is none
        # (mean, std) per channel, of pixels / 255; None for normalize(auto), until they are known
        self.normalization: tuple[tuple, tuple] | None = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        if not isinstance(text, str):
            raise UserError(f"a policy is a string such as 'crop(4)|flip|normalize(cifar10)', not {text!r}")
        if len(text) > MAX_POLICY_CHARS:
            raise UserError(f"a policy has at most {MAX_POLICY_CHARS} characters, not {len(text)}")
        self._source = text
        if text.strip():
            for part in Part(text, 0).split("|"):
                self._read(part)

    def __call__(self, xp: Any, images: Array, keys: Array, turns: Array) -> Array:
        """Augment images: uint8 (B, H, W, 3), `draws.keys` (B,) and `draws.turns` (B,) -> float32 (B, H, W, 3).

        With jax.numpy, call it inside jit.
        """
        return call_compiled(xp, partial(self._apply, xp), images, keys, turns)

    def _apply(self, xp: Any, images: Array, keys: Array, turns: Array) -> Array:
        draws = Draws(xp, keys, turns)
        for step in self.before:
            images = barrier(xp, step.op.apply(xp, images, draws, **step.arguments))
        images = self.normalize(xp, images)
        for step in self.after:
            images = step.op.apply(xp, images, draws, **step.arguments)
        return images

    def normalize(self, xp: Any, images: Array) -> Array:
        """Normalise images without augmenting them, as for validation and test: uint8 (B, H, W, 3) -> float32."""
        assert self.normalization, "normalize(auto) is replaced by numbers before a policy is applied"
        return pixels.standardize(xp, images, *self.normalization)

    def normalized_by(self, mean: Iterable[float], std: Iterable[float]) -> str:
        """Return the policy string with these numbers, rounded to four digits, as the arguments of normalize."""
        numbers = [_text(round(number, 4)) for number in (*mean, *std)]
        return "|".join([*map(str, self.before), _call(NORMALIZE, numbers), *map(str, self.after)])

    def __str__(self) -> str:
        return "|".join([*map(str, self.before), *filter(None, [self._normalize_text]), *map(str, self.after)])

    def __repr__(self) -> str:
        return f"Policy({str(self)!r})"

    # Reading a policy.

    def _read(self, part: Part) -> None:
        call = re.fullmatch(r"([^\s()]+)\s*(\((.*)\))?", part.text, re.DOTALL)
        if not call:
            self._refuse(part, "an operation is written name or name(argument,...); separate operations with |")
        name, inside = call[1], call[3]
        if name not in OPS and name != NORMALIZE:
            self._refuse(Part(name, part.start), f"unknown operation {name!r}: {nearest(name, [*OPS, NORMALIZE])}")
        arguments = Part(inside, part.start + call.start(3)).split(",") if inside and inside.strip() else []
        if name == NORMALIZE:
            self._read_normalize(part, arguments)
        else:
            self._read_step(part, name, arguments)

    def _read_normalize(self, part: Part, arguments: list[Part]) -> None:
        if self._normalize_text:
            self._refuse(part, "normalize may appear only once")
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
        self._normalize_text = _call(NORMALIZE, texts)

    def _read_step(self, part: Part, name: str, given: list[Part]) -> None:
        op = OPS[name]
        arguments: dict[str, Any] = {}
        for position, argument in enumerate(given):
            key, value = self._keyed(argument, part, name, position)
            if key in arguments:
                self._refuse(argument, f"{name} has {key} twice")
            arguments[key] = self._value(value, op.parameters[key], key)
        for key, parameter in op.parameters.items():
            if parameter.default is None and key not in arguments:
                self._refuse(part, f"{key} is missing: {_usage(name)}")
            arguments.setdefault(key, parameter.default)
        for bounds in op.ranges:
            if arguments[f"{bounds}_low"] > arguments[f"{bounds}_high"]:
                self._refuse(part, f"{bounds}_low must not exceed {bounds}_high")
        if not op.on_floats and (self._normalize_text or self.after):
            first = NORMALIZE if self._normalize_text else self.after[0].name
            self._refuse(part, f"{name} works on pixels from 0 to 255: put it before {first}")
        (self.after if op.on_floats else self.before).append(Step(name, op, arguments))

    def _keyed(self, argument: Part, part: Part, name: str, position: int) -> tuple[str, Part]:
        """Return the name of the parameter that an argument is for, and the argument's value."""
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
        raise UserError(f"{why}\n  {shown}\n  {' ' * part.start}{'^' * max(1, len(part.text))}")


def _usage(name: str) -> str:
    """Return a hint such as "write rotate(degrees,interpolation=nearest)"."""
    texts = [
        key if parameter.default is None else f"{key}={_text(parameter.default)}"
        for key, parameter in OPS[name].parameters.items()
    ]
    return f"write {_call(name, texts)}"
