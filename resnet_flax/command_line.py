"""Reading a command line: what a verb is, which recipe it names, and the flags with the config they set."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from resnet_flax import config as configs
from resnet_flax.errors import UserError, nearest


@dataclass(frozen=True)
class Verb:
    """`function` is called with a config, a workdir and the verb's own `flags`.

    Where `words` behind the verb are "workdirs" it is called with a list of pairs (config, workdir) instead; where they
    are "files", with them as one more flag. A verb on what was `trained` takes the config that the workdir holds.
    """

    function: str
    flags: dict[str, Any] = field(default_factory=dict)
    words: str = ""
    trained: bool = False


def given(argv: list[str], flag: str) -> list[str]:
    """Every value that a command line has for a flag."""
    return [word.removeprefix(f"{flag}=") for word in argv if word.startswith(f"{flag}=")]


def find_recipe(value: str) -> str:
    """The name of the run that --config=`value` describes; UserError where there is no such file."""
    file, _, argument = value.partition(":")
    path = Path(file)
    if not path.is_file():
        names = [str(other) for other in path.parent.glob("*.py")] or [str(p) for p in Path("configs").glob("*.py")]
        raise UserError(f"there is no config file {file!r}: {nearest(file, names)}")
    return path.stem + (f"-{argument}" if argument else "")


def read_flags(argv: list[str], own: dict[str, Any], stored: ConfigDict | None) -> flags.FlagValues:
    """All flags of a command line, a verb's `own` (name -> default) too; what it sets is set in the recipe's config, or
    in a `stored` one. Raises UserError for a mistake.
    """
    values = flags.FlagValues()
    if stored is None:
        config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    else:
        argv = [word for word in argv if not word.startswith("--config=")]
        config_flags.DEFINE_config_dict("config", stored, flag_values=values, sys_argv=argv)
    flags.DEFINE_multi_string("workdir", [], "", flag_values=values)
    kinds: dict[type, Any] = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, str: flags.DEFINE_string}
    for name, default in own.items():
        kinds[type(default)](name, default, "", flag_values=values)
    try:
        values([sys.argv[0], *argv])
    except AttributeError:  # how a ConfigDict refuses an unknown field
        fields = configs.flatten(configs.get_config().to_dict())
        named = [word.removeprefix("--config.").partition("=")[0] for word in argv if word.startswith("--config.")]
        unknown = next(name for name in named if name not in fields)
        raise UserError(f"unknown field config.{unknown}: {nearest(unknown, fields)}") from None
    except flags.Error as error:  # with a traceback in it where the recipe itself raised
        raise UserError(str(error).strip().splitlines()[-1].split("UserError: ")[-1]) from None
    return values
