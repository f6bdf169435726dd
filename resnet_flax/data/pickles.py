"""Pickles of arrays, read without trust: nothing that a pickle names is imported or called.

A pickle is a program that imports and calls what it likes. Here every name in it stands for one of the classes below,
or it is refused. They need nothing of NumPy's own reconstruction, which believes what it is told about memory.
"""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np


class Refused(Exception):
    """The pickle asks for something that is no array, bytes, number, list or dict."""


class Dtype:
    """numpy.dtype(code, align, copy), of booleans, numbers and text alone, then told its byte order."""

    def __init__(self, code: str | bytes, *flags: object):
        text = code.decode("ascii") if isinstance(code, bytes) else str(code)
        if not re.fullmatch(r"[<>|=]?[biufcSU]\d{0,6}", text):
            raise Refused(f"has an array of {text!r}")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: tuple) -> None:
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        self.dtype = self.dtype.newbyteorder(order)  # type: ignore[arg-type]


class Array:
    """numpy.ndarray, made empty by _reconstruct and filled by a state (version, shape, dtype, Fortran order, bytes)."""

    def __init__(self, *arguments: object):
        self.array = np.zeros(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, raw = state
        self.array = filled(raw, dtype, shape, "F" if fortran else "C")


class Buffer(Array):
    """numpy's _frombuffer(bytes, dtype, shape, order), which pickle protocol 5 has instead."""

    def __init__(self, raw: bytes, dtype: Dtype, shape: tuple, order: str):
        self.array = filled(raw, dtype, shape, order)


class Scalar(Array):
    """One number of NumPy's, from its dtype and its bytes."""

    def __init__(self, dtype: Dtype, raw: bytes):
        self.array = filled(raw, dtype, (), "C")


class Encoded:
    """_codecs.encode(text, "latin1"): how bytes are written in protocols before 3."""

    def __init__(self, text: str = "", codec: str = "latin1"):
        self.content = text.encode("latin1")

    def __setstate__(self, state: object) -> None:
        raise Refused("gives bytes a state")


def filled(raw: bytes | Encoded, dtype: Dtype, shape: tuple, order: str) -> np.ndarray:
    """An array of its own memory; Refused where the bytes are not what dtype and shape say."""
    content = raw.content if isinstance(raw, Encoded) else raw
    if not isinstance(content, bytes | bytearray) or not isinstance(dtype, Dtype) or order not in ("C", "F"):
        raise Refused("has an array that is none")
    return np.frombuffer(bytes(content), dtype.dtype).reshape(shape, order="F" if order == "F" else "C").copy(order="C")


NAMES: dict[str, type] = (
    {"numpy.ndarray": Array, "numpy.dtype": Dtype, "_codecs.encode": Encoded}
    | {
        f"numpy.{core}.{name}": stands_for
        for core in ("core", "_core")  # of NumPy 1 and of NumPy 2
        for name, stands_for in {
            "multiarray._reconstruct": Array,
            "multiarray.scalar": Scalar,
            "numeric._frombuffer": Buffer,
        }.items()
    }
    | {"builtins.bytes": Encoded, "__builtin__.bytes": Encoded}
)


class Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        if f"{module}.{name}" not in NAMES:
            raise Refused(f"tries to import {module}.{name}")
        return NAMES[f"{module}.{name}"]


def load(path: Path) -> Any:
    """What a pickle holds: arrays, bytes, text, numbers, lists, tuples and dicts. Text of Python 2 comes as bytes.

    Raises Refused, with what it tried, for one that has anything else; ValueError for one that is damaged.
    """
    with open(path, "rb") as file:
        try:
            return plain(Unpickler(file, encoding="bytes").load())
        except Refused:
            raise
        except Exception as error:  # a damaged pickle raises nearly anything
            raise ValueError(f"is no sound pickle: {str(error) or type(error).__name__}") from None


def plain(value: Any) -> Any:
    """`value` with arrays and bytes where the classes above stand for them."""
    match value:
        case Array():
            return value.array
        case Encoded():
            return value.content
        case dict():
            return {plain(key): plain(one) for key, one in value.items()}
        case list() | tuple():
            return type(value)(map(plain, value))
        case None | bool() | int() | float() | str() | bytes() | bytearray():
            return value
        case _:
            raise Refused(f"holds a {type(value).__name__}")
