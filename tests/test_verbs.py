"""The help: one screen, and for each verb its usage, its flags with their defaults, and an example that works."""

import re
import shlex
from importlib import import_module
from inspect import signature

import pytest

from resnet_flax.command_line import canonical
from resnet_flax.main import main
from resnet_flax.verbs import VERBS, help_text


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["help"], ["--config=x", "--help"], ["--config", "x", "-h"]])
def test_help_names_every_verb_and_fits_a_screen(argv, capsys):
    assert main(argv) == 0
    text = capsys.readouterr().out
    assert text == help_text(None) + "\n"
    assert re.findall(r"^  ([a-z-]+)  ", text, re.MULTILINE) == list(VERBS)
    for flag in ("--config=", "--config.FIELD=", "--workdir=", "--help", "--version"):
        assert flag in text
    assert len(text.splitlines()) <= 30
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_is_its_own(verb, capsys):
    for argv in ([verb, "--help"], ["help", verb], ["--help", verb]):
        assert main(argv) == 0
        text = capsys.readouterr().out
        assert text == help_text(verb) + "\n"
    assert re.match(rf"usage: python -m resnet_flax\.main {verb}\b", text)
    for name, flag in VERBS[verb].flags.items():
        assert re.search(rf"^  --{name}\b", text, re.MULTILINE)
        assert flag.help.split()[0] in text
        assert not flag.default or f"(default: {flag.default})" in " ".join(text.split())
    assert len(text.splitlines()) <= 24


@pytest.mark.parametrize("verb", VERBS)
def test_example_of_a_verb_is_one_that_the_program_takes(verb):
    words = shlex.split(help_text(verb).splitlines()[-1])
    assert words[:3] == ["python", "-m", "resnet_flax.main"]
    first = next((word for word in canonical(words[3:]) if not word.startswith("--")), "train")
    assert first == verb


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_a_function_that_takes_its_flags(verb):
    name = verb.replace("-", "_")
    taken = list(signature(getattr(import_module(f"resnet_flax.commands.{name}"), name)).parameters)
    given = ["jobs"] if VERBS[verb].words == "workdirs" else [] if VERBS[verb].standalone else ["config", "workdir"]
    given += {"files": ["files"], "fields": ["fields", "recipe"], "shell": ["shell"]}.get(VERBS[verb].words, [])
    own = [name for name, flag in VERBS[verb].flags.items() if not flag.field]
    assert sorted(taken) == sorted([*given, *own])
