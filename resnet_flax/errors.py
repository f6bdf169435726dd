"""Errors that a user can cause: one line that says what was wrong and what would be right."""

import difflib
import signal
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the config, the command line, the data or the workdir; `main` prints it without a traceback."""

    exit_code = 1


class NotFinite(UserError):
    """The loss or a gradient became NaN or infinite."""

    exit_code = 4


class Interrupted(Exception):
    """A signal asked the run to stop; its state is saved."""

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}; the same command goes on from here")
        self.exit_code = 128 + signum


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
