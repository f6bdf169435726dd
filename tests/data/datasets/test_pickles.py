"""Pickles: arrays of every protocol are read, and nothing that a pickle names is run."""

import collections
import os
import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest

from resnet_flax.data.datasets import pickles

ARRAYS = [
    np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
    np.arange(3, dtype=">i4"),
    np.array(["cat", "\u00e9"]),
    np.array([b"cat", b"dog"]),
    np.array([True, False]),
    np.arange(24, dtype=np.uint8).reshape(2, 3, 4).transpose(0, 2, 1),
    np.zeros((0, 32, 32, 3), np.uint8),
    np.float32(0.5),
]


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "some.pkl"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("array", ARRAYS, ids=str)
def test_arrays_of_every_protocol(tmp_path, array, protocol):
    content = {b"data": array, b"ids": [1, 2.5, "three", b"four", None, (True,)]}
    read = pickles.read_pickle(write(tmp_path, pickle.dumps(content, protocol)))
    assert read[b"ids"] == content[b"ids"]
    np.testing.assert_array_equal(read[b"data"], array)
    assert read[b"data"].dtype == array.dtype


def test_names_of_numpy_1(tmp_path):
    written = pickle.dumps({b"data": ARRAYS[0], b"one": np.float32(0.5)}, 2).replace(b"numpy._core", b"numpy.core")
    read = pickles.read_pickle(write(tmp_path, written))
    np.testing.assert_array_equal(read[b"data"], ARRAYS[0])
    assert read[b"one"] == 0.5


def test_batches_of_cifar_which_python_2_wrote(tmp_path):
    """One byte by byte: text of Python 2 and NumPy 1, protocol 2."""
    written = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b"
        b"\x87Rq\x05(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x06abcdeftbU\x06labelsq\x08]q\x09(K\x06K\x09eu."
    )
    read = pickles.read_pickle(write(tmp_path, written))
    assert read[b"labels"] == [6, 9]
    assert read[b"data"].tolist() == [[97, 98, 99], [100, 101, 102]]


class Calls:
    """Is pickled as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call

    def __repr__(self):
        return f"{self.call[0].__name__}(...)"


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (Calls(os.system, "touch pwned"), "tries to import posix.system"),
        (Calls(eval, "open('pwned', 'w')"), "tries to import (builtins|__builtin__).eval"),
        (Calls(getattr, {}, "get"), "tries to import (builtins|__builtin__).getattr"),
        (Calls(np.load, "x"), "tries to import numpy.load"),
        (collections.OrderedDict(a=1), "tries to import collections.OrderedDict"),
        (Path("x"), "tries to import pathlib"),
        (np.array([Calls(os.getcwd)], dtype=object), "tries to import posix.getcwd|has an array of 'O8'"),
        (np.array([None]), "has an array of 'O8'"),
        (np.zeros(2, "u1,i4"), "has an array of 'V5'"),
        (np.ndarray, "holds Array, which is not a value"),
        ({1, 2}, "tries to import (builtins|__builtin__).set|uses EMPTY_SET"),
        ({1: 2}, "has a key that is not text"),
    ],
    ids=str,
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_anything_else_is_refused_by_name_and_does_not_run(tmp_path, monkeypatch, content, name, protocol):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, pickle.dumps({b"data": content}, protocol))
    with pytest.raises(pickles.Refused, match=name):
        pickles.read_pickle(path)
    assert not (tmp_path / "pwned").exists()


def test_a_damaged_pickle_is_refused(tmp_path):
    whole = pickle.dumps({b"data": ARRAYS[0]}, 4)
    for cut in range(1, len(whole)):
        with pytest.raises((ValueError, pickles.Refused)):
            pickles.read_pickle(write(tmp_path, whole[:cut]))
    assert pickletools.optimize(whole)
