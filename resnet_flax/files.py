"""Files that anybody may have written: nothing in them is run, and none takes more memory than is foreseen."""

import contextlib
import io
import json
import math
import mmap
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

MAX_TEXT_BYTES = 2**23  # bytes of a text


MAX_UNPACKED_BYTES = 2**29  # bytes that an archive may unpack to; an .npy, which is mapped, may have any size


HEADER_BYTES = 2**14  # bytes in which an .npy says what it holds; NumPy itself allows 10,000


# Version of an .npy -> how its header is read; the third is for structures.
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def check_size(path: Path, limit: int, instead: str = "") -> None:
    """Raise ValueError, which ends in `instead`, if a file has more than `limit` bytes. Nothing of it is read."""
    size = path.stat().st_size
    if size > limit:
        raise ValueError(f"has {size:,} bytes, more than {limit:,}{instead}")


def read_text(path: Path) -> str:
    """The content of a text in UTF-8; ValueError where it is none, or has more than MAX_TEXT_BYTES bytes."""
    with open(path, "rb") as file:
        content = file.read(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        raise ValueError(f"has more than {MAX_TEXT_BYTES:,} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("is no text in UTF-8") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file; ValueError where it is none."""
    try:
        return json.loads(read_text(path))
    except RecursionError:
        raise ValueError("is nested too deep") from None


def read_npy(path: Path) -> np.ndarray:
    """The array in an .npy, memory-mapped and read-only; ValueError where it is damaged or holds objects."""
    with open(path, "rb") as file:
        return array_of(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz by name, read-only; ValueError where it is damaged, holds objects or is a bomb."""
    check_size(path, MAX_UNPACKED_BYTES, ": write it as .npy")
    with open(path, "rb") as file:
        try:
            size = unpacked_size(file)
            if size > MAX_UNPACKED_BYTES:
                raise ValueError(f"unpacks to {size:,} bytes, more than {MAX_UNPACKED_BYTES:,}: write it as .npy")
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                contents = {member.filename.removesuffix(".npy"): unpack(archive, member) for member in members}
            return {name: array_of(memoryview(content)) for name, content in contents.items()}
        except ValueError:
            raise
        except Exception as error:  # of a damaged archive, many kinds
            raise ValueError(f"is damaged: {error}") from None


def unpacked_size(file: Path | BinaryIO) -> int:
    """Bytes that a zip archive says it unpacks to."""
    with zipfile.ZipFile(file) as archive:
        return sum(member.file_size for member in archive.infolist())


def unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """What is in a member, and no more of it than it says that it has."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # zipfile unpacks others without a limit
        raise ValueError("is compressed in a way that NumPy does not write")
    with archive.open(member) as file:
        return file.read(member.file_size)


def array_of(content: memoryview) -> np.ndarray:
    """The array that the bytes of an .npy describe, without a copy; ValueError where they do not fit it."""
    file = io.BytesIO(content[:HEADER_BYTES])
    try:
        shape, fortran, dtype = HEADERS[np.lib.format.read_magic(file)](file)
    except Exception as error:  # NumPy takes a header for Python, and parses that of Python 2 too
        raise ValueError(f"is no array of NumPy: {error}") from None
    if dtype.hasobject:
        raise ValueError("has an array of Python objects")
    start, count = file.tell(), math.prod(shape)
    if dtype.itemsize * count != len(content) - start or min(shape, default=0) < 0:
        raise ValueError(f"has an array of {shape} x {dtype} in {len(content) - start:,} bytes")
    return np.frombuffer(content, dtype, count, start).reshape(shape, order="F" if fortran else "C")


@contextlib.contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO]:
    """Open a file to write that takes the place of `path` once it is complete and on disk; else `path` is left alone.

    Processes that write the same file at a time do not meet: the last to finish has its way.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(unfinished, mode, newline="" if mode == "w" else None) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and not error.filename:
            error.filename = str(path)  # a failed write does not say of what
        raise
