"""usage: python -m resnet_flax.main [VERB] --config=FILE[:ARGUMENT] [--config.FIELD=VALUE ...] [--workdir=PATH]

verbs
  train     train the config's network, or go on where it was stopped; report at the end (the default)
  summary   print the network's layers, parameters and FLOPs
  report    draw the pictures of a workdir, also while it trains

flags
  --config=FILE[:ARGUMENT]   a recipe, such as configs/preact.py, or configs/preact.py:full to train on all examples
  --config.FIELD=VALUE       set one of its fields, such as --config.optimizer.learning_rate=0.05
  --workdir=PATH             where the run lives, runs/NAME[-ARGUMENT] by default; the same command resumes there
"""

import os
import sys
from pathlib import Path

import jax
from absl import flags
from ml_collections import FrozenConfigDict, config_flags

from resnet_flax.config import complete, flatten, get_config
from resnet_flax.data.sources import cache_folder
from resnet_flax.errors import Interrupted, UserError, lookup, nearest


def train(config: FrozenConfigDict, workdir: Path) -> None:
    from resnet_flax.train import train

    train(config, workdir)


def summary(config: FrozenConfigDict, workdir: Path) -> None:
    from resnet_flax import models, summary
    from resnet_flax.data.sources import SOURCES

    image_shape = (32, 32, 3)
    model = models.build(config.model, len(SOURCES[config.data.name].classes))
    print(summary.table(model, image_shape), end="")
    models.count_within_budget(model, config.model, image_shape)


def report(config: FrozenConfigDict, workdir: Path) -> None:
    from resnet_flax import report

    report.draw(workdir)
    print(f"drawn into {workdir / 'report'}")


VERBS = {"train": train, "summary": summary, "report": report}


def parse(argv: list[str]) -> tuple[str, FrozenConfigDict, Path]:
    """(verb, complete config, workdir) from the words of a command line; raises UserError for a mistake in them."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    files = [word.removeprefix("--config=") for word in argv if word.startswith("--config=")]
    if not files:
        raise UserError("which recipe? Give --config=FILE, such as --config=configs/quickstart.py")
    file, _, argument = files[-1].partition(":")
    path = Path(file)
    if not path.is_file():
        names = [str(other) for other in path.parent.glob("*.py")] or [str(p) for p in Path("configs").glob("*.py")]
        raise UserError(f"there is no config file {file!r}: {nearest(file, names)}")
    try:
        words = values([sys.argv[0], *argv])[1:]
    except AttributeError:  # how a ConfigDict refuses an unknown field
        fields = flatten(get_config().to_dict())
        given = [word.removeprefix("--config.").partition("=")[0] for word in argv if word.startswith("--config.")]
        unknown = next(field for field in given if field not in fields)
        raise UserError(f"unknown field config.{unknown}: {nearest(unknown, fields)}") from None
    except flags.Error as error:  # with a traceback in it where the recipe itself raised
        raise UserError(str(error).strip().splitlines()[-1].split("UserError: ")[-1]) from None
    verb = words[0] if words else "train"
    if len(words) > 1:
        raise UserError(f"one verb at a time, not {' '.join(words)!r}")
    lookup("verb", verb, VERBS)
    workdir = Path(values.workdir or Path("runs") / (path.stem + (f"-{argument}" if argument else "")))
    return verb, complete(values.config), workdir


def main(argv: list[str]) -> int:
    """Run one command; return the process's exit code."""
    if {"--help", "-h", "help"} & set(argv):
        print(__doc__, end="")
        return 0
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # compile each program once, not at every start
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    try:
        verb, config, workdir = parse(argv)
        VERBS[verb](config, workdir)
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
