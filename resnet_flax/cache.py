"""The cache of decoded datasets and compiled programs: XDG_CACHE_HOME/resnet_flax."""

import contextlib
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax

from resnet_flax.errors import UserError, refuse_address
from resnet_flax.files import try_lock
from resnet_flax.text import print_line

WAIT_SECONDS = 0.1  # between two checks whether another process is done
# JAX's warning about an entry of its cache, which names the program. The file is called PROGRAM-HASH-cache.
BAD_ENTRY = re.compile(r"Error (?:reading|writing) persistent compilation cache entry for '([^'/]+)'")


def cache_folder() -> Path:
    """Return the folder, created so that no other user can read it. Raises UserError if that is impossible."""
    refuse_address("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME", ""))
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resnet_flax"
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot use the cache {error.filename}: {error.strerror}; set XDG_CACHE_HOME") from None
    except RuntimeError:
        raise UserError("there is no home folder to keep decoded datasets in: set XDG_CACHE_HOME") from None
    return folder


@contextlib.contextmanager
def one_process(path: Path) -> Iterator[None]:
    """Wait until no other process, here or on a machine with the same file system, is in this context for `path`.

    `path` is the file of the lock, which is created. On file systems without locks nobody waits, so whatever is
    prepared in the context must be correct without the lock; it only takes longer.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = try_lock(path)
        if not file:
            print_line("waiting for another process to prepare the dataset")
        while not file:
            time.sleep(WAIT_SECONDS)
            file = try_lock(path)
    except OSError:
        file = None
    with file or contextlib.nullcontext():
        yield


def keep_compiled_programs() -> None:
    """Have JAX keep compiled programs between runs, unless JAX_COMPILATION_CACHE_DIR already says where.

    They are machine code, so a folder into which another user could have put them is not used. Raises UserError for an
    XDG_CACHE_HOME that is an address, for which libraries, too, would create folders.
    """
    refuse_address("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME", ""))
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder = cache_folder() / "compiled"
        folder.mkdir(mode=0o700, exist_ok=True)
    except (UserError, OSError):  # only datasets cannot do without a cache
        return
    if is_private(folder.parent) and is_private(folder):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # small programs add up, too
        if getattr(warnings.showwarning, "func", None) is not delete_bad_entry:
            warnings.showwarning = partial(delete_bad_entry, warnings.showwarning)
    else:
        print_line(
            f"note: the compiled programs in {folder} are not used, as other users can write there: "
            f"run chmod 700 on it and on {folder.parent}, or set XDG_CACHE_HOME to a folder of yours",
            sys.stderr,
        )


def is_private(folder: Path) -> bool:
    """Return whether only this user can write there."""
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def delete_bad_entry(show: Callable[..., None], message: Warning | str, *place: Any, **more: Any) -> None:
    """Show a warning; but if it is about a bad entry of JAX's cache, delete the entry instead.

    A process that is killed while writing an entry leaves it incomplete. JAX then compiles the program at each start
    and never replaces the entry; once it is deleted, JAX writes it again. An error of the system, such as too many open
    files, says nothing about the entry.
    """
    entry = BAD_ENTRY.match(str(message))
    if not entry:
        return show(message, *place, **more)
    if "[Errno " in str(message):
        return
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    for path in Path(folder).glob(f"{entry[1]}-*-cache"):
        with contextlib.suppress(OSError):  # with a read-only cache, each start compiles the program again
            path.unlink()
