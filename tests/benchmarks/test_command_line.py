"""Benchmarks read their command lines alike, and end alike after a mistake."""

import sys

import pytest

from benchmarks import command_line
from resnet_flax.errors import UserError


def test_changes_of_a_recipe_are_told_from_the_words_of_a_benchmark(monkeypatch, capsys):
    parser = command_line.journal_parser("about", ["preact"])
    monkeypatch.setattr(sys, "argv", ["benchmark", "--recipes=speed94,preact:sgd", "--again", "--config.seed=1"])
    arguments, changes = command_line.read(parser)
    assert (arguments.recipes, arguments.again, changes) == (("speed94", "preact:sgd"), True, ["--config.seed=1"])
    monkeypatch.setattr(sys, "argv", ["benchmark", "--rounds=1"])
    with pytest.raises(SystemExit, match="2"):
        command_line.read(parser)
    assert "unknown arguments: --rounds=1" in capsys.readouterr().err


def test_a_word_that_is_no_choice_is_refused_with_those_that_are(capsys):
    parser = command_line.parser("about")
    parser.add_argument("--parts", type=command_line.some_of(("step", "feed")))
    assert parser.parse_args(["--parts=feed,step"]).parts == ("feed", "step")
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--parts=feed,steps"])
    assert "'steps' is none of step, feed" in capsys.readouterr().err


def test_a_mistake_is_one_line_and_exit_code_1(capsys):
    def mistaken() -> None:
        raise UserError("there is no such recipe")

    assert command_line.run(mistaken) == 1
    assert capsys.readouterr().err == "error: there is no such recipe\n"
    assert command_line.run(lambda: open("missing.hlo").close()) == 1
    assert capsys.readouterr().err == "error: No such file or directory: missing.hlo\n"
    with pytest.raises(ZeroDivisionError):
        command_line.run(lambda: 1 // 0)
    assert command_line.run(lambda: None) == 0
    assert command_line.run(lambda: 143) == 143


def test_a_module_that_an_extra_would_install_is_one_line(capsys):
    def importing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    assert command_line.run(lambda: importing("torch")) == 1
    assert capsys.readouterr().err == "error: this needs torch: pip install -c constraints.txt -e '.[reference]'\n"
    with pytest.raises(ModuleNotFoundError):
        command_line.run(lambda: importing("resnet_flax.missing"))
