"""What is said to a user. Names of files and classes and messages of libraries may hold what a terminal would obey."""

import sys
from collections.abc import Sequence
from typing import TextIO

JOINERS = "\u200c\u200d"  # hold Persian words and emoji together, and do nothing else


def escape_line(text: object, longest: int = 0) -> str:
    """`text` in one line: what a terminal obeys or hides is escaped, such as \\x1b or \\u202e.

    With `longest`, what is longer is cut to so many characters, the last of which is an ellipsis.
    """
    whole = str(text)
    cut = whole[:longest] if longest else whole
    safe = "".join(c if c.isprintable() or c in JOINERS else repr(c)[1:-1] for c in cut)
    return safe if not longest or len(whole) <= longest >= len(safe) else safe[: longest - 1] + "\u2026"


def escape_lines(text: object) -> str:
    """`text` with each of its lines made printable."""
    return "\n".join(map(escape_line, str(text).split("\n")))


def short_repr(value: object) -> str:
    """A value as Python writes it, or the beginning of it."""
    return escape_line(repr(value), 300)


def print_line(text: object, file: TextIO | None = None) -> None:
    """Print lines, made printable, at once."""
    file = file or sys.stdout
    encoding = file.encoding or "utf-8"
    print(escape_lines(text).encode(encoding, "backslashreplace").decode(encoding), file=file, flush=True)


def first_few(items: Sequence[str], limit: int) -> list[str]:
    """Return the first `limit` items and, where there are more, an item that says how many."""
    rest = len(items) - limit
    return [*items[:limit], f"and {rest:,} more"] if rest > 0 else list(items)
