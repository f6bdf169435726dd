"""usage: python -m resnet_flax.main [VERB] --config=FILE[:ARGUMENT] [--config.FIELD=VALUE ...] [--workdir=PATH]

verbs
  train          train the config's network, or go on where it was stopped; report at the end (the default)
  summary        print the network's layers, parameters and FLOPs
  preview        draw augmented training images: --images=8 of them, --versions=8 of each
  report         draw the pictures of a workdir, also while it trains
  import-torch   start a workdir from PyTorch weights: --file=PATH, a .safetensors or a state_dict in .pt
  export         write the best (or only) weights of a workdir: --format=safetensors|torch, --output=PATH

flags
  --config=FILE[:ARGUMENT]   a recipe, such as configs/preact.py, or configs/preact.py:full to train on all examples
  --config.FIELD=VALUE       set one of its fields, such as --config.optimizer.learning_rate=0.05
  --workdir=PATH             where the run lives, runs/NAME[-ARGUMENT] by default; the same command resumes there
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import FrozenConfigDict, config_flags

from resnet_flax.config import complete, flatten, get_config
from resnet_flax.data.sources import cache_folder
from resnet_flax.errors import Interrupted, UserError, lookup, nearest

# Verb -> the function that does it, called with the config, the workdir and these flags of its own.
VERBS: dict[str, tuple[str, dict[str, Any]]] = {
    "train": ("resnet_flax.train:train", {}),
    "summary": ("resnet_flax.summary:show", {}),
    "preview": ("resnet_flax.preview:draw", {"images": 8, "versions": 8}),
    "report": ("resnet_flax.report:draw", {}),
    "import-torch": ("resnet_flax.torch_weights:import_torch", {"file": ""}),
    "export": ("resnet_flax.torch_weights:export", {"format": "safetensors", "output": ""}),
}


def parse(argv: list[str]) -> tuple[str, FrozenConfigDict, Path, dict[str, Any]]:
    """(verb, complete config, workdir, the verb's own flags) from a command line; UserError for a mistake in it."""
    verb, *others = [word for word in argv if not word.startswith("-")] or ["train"]
    _, options = lookup("verb", verb, VERBS)
    if others:
        raise UserError(f"one verb at a time, and a flag's value behind '=': what is {others[0]!r}?")
    files = [word.removeprefix("--config=") for word in argv if word.startswith("--config=")]
    if not files:
        raise UserError("which recipe? Give --config=FILE, such as --config=configs/quickstart.py")
    file, _, argument = files[-1].partition(":")
    path = Path(file)
    if not path.is_file():
        names = [str(other) for other in path.parent.glob("*.py")] or [str(p) for p in Path("configs").glob("*.py")]
        raise UserError(f"there is no config file {file!r}: {nearest(file, names)}")
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    for name, default in options.items():
        define = flags.DEFINE_integer if isinstance(default, int) else flags.DEFINE_string
        define(name, default, "", flag_values=values)
    try:
        values([sys.argv[0], *argv])
    except AttributeError:  # how a ConfigDict refuses an unknown field
        fields = flatten(get_config().to_dict())
        given = [word.removeprefix("--config.").partition("=")[0] for word in argv if word.startswith("--config.")]
        unknown = next(field for field in given if field not in fields)
        raise UserError(f"unknown field config.{unknown}: {nearest(unknown, fields)}") from None
    except flags.Error as error:  # with a traceback in it where the recipe itself raised
        raise UserError(str(error).strip().splitlines()[-1].split("UserError: ")[-1]) from None
    workdir = Path(values.workdir or Path("runs") / (path.stem + (f"-{argument}" if argument else "")))
    return verb, complete(values.config), workdir, {name: values[name].value for name in options}


def main(argv: list[str]) -> int:
    """Run one command; return the process's exit code."""
    if {"--help", "-h", "help"} & set(argv):
        print(__doc__, end="")
        return 0
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # compile each program once, not at every start
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    try:
        verb, config, workdir, options = parse(argv)
        module, function = VERBS[verb][0].split(":")
        getattr(importlib.import_module(module), function)(config, workdir, **options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
