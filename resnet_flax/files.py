"""Read untrusted files without running anything in them and with bounded memory; write files atomically; lock them."""

import contextlib
import errno
import fcntl
import io
import json
import math
import mmap
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

MAX_TEXT_BYTES = 2**23
MAX_UNPACKED_BYTES = 2**29  # of an .npz archive; an .npy file, which is memory-mapped, may have any size
HEADER_BYTES = 2**14  # in which the header of an .npy file must lie; NumPy itself allows 10,000

BUSY = (errno.EAGAIN, errno.EACCES)  # raised by flock while another process holds the lock

# Version of the .npy format -> the function that reads its header. Version 3 is for structured arrays only.
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def user_path(text: str) -> Path:
    """Return the path that a user means, with the home folder for `~`, which a shell leaves in --workdir=~/run.

    The `~name` of an unknown user stays as it is; Path.expanduser raises RuntimeError for it.
    """
    return Path(os.path.expanduser(text))


def check_size(path: Path, limit: int, instead: str = "") -> None:
    """Raise a ValueError that ends in `instead` if a file has more than `limit` bytes. The file is not read."""
    size = path.stat().st_size
    if size > limit:
        raise ValueError(f"has {size:,} bytes, more than {limit:,}{instead}")


def read_text(path: Path) -> str:
    """Return the content of a UTF-8 text file. Raises ValueError if it is not UTF-8 or exceeds MAX_TEXT_BYTES."""
    with open(path, "rb") as file:
        content = file.read(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        raise ValueError(f"has more than {MAX_TEXT_BYTES:,} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. Raises ValueError if it is not valid JSON."""
    return parse_json(read_text(path))


def parse_json(text: str) -> Any:
    """Return the value of a JSON text. Raises ValueError if it is not valid JSON or exceeds MAX_TEXT_BYTES."""
    if len(text) > MAX_TEXT_BYTES:
        raise ValueError(f"has more than {MAX_TEXT_BYTES:,} characters")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def read_npy(path: Path) -> np.ndarray:
    """Return the array in an .npy file, memory-mapped and read-only.

    Raises ValueError if the file is damaged or contains Python objects.
    """
    with open(path, "rb") as file:
        return array_of(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


def read_npz(path: Path, largest: int = MAX_UNPACKED_BYTES) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz archive by name, read-only.

    Raises ValueError if it is damaged, contains Python objects or unpacks to more than `largest` bytes.
    """
    check_size(path, largest, ": write it as .npy")
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                size = sum(member.file_size for member in members)  # as it claims
                if size > largest:
                    raise ValueError(f"unpacks to {size:,} bytes, more than {largest:,}: write it as .npy")
                contents = {member.filename.removesuffix(".npy"): unpack(archive, member) for member in members}
            return {name: array_of(memoryview(content)) for name, content in contents.items()}
        except ValueError:
            raise
        except Exception as error:  # zipfile raises many kinds for a damaged archive
            raise ValueError(f"is damaged: {error}") from None


def unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Return the content of a member, but at most as many bytes as it claims to have."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # zipfile unpacks others without a limit
        raise ValueError("is compressed by a method that NumPy does not use")
    with archive.open(member) as file:
        return file.read(member.file_size)


def array_of(content: memoryview) -> np.ndarray:
    """Return the array in the content of an .npy file, without a copy. Raises ValueError if it is damaged."""
    file = io.BytesIO(content[:HEADER_BYTES])
    try:
        shape, fortran, dtype = HEADERS[np.lib.format.read_magic(file)](file)
    except Exception as error:  # NumPy parses a header as Python, even as Python 2, and raises many kinds
        raise ValueError(f"is not a NumPy array: {error}") from None
    if dtype.hasobject:
        raise ValueError("contains Python objects")
    start, count = file.tell(), math.prod(shape)
    if dtype.itemsize * count != len(content) - start or min(shape, default=0) < 0:
        raise ValueError(f"claims an array of {shape} x {dtype} in {len(content) - start:,} bytes")
    return np.frombuffer(content, dtype, count, start).reshape(shape, order="F" if fortran else "C")


@contextlib.contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO]:
    """Open a new file, as UTF-8 if it is text, that replaces `path` once it is complete and on disk.

    If anything fails, `path` is unchanged. Of several processes that write `path` at the same time, the last one wins.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    text = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"} if mode == "w" else {}
    try:
        with open(unfinished, mode, **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and not error.filename:
            error.filename = str(path)  # a failed write does not name its file
        raise


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files by name into `folder`, which is created if need be, in their order, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        with atomic_write(folder / name, "wb") as file:
            file.write(content)


def try_lock(path: Path) -> IO | None:
    """Lock the file at `path`, created if need be, and return it; None if another process holds the lock.

    The lock is the operating system's: it lasts until the file is closed, at the latest until the process ends. Raises
    OSError if the file system has no locks.
    """
    file = open(path, "a+")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if error.errno in BUSY:
            return None
        raise
    return file
