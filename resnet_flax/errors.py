"""Errors that a user can cause: one line that says what was wrong and what would be right."""

import difflib
import errno
import os
import signal
import sys
from collections.abc import Iterable

from resnet_flax.text import print_line, short_repr

# What can be wrong with a disk or a folder: full, a limit reached, not to be written, nothing that can be called so.
STORAGE: tuple[int, ...] = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
STORAGE += (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
MAX_COMPARED_CHARS = 100  # characters of a name that are compared
MAX_NAMES_LISTED = 100  # names that a hint lists


class UserError(Exception):
    """A mistake in the config, the command line, the data or the workdir; `main` prints it without a traceback."""

    exit_code = 1
    quiet = False  # where another process tells it


class Damaged(UserError):
    """A file is not what was written there."""


class NotFinite(UserError):
    """The loss or a gradient became NaN or infinite."""

    exit_code = 4


class Interrupted(Exception):
    """A signal asked the run to stop; its state is saved."""

    quiet = False

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}; the same command goes on from here")
        self.exit_code = 128 + signum


def nearest(name: object, choices: Iterable[str], instead: Iterable[str] = ()) -> str:
    """A hint to put behind an unknown `name`: the closest of `choices`; if none is close, `instead` or all."""
    names = sorted(choices)
    close = difflib.get_close_matches(str(name)[:MAX_COMPARED_CHARS], names, n=1, cutoff=0.5)
    listed = sorted(instead) or names
    rest = f" and {len(listed) - MAX_NAMES_LISTED} more" if len(listed) > MAX_NAMES_LISTED else ""
    return f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(listed[:MAX_NAMES_LISTED])}{rest}"


def lookup(kind: str, name: object, registry: dict):
    """`registry[name]`, or a UserError that names the `kind` of thing looked for and the nearest valid name."""
    if isinstance(name, str) and name in registry:
        return registry[name]
    raise UserError(f"unknown {kind} {short_repr(name)}: {nearest(name, registry)}")


def reason(error: BaseException) -> str:
    """Why a library failed, in a few words: what the system said, or else the first line of what it says itself."""
    text = str(error).strip() or type(error).__name__
    said = [os.strerror(code) for code in STORAGE if os.strerror(code) in text]
    return said[0] if said else text.splitlines()[0][:200]


def report_error(error: Exception) -> int:
    """Print what a user can do something about as one line, and return the exit code; raise anything else again."""
    if isinstance(error, OSError) and error.errno in STORAGE:
        place = f": {error.filename}" if error.filename else ""
        error = UserError(f"{error.strerror}{place}")
    if not isinstance(error, UserError | Interrupted):
        raise error
    if not error.quiet:
        print_line(error if isinstance(error, Interrupted) else f"error: {error}", sys.stderr)
    return error.exit_code
