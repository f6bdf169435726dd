"""Nothing that is printed contains terminal control sequences, and printing never fails."""

import io
import os
import re
from pathlib import Path

import pytest

from resnet_flax.text import escape_line, first_few, lost_output, print_line

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
def test_control_characters_are_escaped(text, shown):
    assert escape_line(text) == (text if shown is None else shown)


@pytest.mark.parametrize("text", ["x" * 9, "x" * 10, "x" * 11, "x" * 10_000, "\x1b" * 3, "\x1b" * 9])
def test_long_text_is_cut(text):
    shown = escape_line(text, longest=10)
    assert len(shown) <= 10
    assert shown.endswith("\u2026") == (len(escape_line(text)) > 10)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_lines_are_printed_in_any_encoding(encoding):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    print_line("cat \u732b \x1b[2J\nsecond \udcff", file)
    cat = "\u732b" if encoding == "utf-8" else "\\u732b"
    assert file.buffer.getvalue().decode() == f"cat {cat} \\x1b[2J\nsecond \\udcff\n"


def test_everything_is_printed_by_print_line():
    for path in PACKAGE.rglob("*.py"):
        if path.name != "text.py":
            assert not re.search(r"(?<!\w)print\(", path.read_text()), path


@pytest.mark.parametrize(("device", "error"), [("/dev/full", OSError), ("", BrokenPipeError)])
def test_output_that_is_lost_is_noted_and_the_rest_is_discarded(device, error):
    reader, writer = os.pipe()
    os.close(reader)
    with open(device or writer, "w") as file:
        lost_output.clear()
        print_line("first", file)
        assert [type(one) for one in lost_output] == [error]
        assert lost_output[0].filename == file.name
        print_line("second", file)
        assert len(lost_output) == 1
    lost_output.clear()
    if device:
        os.close(writer)


def test_the_first_few_of_many():
    assert first_few(["a", "b"], 2) == ["a", "b"]
    assert first_few(["a"] * 1234, 2) == ["a", "a", "and 1,232 more"]
    assert first_few([], 2) == []
