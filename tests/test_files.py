"""Untrusted files: what NumPy and json write is read, and nothing that is damaged, huge or a program."""

import errno
import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks.faults.readers import zipped
from resnet_flax import files

ARRAYS = [
    np.arange(6, dtype=np.uint8).reshape(2, 3),
    np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
    np.zeros((0, 32, 32, 3), np.uint8),
    np.array("text"),
    np.array([1.5, np.nan]),
]


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_read_as_numpy_reads_them(tmp_path, save):
    save(tmp_path / "all.npz", *ARRAYS)
    read = files.read_npz(tmp_path / "all.npz")
    for index, array in enumerate(ARRAYS):
        np.save(tmp_path / "one.npy", array)
        for found in (files.read_npy(tmp_path / "one.npy"), read[f"arr_{index}"]):
            np.testing.assert_array_equal(found, array)
            assert found.dtype == array.dtype


WHOLE = npy(ARRAYS[0])
BAD_ARRAYS = {
    "is empty": b"",
    "claims 10**15 bytes": WHOLE.replace(b"(2, 3), }" + b" " * 13, b"(1000000000000000,), }"),
    "has a negative size": WHOLE.replace(b"(2, 3), }  ", b"(-2, -3), }"),
    "is cut": WHOLE[:-1],
    "is too long": WHOLE + b"x",
    "has objects": WHOLE.replace(b"'|u1'", b"'|O' "),
    "has a header that is no header": WHOLE.replace(b"{'descr'", b"(((((((("),
    "is of another version": WHOLE.replace(b"NUMPY\x01", b"NUMPY\x03"),
}


@pytest.mark.parametrize("content", BAD_ARRAYS.values(), ids=list(BAD_ARRAYS))
def test_a_damaged_array_is_refused(tmp_path, content):
    assert content != WHOLE
    (tmp_path / "bad.npy").write_bytes(content)
    (tmp_path / "bad.npz").write_bytes(zipped({"bad.npy": content}, zipfile.ZIP_DEFLATED))
    for read in (lambda: files.read_npy(tmp_path / "bad.npy"), lambda: files.read_npz(tmp_path / "bad.npz")):
        with pytest.raises(ValueError, match=r"\w+"):
            read()


def lying(size: int) -> bytes:
    """Return an archive with a member of a million bytes that claims to have `size`."""
    content = bytearray(zipped({"a.npy": b"\0" * 10**6}, zipfile.ZIP_DEFLATED))
    for signature, at in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        struct.pack_into("<I", content, content.index(signature) + at, size)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (lying(2**31), "unpacks to 2,147,483,648 bytes, more than 536,870,912: write it as .npy"),
        (lying(10), "is damaged: Bad CRC-32|the magic string is not correct"),
        (zipped({"a.npy": WHOLE}, zipfile.ZIP_LZMA), "compressed by a method that NumPy does not use"),
        (zipped({"a.npy": WHOLE}, zipfile.ZIP_DEFLATED)[:-30], "is damaged: File is not a zip file"),
        (zipped({"../../a.npy": b"x"}, zipfile.ZIP_DEFLATED), "magic string"),
    ],
)
def test_a_damaged_or_huge_archive_is_refused(tmp_path, content, why):
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=why):
        files.read_npz(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[" * 10**6, "nested too deeply"),
        (b"1" * 5000, "limit"),
        (b"\xff", "is not UTF-8 text"),
        (b" " * (files.MAX_TEXT_BYTES + 1), "has more than 8,388,608 bytes"),
        (b"{", "Expecting"),
    ],
)
def test_a_text_that_is_not_one_is_refused(tmp_path, content, why):
    path: Path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=why):
        files.read_json(path)
    path.write_text(json.dumps({"a": [1, "\x1b"]}))
    assert files.read_json(path) == {"a": [1, "\x1b"]}


def test_a_file_is_written_in_utf8_whatever_the_locale_and_the_text(tmp_path):
    with files.atomic_write(tmp_path / "file") as file:
        file.write("\u732b \udcff\r\n")
        assert file.encoding == "utf-8"
    assert (tmp_path / "file").read_bytes() == "\u732b \\udcff\r\n".encode()


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(OSError, match="full") as raised, files.atomic_write(tmp_path / "file") as file:
        file.write("new")
        raise OSError(errno.ENOSPC, "disk full")
    assert raised.value.filename == str(tmp_path / "file")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
