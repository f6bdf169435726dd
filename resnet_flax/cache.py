"""Where decoded datasets and compiled programs are kept between runs: XDG_CACHE_HOME/resnet_flax."""

import os
import sys
from pathlib import Path

import jax

from resnet_flax.errors import UserError
from resnet_flax.text import print_line


def cache_folder() -> Path:
    """The folder, made so that nobody else can look into it. Raises UserError where there cannot be one."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resnet_flax"
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot keep anything in {error.filename}: {error.strerror}; set XDG_CACHE_HOME") from None
    except RuntimeError:
        raise UserError("there is no home folder to keep decoded datasets in: set XDG_CACHE_HOME") from None
    return folder


def keep_compiled_programs() -> None:
    """Have jax compile each program once and not at every start, unless JAX_COMPILATION_CACHE_DIR says where already.

    They are machine code, so where somebody else could have put them they are left alone.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder = cache_folder() / "compiled"
        folder.mkdir(mode=0o700, exist_ok=True)
    except (UserError, OSError):  # a dataset cannot do without a place for it, a program can
        return
    if is_private(folder.parent) and is_private(folder):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # small programs add up, too
    else:
        print_line(
            f"note: no compiled programs are taken from {folder}, where others can write: chmod 700 it", sys.stderr
        )


def is_private(folder: Path) -> bool:
    """Whether this user alone can write there."""
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022
