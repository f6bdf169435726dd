"""Freed memory stays with the process, unless its environment says otherwise."""

import os
import platform
import statistics
import subprocess
import sys

import pytest

from resnet_flax import api, memory
from resnet_flax.errors import UserError

# The program allocates and frees 32 MiB in a thread, as XLA does at each dispatch.
FAULTS = """
import ctypes, resource, threading
from resnet_flax import main, memory

assert main.main(["list", "nothing"]) == 1
libc, size = ctypes.CDLL(None), 32 * 2**20
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

libc.prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: a fault for each page, however the system is set

def allocate():
    block = libc.malloc(ctypes.c_size_t(size))
    ctypes.memset(block, 1, size)
    libc.free(block)

def faults(work):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def dispatch():
    thread = threading.Thread(target=allocate)
    thread.start()
    thread.join()

dispatch()
dispatch()
allocate()
memory.return_free_memory()
print(faults(dispatch), faults(allocate))
"""
PAGES = 32 * 2**20 // os.sysconf("SC_PAGE_SIZE")


def page_faults(**environment: str) -> list[int]:
    """Page faults of a dispatch like those before, and of a block after free memory is returned."""
    done = subprocess.run([sys.executable, "-c", FAULTS], env=os.environ | environment, capture_output=True, text=True)
    assert done.stderr == "error: list takes no flags and no arguments: what is 'nothing'?\n"
    return [int(count) for count in done.stdout.splitlines()[-1].split()]


PROGRAM = """
import ctypes, resource
import jax
import jax.numpy as jnp
from resnet_flax import main

assert main.main(["list", "nothing"]) == 1
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE
product = jax.jit(lambda a, b: (a @ a.T) @ b)  # a temporary array of 128 MiB
a, b = jnp.ones((5793, 4)), jnp.ones((5793, 1))
for _ in range(24):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    product(a, b).block_until_ready()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_most_programs_take_the_memory_of_the_one_before():
    """Not all: a small block that stays may break it up, most often in the first few."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    first, *others = (int(count) for count in done.stdout.split())
    assert first >= 4 * PAGES
    assert statistics.median(others) < PAGES


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc returns freed memory at once and can be told")
@pytest.mark.parametrize(
    ("environment", "kept"),
    [({}, True), ({"GLIBC_TUNABLES": "glibc.malloc.arena_test=8"}, False), ({"MALLOC_ARENA_TEST": "8"}, False)],
)
def test_the_program_keeps_what_it_frees_until_it_is_returned_unless_malloc_is_set_in_the_environment(
    environment, kept
):
    again, returned = page_faults(**environment)
    assert (again < PAGES // 10) == kept
    assert returned >= PAGES * 9 // 10


def test_a_c_library_without_these_options_is_left_as_it_is(monkeypatch):
    """musl's, and that of macOS."""
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    memory.keep_freed_memory()
    memory.return_free_memory()
    memory.Heap().trim_if_grown()


def test_free_memory_is_returned_when_the_heap_has_grown_beyond_its_largest(monkeypatch):
    ends, returned = [], []
    monkeypatch.setattr(memory, "return_free_memory", lambda: returned.append(ends[-1]))
    monkeypatch.setattr(memory, "c_function", lambda name: {"sbrk": lambda change: ends[-1]}[name])
    heap = memory.Heap()
    for end in (10, 10, 30, 20, 30, 31):
        ends.append(end)
        heap.trim_if_grown()
    assert returned == [10, 30, 31]


def test_training_from_python_keeps_freed_memory_too(monkeypatch):
    asked = []
    monkeypatch.setattr(api, "keep_freed_memory", lambda: asked.append(True))
    with pytest.raises(UserError):
        api.train("no such recipe")
    assert asked
