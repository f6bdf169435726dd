"""The command lines of benchmarks: parsers, lists of words, changes of a recipe, and exit codes."""

import argparse
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from benchmarks.record import RESULTS
from resnet_flax.errors import UserError, report_error

EXTRAS = {"torch": "reference", "timm": "timm", "torchvision": "timm"}  # module -> the extra that installs it


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose --help shows a module's docstring as it is written."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def journal_parser(description: str | None, recipes: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return a parser for a benchmark with a journal; if `recipes` are given, --recipes has them as its default."""
    journal = parser(description)
    if recipes:
        journal.add_argument("--recipes", type=words, default=tuple(recipes), help="names, separated by commas")
    journal.add_argument("--output", type=Path, default=RESULTS, help="the folder of the log")
    journal.add_argument("--again", action="store_true", help="measure again what the log already has")
    return journal


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def some_of(choices: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    """Return a function like `words` that refuses any word that is none of the `choices`."""

    def chosen(text: str) -> tuple[str, ...]:
        if strange := [word for word in words(text) if word not in choices]:
            raise argparse.ArgumentTypeError(f"{strange[0]!r} is none of {', '.join(choices)}")
        return words(text)

    return chosen


def numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def read(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, list[str]]:
    """Return (arguments, changes), where changes are the words --config.FIELD=VALUE."""
    arguments, changes = parser.parse_known_args()
    strange = [word for word in changes if not word.startswith("--config.")]
    if strange:
        parser.error(f"unknown arguments: {' '.join(strange)}")
    return arguments, changes


def run(main: Callable[[], int | None]) -> int:
    """Return the exit code of main(); a mistake of the user, such as a missing file, is printed in one line.

    So is a missing module that an extra would install.
    """
    try:
        return main() or 0
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        install = f"pip install -c constraints.txt -e '.[{EXTRAS[error.name]}]'"
        return report_error(UserError(f"this needs {error.name}: {install}"))
    except Exception as error:
        return report_error(error)
