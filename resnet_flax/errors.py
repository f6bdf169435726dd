"""Errors that a user can cause: one line that says what is wrong and what would be right."""

import difflib
import errno
import os
import re
import signal
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from resnet_flax.text import escape_line, first_few, print_line, short_repr

# Failures of a disk, a folder or a path: full, over a limit, not writable, vanished, or impossible.
STORAGE: tuple[int, ...] = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
STORAGE += (errno.ENOENT, errno.EEXIST, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
STORAGE += (errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT)  # of a network file system
MAX_COMPARED_CHARS = 100  # of a name that is compared with the valid ones
MAX_NAMES_LISTED = 100
NO_MEMORY = "RESOURCE_EXHAUSTED"  # XLA's status code
NO_BACKEND = "Unable to initialize backend"  # how JAX says that a device is missing
INTERRUPTED = 128 + signal.SIGINT  # exit code after Ctrl-C
# Whether this process is a program that runs one command, so that a signal may end it at once: then nothing is lost.
runs_command_only = False
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # gs://BUCKET, and gs:/BUCKET, into which pathlib turns it


class UserError(Exception):
    """A mistake in the config, the command line, the data or the workdir; `main` prints it without a traceback."""

    exit_code = 1
    quiet = False  # whether another process prints it


class Damaged(UserError):
    """A file does not contain what was written to it."""


class NotFinite(UserError):
    """The loss or a gradient became NaN or infinite."""

    exit_code = 4


class OutOfMemory(UserError):
    """A device or the machine has too little memory."""


class Interrupted(Exception):
    """A signal asked the run to stop; its state is saved."""

    quiet = False

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}; the same command resumes from here")
        self.exit_code = 128 + signum


def nearest(name: object, choices: Iterable[str]) -> str:
    """Return a hint for an unknown `name`: the closest of `choices`, or all of them if none is close."""
    names = sorted(choices)
    close = difflib.get_close_matches(str(name)[:MAX_COMPARED_CHARS], names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"the choices are: {', '.join(first_few(names, MAX_NAMES_LISTED))}"


def nearest_file(path: Path, extensions: Collection[str]) -> str:
    """Return a hint for a `path` at which there is nothing: the files beside it with such an extension, "" for none."""
    try:
        beside = [str(file) for file in path.parent.iterdir() if file.suffix.lower() in extensions]
    except OSError:
        beside = []
    return f": {nearest(path, beside)}" if beside else ""


def lookup(kind: str, name: object, registry: dict):
    """Return `registry[name]`. Raises UserError with the `kind` of thing looked up and the nearest valid name."""
    if isinstance(name, str) and name in registry:
        return registry[name]
    raise UserError(f"unknown {kind} {short_repr(name)}: {nearest(name, registry)}")


def is_address(text: str) -> bool:
    """Return whether `text` is an address such as gs://BUCKET/FOLDER, which Path would turn into a folder `gs:`."""
    return bool(ADDRESS.match(text))


def refuse_address(name: str, text: str) -> None:
    """Raise UserError if the value of `name` is an address: locks and atomic renames need a file system."""
    if is_address(text):
        raise UserError(
            f"{name} must be a path on this machine, not {short_repr(text)}: mount the bucket as a folder, or copy "
            "from and to it, see launch/README.md"
        )


def reason(error: BaseException) -> str:
    """Return in a few words why a library failed: the operating system's message, or else the first line of its own."""
    text = str(error).strip() or type(error).__name__
    system = [os.strerror(code) for code in STORAGE if os.strerror(code) in text]
    return system[0] if system else text.splitlines()[0][:200]


def report_error(error: Exception) -> int:
    """Print an error that the user can do something about as one line, and return the exit code; raise any other.

    Any other is a crash, for which the process ends with os.EX_SOFTWARE, so that a launcher can tell it from a mistake.
    """
    if any(isinstance(one, KeyboardInterrupt) for one in causes(error)):  # say, in the middle of an import
        return INTERRUPTED
    if isinstance(error, OSError) and error.errno in STORAGE:
        place = f": {error.filename}" if error.filename else ""
        error = UserError(f"{error.strerror}{place}")
    if is_out_of_memory(error):
        error = OutOfMemory(
            "there is not enough memory: close other programs, or use a device with more, such as the CPU "
            "(JAX_PLATFORMS=cpu)"
        )
    if not isinstance(error, UserError | Interrupted):
        error = missing_device(error) or error
    if not isinstance(error, UserError | Interrupted):
        raise error
    if not error.quiet:
        print_line(error if isinstance(error, Interrupted) else f"error: {error}", sys.stderr)
    return error.exit_code


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether Python or XLA, whose errors are RuntimeErrors, could not allocate memory."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and NO_MEMORY in str(error))


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield `error`, the exception that it came from, and so on."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


def missing_device(error: Exception) -> UserError | None:
    """Return a UserError if `error` is due to JAX_PLATFORMS naming devices that JAX does not find, else None."""
    without = isinstance(error, AssertionError)  # how JAX fails for "cuda" without a GPU
    if not (NO_BACKEND in str(error) or (without and "jax" in sys.modules)):
        return None
    import jax

    asked = jax.config.jax_platforms  # type: ignore[attr-defined]
    if not asked or (without and finds_devices()):
        return None
    jax.config.update("jax_platforms", "")
    found = ", ".join(sorted({device.platform for device in jax.devices()}))
    why = "" if without or "known backends" in str(error) else f" ({escape_line(error, 200)})"
    install = "pip install -c constraints.txt -e '.[cuda13]' (or cuda12, or tpu) adds support for others"
    return UserError(f"JAX_PLATFORMS={asked}, but JAX finds only {found} here{why}: unset it; {install}")


def finds_devices() -> bool:
    import jax

    try:
        return bool(jax.devices())
    except (AssertionError, RuntimeError):
        return False
