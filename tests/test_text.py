"""What is printed holds nothing that a terminal would obey."""

import io
import re
from pathlib import Path

import pytest

from resnet_flax.text import escape_line, print_line

PACKAGE = Path(__file__).parents[1] / "resnet_flax"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain cat.jpg", "plain cat.jpg"),
        ("\x1b[2J\x07\r\n\t\x00\x7f\x9b", r"\x1b[2J\x07\r\n\t\x00\x7f\x9b"),
        ("gpj.\u202eexe\u200f\u2028\ufeff", r"gpj.\u202eexe\u200f\u2028\ufeff"),
        ("\udcff\U000e0041", r"\udcff\U000e0041"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \u732b \U0001f408\u200d\u2b1b", None),
        (Path("a/b"), "a/b"),
    ],
    ids=ascii,
)
def test_printable(text, shown):
    assert escape_line(text) == (text if shown is None else shown)


@pytest.mark.parametrize("text", ["x" * 9, "x" * 10, "x" * 11, "x" * 10_000, "\x1b" * 3, "\x1b" * 9])
def test_what_is_too_long_is_cut(text):
    shown = escape_line(text, longest=10)
    assert len(shown) <= 10
    assert shown.endswith("\u2026") == (len(escape_line(text)) > 10)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_say_prints_lines_in_any_encoding(encoding):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    print_line("cat \u732b \x1b[2J\nsecond \udcff", file)
    cat = "\u732b" if encoding == "utf-8" else "\\u732b"
    assert file.buffer.getvalue().decode() == f"cat {cat} \\x1b[2J\nsecond \\udcff\n"


def test_nothing_is_printed_past_it():
    for path in PACKAGE.rglob("*.py"):
        if path.name not in ("text.py", "main.py"):  # main prints its own help
            assert not re.search(r"(?<!\w)print\(", path.read_text()), path
