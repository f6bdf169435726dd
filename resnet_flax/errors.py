"""Errors that a user can cause: one line that says what was wrong and what would be right."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the config, the command line, the data or the workdir; `main` prints it without a traceback."""


def nearest(name: object, choices: Iterable[str]) -> str:
    """A hint to put behind an unknown `name`: the closest of `choices`, or all of them when none is close."""
    names = sorted(choices)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(names)}"


def lookup(kind: str, name: object, registry: dict):
    """`registry[name]`, or a UserError that names the `kind` of thing looked for and the nearest valid name."""
    if isinstance(name, str) and name in registry:
        return registry[name]
    raise UserError(f"unknown {kind} {name!r}: {nearest(name, registry)}")
