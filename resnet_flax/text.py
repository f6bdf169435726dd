"""Text for the terminal. File names, class names and library messages may contain terminal control sequences."""

import contextlib
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

JOINERS = "\u200c\u200d"  # invisible, but part of Persian words and of emoji, and harmless

lost_output: list[OSError] = []  # why `print_line` could not print


def escape_line(text: object, longest: int = 0) -> str:
    """Return `text` as one printable line: control and invisible characters are escaped, such as \\x1b or \\u202e.

    With `longest`, longer text is cut to that many characters, the last of them an ellipsis.
    """
    whole = str(text)
    cut = whole[:longest] if longest else whole
    safe = "".join(c if c.isprintable() or c in JOINERS else repr(c)[1:-1] for c in cut)
    return safe if not longest or len(whole) <= longest >= len(safe) else safe[: longest - 1] + "\u2026"


def end_of_line(text: object, longest: int) -> str:
    """Return `text` as one printable line; of more than `longest` characters, only the end is kept."""
    line = escape_line(text)
    return line if len(line) <= longest else "\u2026" + line[1 - longest :]


def escape_lines(text: object) -> str:
    """Return `text` with each of its lines escaped."""
    return "\n".join(map(escape_line, str(text).split("\n")))


def short_repr(value: object) -> str:
    """Return `repr(value)`, escaped and cut to 300 characters."""
    return escape_line(repr(value), 300)


def print_line(text: object, file: TextIO | None = None) -> None:
    """Print `text`, escaped, to `file` (stdout by default) and flush.

    Printing never fails: a reader that is gone or a full disk must not end a training run. The error is appended to
    `lost_output`, and all further output to `file` is discarded.
    """
    file = file or sys.stdout
    encoding = file.encoding or "utf-8"
    try:
        print(escape_lines(text).encode(encoding, "backslashreplace").decode(encoding), file=file, flush=True)
    except OSError as error:
        error.filename = error.filename or file.name
        lost_output.append(error)
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())  # where its buffer, too, is written when Python exits


def erase_line(file: TextIO) -> None:
    """Erase the line of a terminal's cursor, where there may be a progress bar."""
    with contextlib.suppress(OSError):
        file.write("\r\x1b[K")
        file.flush()


def first_few(items: Sequence[str], limit: int) -> list[str]:
    """Return the first `limit` items and, if there are more, a last one such as "and 5 more"."""
    rest = len(items) - limit
    return [*items[:limit], f"and {rest:,} more"] if rest > 0 else list(items)


def listed(names: Iterable[str]) -> str:
    """Return the first five of `names`, for a message."""
    return ", ".join(first_few([escape_line(name, 100) for name in names], 5))
