"""The process's memory: freed blocks are kept for the next dispatch, and returned if the heap is larger than ever."""

import ctypes
import os
from typing import Any

import jax

# Parameters of mallopt with their values, from malloc.h of glibc.
MALLOC_OPTIONS = (
    (-1, -1),  # M_TRIM_THRESHOLD: never return free memory to the system
    (-4, 0),  # M_MMAP_MAX: take even large blocks from the heap
    (-2, 128 * 2**20),  # M_TOP_PAD: twice the largest heap of a thread, or glibc would still return an empty one
)


def keep_freed_memory() -> None:
    """Have glibc keep the memory that this process frees. Call it before JAX looks for devices.

    On a CPU, XLA allocates the buffers of a program at each dispatch and frees them at its end. By default glibc maps
    and unmaps large ones, and the kernel clears every page anew, which takes up to half of the time with large batches.
    Only the heap of the main thread takes blocks of more than 64 MB, so programs run in the thread that calls them, not
    in one of JAX's own.

    If the environment sets any options of malloc, they are left alone. Other C libraries have none of these.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = c_function("mallopt")
    if mallopt is not None:
        for parameter, value in MALLOC_OPTIONS:
            mallopt(parameter, value)


def return_free_memory() -> None:
    """Return all memory that is free at this moment to the system."""
    malloc_trim = c_function("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(ctypes.c_size_t(0))


class Heap:
    """The memory that dispatches take and leave on a CPU.

    Small blocks fragment what a dispatch leaves, so sooner or later the next one does not fit there and takes new
    memory at the end of the heap. Gaps into which nothing fits would add up.
    """

    def __init__(self) -> None:
        self.end = 0  # its end when it was largest, an address

    def trim_if_grown(self) -> None:
        """Return all free memory to the system if the heap is larger than it has ever been here."""
        sbrk = c_function("sbrk")
        if sbrk is None:
            return
        sbrk.argtypes, sbrk.restype = [ctypes.c_ssize_t], ctypes.c_void_p
        end = sbrk(0)
        if end > self.end:
            self.end = end
            return_free_memory()


def c_function(name: str) -> Any:
    """Return a function of the C library, None if the library lacks it, as musl and macOS lack these."""
    return getattr(ctypes.CDLL(None), name, None)
