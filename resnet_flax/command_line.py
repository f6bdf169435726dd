"""Reading a command line: what a verb is, the recipe it names, and the flags with the config they set."""

import importlib.machinery
import re
import sys
import traceback
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict, config_flags

from resnet_flax.config.checks import complete, unknown_field
from resnet_flax.config.defaults import field_types
from resnet_flax.config.stored import read_config
from resnet_flax.errors import UserError, nearest, reason
from resnet_flax.text import escape_line, short_repr
from resnet_flax.workdir.folder import Job


@dataclass(frozen=True)
class Verb:
    """What a verb takes: its own `flags` with their defaults, and what the `words` behind it are.

    Its function is called with a config, a workdir and the flags. Where the words are "workdirs", it gets a list of
    jobs instead; where they are "files" or "fields", it gets them as one more flag, and for fields also `recipe`, the
    words that set the config. A verb on a `trained` network takes the config that the workdir holds.
    """

    flags: dict[str, Any] = field(default_factory=dict)
    words: str = ""
    trained: bool = False


def read_command_line(argv: list[str], name: str, verb: Verb, words: list[str]) -> tuple[list[Job], dict[str, Any]]:
    """(runs, the verb's own flags) of a command line with `words` behind the verb `name`; UserError for a mistake."""
    if words and not verb.words:
        raise UserError(f"one verb at a time, and a flag's value behind '=': what is {words[0]!r}?")
    recipe = flag_values(argv, "--config")[-1] if flag_values(argv, "--config") else ""
    workdirs = flag_values(argv, "--workdir") + (words if verb.words == "workdirs" else [])
    if not workdirs and not recipe:
        if verb.trained:
            raise UserError("which run? Give --workdir=PATH")
        raise UserError("which recipe? Give --config=FILE, such as --config=configs/quickstart.py")
    if len(workdirs) > 1 and verb.words != "workdirs":
        raise UserError(f"{name} takes one --workdir, not {len(workdirs)}")
    jobs = []
    for workdir in map(Path, workdirs or [f"runs/{default_run_name(recipe)}"]):
        config = read_config(workdir) if verb.trained or not recipe else load_recipe(recipe)
        values = read_flags(argv, verb.flags, config)
        jobs.append(Job(complete(values.config), workdir))
    options = {flag: values[flag].value for flag in verb.flags}
    if verb.words in ("files", "fields"):
        options[verb.words] = words
    if verb.words == "fields":
        options["recipe"] = [word for word in argv if re.match(r"--?(no)?config[.=]", word)]
    return jobs, options


def flag_values(argv: list[str], flag: str) -> list[str]:
    """Every value that a command line has for a flag."""
    return [word.removeprefix(f"{flag}=") for word in argv if word.startswith(f"{flag}=")]


def default_run_name(recipe: str) -> str:
    """What a run of FILE:ARGUMENT is called by default."""
    file, _, argument = recipe.partition(":")
    return Path(file).stem + (f"-{argument}" if argument else "")


def load_recipe(recipe: str) -> ConfigDict:
    """The config that get_config(ARGUMENT) returns in FILE, for a `recipe` FILE or FILE:ARGUMENT.

    Raises UserError where there is no such file, and says in which line of it something went wrong.
    """
    file, colon, argument = recipe.partition(":")
    path = Path(file)
    if not path.is_file():
        names = [str(other) for other in path.parent.glob("*.py")] or [str(p) for p in Path("configs").glob("*.py")]
        raise UserError(f"there is no config file {short_repr(file)}: {nearest(file, names)}")
    loader = importlib.machinery.SourceFileLoader("recipe", file)
    module = types.ModuleType(loader.name)
    module.__file__ = file
    try:
        loader.exec_module(module)
        config = module.get_config(*[argument] if colon else [])
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        line = error.lineno if isinstance(error, SyntaxError) else (lines or [0])[-1]
        place = f"{file}, line {line}" if line else file
        raise UserError(f"{place}: {type(error).__name__}: {escape_line(error, 300)}") from None
    if not isinstance(config, ConfigDict) or isinstance(config, FrozenConfigDict):
        raise UserError(f"{file}: get_config must return a ConfigDict, not {short_repr(config)}")
    return config


def read_flags(argv: list[str], own: dict[str, Any], config: ConfigDict) -> flags.FlagValues:
    """All flags of a command line, a verb's `own` (name -> default) too; what it sets of `config` is set there.

    Raises UserError for a mistake.
    """
    fields = field_types()
    for word in argv:
        named = re.match(r"--?(?:no)?config\.([^=]*)", word)
        if named and named[1] not in fields:
            raise UserError(unknown_field(named[1]))
    values = flags.FlagValues()
    argv = [word for word in argv if not word.startswith("--config=")]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    flags.DEFINE_multi_string("workdir", [], "", flag_values=values)
    kinds: dict[type, Any] = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, str: flags.DEFINE_string}
    for name, default in own.items():
        kinds[type(default)](name, default, "", flag_values=values)
    try:
        values([sys.argv[0], *argv])
    except (flags.Error, ValueError, MemoryError, RecursionError) as error:  # the last two of a tuple nested too deep
        raise UserError(escape_line(reason(error), 300)) from None
    return values
