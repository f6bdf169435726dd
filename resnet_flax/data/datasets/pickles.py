"""Pickles of arrays, read without trusting them: nothing that a pickle names is imported or called.

A pickle is a program for a stack machine. Python's own machine imports and calls whatever the program names, and even
without that a few bytes can keep it busy forever. This one knows only the operations that arrays, bytes, text, numbers,
lists, tuples and dicts are written with (by Python 2 and 3 and NumPy 1 and 2), and its work is proportional to the size
of the file.
"""

import codecs
import mmap
import pickletools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from resnet_flax.files import MAX_UNPACKED_BYTES, check_size

OPERATIONS = {operation.code.encode("latin1"): operation for operation in pickletools.opcodes}


class Refused(Exception):
    """The pickle asks for something other than arrays, bytes, text, numbers, lists and dicts."""


class Dtype:
    """numpy.dtype(code, align, copy) of booleans, numbers or text; a state sets its byte order."""

    def __init__(self, code: str | bytes, *flags: object):
        text = code.decode("ascii") if isinstance(code, bytes) else str(code)
        if not re.fullmatch(r"[<>|=]?[biufcSU]\d{0,6}", text):
            raise Refused(f"has an array of {text!r}")
        self.dtype = np.dtype(text)

    def build(self, state: tuple) -> None:
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        self.dtype = self.dtype.newbyteorder(order)  # type: ignore[arg-type]


class Array:
    """numpy.ndarray, empty from _reconstruct and filled by a state (version, shape, dtype, Fortran order, bytes)."""

    def __init__(self, *arguments: object):
        self.array = np.zeros(0)

    def build(self, state: tuple) -> None:
        _, shape, dtype, fortran, raw = state
        self.array = filled(raw, dtype, shape, "F" if fortran else "C")


class Buffer(Array):
    """numpy's _frombuffer(bytes, dtype, shape, order[, axes]), which pickle protocol 5 uses instead.

    With the order "K", the bytes are those of an array in C order whose axes are then permuted.
    """

    def __init__(self, raw: bytes, dtype: Dtype, shape: tuple, order: str, axes: tuple | None = None):
        permuted = order == "K" and axes is not None
        self.array = filled(raw, dtype, shape, "C" if permuted else order)
        if permuted:
            self.array = self.array.transpose(axes)


class Scalar(Array):
    """A NumPy scalar, from its dtype and its bytes."""

    def __init__(self, dtype: Dtype, raw: bytes):
        self.array = filled(raw, dtype, (), "C")


def filled(raw: bytes, dtype: Dtype, shape: tuple, order: str) -> np.ndarray:
    """Return a read-only array over the bytes; Refused if one of the arguments has another type."""
    if not isinstance(raw, bytes) or not isinstance(dtype, Dtype) or order not in ("C", "F"):
        raise Refused("has an invalid array")
    return np.frombuffer(raw, dtype.dtype).reshape(shape, order="F" if order == "F" else "C")


def encoded(text: str = "", codec: str = "latin1") -> bytes:
    """_codecs.encode(text, "latin1"), which is how protocols before 3 write bytes."""
    return text.encode("latin1")


# The names that a pickle may use, and what stands for each.
STAND_INS: dict[str, Callable[..., Any]] = (
    {"numpy.ndarray": Array, "numpy.dtype": Dtype}
    | {name: encoded for name in ("_codecs.encode", "builtins.bytes", "__builtin__.bytes")}
    | {
        f"numpy.{core}.{name}": stands_for
        for core in ("core", "_core")  # of NumPy 1 and of NumPy 2
        for name, stands_for in {
            "multiarray._reconstruct": Array,
            "multiarray.scalar": Scalar,
            "numeric._frombuffer": Buffer,
        }.items()
    }
)


def read_pickle(path: Path) -> Any:
    """Return what a pickle holds: arrays, bytes, text, numbers, lists, tuples and dicts. Text of Python 2 is bytes.

    Raises Refused, which names what it asked for, if that is anything else; ValueError if it is damaged or has more
    than MAX_UNPACKED_BYTES bytes.
    """
    check_size(path, MAX_UNPACKED_BYTES, ": write it as .npy")
    if not path.stat().st_size:
        raise ValueError("is empty")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            return plain(Machine(len(content)).run(operations(content)), {})  # type: ignore[arg-type]  # reads alike
        except Refused:
            raise
        except Exception as error:  # a damaged pickle leads to nearly anything
            raise ValueError(f"is not a valid pickle: {str(error) or type(error).__name__}") from None


def operations(file: IO[bytes]) -> Iterator[tuple[str, Any]]:
    """Yield (name, argument) of each operation in a pickle. The names are those of pickletools, which explains them."""
    while code := file.read(1):
        operation = OPERATIONS.get(code)
        if operation is None:
            raise ValueError(f"unknown operation {code!r}")
        if operation.name == "STRING":  # pickletools requires ASCII, but Python 2 wrote arrays like this
            yield "STRING", codecs.escape_decode(file.readline().strip()[1:-1])[0]
        else:
            yield operation.name, operation.arg.reader(file) if operation.arg else None
    raise ValueError("it ends too early")


class Machine:
    """The stack machine that pickles are written for, as far as arrays need it."""

    def __init__(self, size: int):
        self.stack: list = []
        self.marks: list[int] = []  # positions on the stack
        self.memo: dict[int, Any] = {}
        self.unpacked, self.size = 0, size  # bytes decoded from text, and bytes of the file

    def run(self, program: Iterator[tuple[str, Any]]) -> Any:
        for name, argument in program:
            match name:
                case "STOP":
                    return self.stack.pop()
                case "PROTO" | "FRAME":
                    pass
                case "MARK":
                    self.marks.append(len(self.stack))
                case "PUT" | "BINPUT" | "LONG_BINPUT":
                    self.memo[argument] = self.stack[-1]
                case "MEMOIZE":
                    self.memo[len(self.memo)] = self.stack[-1]
                case "APPEND":
                    self.append([self.stack.pop()])
                case "APPENDS":
                    self.append(self.since_mark())
                case "SETITEM":
                    self.set_items([self.stack.pop(-2), self.stack.pop()])
                case "SETITEMS":
                    self.set_items(self.since_mark())
                case "BUILD":
                    state = self.stack.pop()
                    if not isinstance(self.stack[-1], Dtype | Array):
                        raise Refused("sets the state of a value that has none")
                    self.stack[-1].build(state)
                case _:
                    self.stack.append(self.value(name, argument))

    def value(self, name: str, argument: Any) -> Any:
        """Return what an operation puts on the stack."""
        match name:
            case "NONE":
                return None
            case "NEWTRUE" | "NEWFALSE":
                return name == "NEWTRUE"
            case "INT" | "LONG" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "FLOAT" | "BINFLOAT":
                return argument
            case "UNICODE" | "SHORT_BINUNICODE" | "BINUNICODE" | "BINUNICODE8":
                return argument
            case "STRING" | "SHORT_BINBYTES" | "BINBYTES" | "BINBYTES8":
                return argument
            case "BINSTRING" | "SHORT_BINSTRING":
                return argument.encode("latin1")
            case "BYTEARRAY8":
                return bytes(argument)
            case "EMPTY_LIST" | "LIST":
                return self.since_mark() if name == "LIST" else []
            case "EMPTY_TUPLE" | "TUPLE":
                return tuple(self.since_mark() if name == "TUPLE" else ())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                return tuple([self.stack.pop() for _ in range(int(name[-1]))][::-1])
            case "EMPTY_DICT" | "DICT":
                items = self.since_mark() if name == "DICT" else []
                self.stack.append({})
                self.set_items(items)
                return self.stack.pop()
            case "GET" | "BINGET" | "LONG_BINGET":
                return self.memo[argument]
            case "GLOBAL" | "STACK_GLOBAL":
                words = argument.split(" ") if argument else [self.stack.pop(-2), self.stack.pop()]
                if ".".join(words) not in STAND_INS:
                    raise Refused(f"tries to import {'.'.join(words)}")
                return STAND_INS[".".join(words)]
            case "REDUCE":
                return self.call(self.stack.pop(-2), self.stack.pop())
        raise Refused(f"uses {name}, which arrays do not need")

    def since_mark(self) -> list:
        """Take everything above the last mark off the stack, and return it."""
        mark = self.marks.pop()
        taken = self.stack[mark:]
        del self.stack[mark:]
        return taken

    def append(self, items: list) -> None:
        if not isinstance(self.stack[-1], list):
            raise Refused("appends to something that is not a list")
        self.stack[-1].extend(items)

    def set_items(self, items: list) -> None:
        """Set `items`, keys and values in turn, in the dict on top. Keys other than text can take forever to hash."""
        keys = items[::2]
        if not isinstance(self.stack[-1], dict) or not all(isinstance(key, str | bytes) for key in keys):
            raise Refused("has a key that is not text")
        self.stack[-1].update(zip(keys, items[1::2], strict=True))

    def call(self, function: Any, arguments: Any) -> Any:
        if not callable(function) or not isinstance(arguments, tuple):  # all that is callable here is in STAND_INS
            raise Refused("calls something that is not a function")
        result = function(*arguments)
        self.unpacked += len(result) if isinstance(result, bytes) else 0
        if self.unpacked > self.size:
            raise Refused("decodes the same text again and again")
        return result


def plain(value: Any, known: dict[int, Any]) -> Any:
    """Return `value` with an array in place of each Array. Values in `known`, by identity, are not converted again."""
    if id(value) in known:
        return known[id(value)]
    result: Any
    match value:
        case Array():
            result = value.array
        case dict():
            result = {key: plain(one, known) for key, one in value.items()}
        case list() | tuple():
            result = type(value)([plain(one, known) for one in value])
        case None | bool() | int() | float() | str() | bytes():
            return value
        case _:
            raise Refused(f"holds {getattr(value, '__name__', value)}, which is not a value")
    known[id(value)] = result
    return result
