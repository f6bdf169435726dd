"""usage: python -m resnet_flax.main [VERB] --config=FILE[:ARGUMENT] [--config.FIELD=VALUE ...] [--workdir=PATH]

verbs
  train          train the config's network, or go on where it was stopped; report at the end (the default)
                 --seeds=5, or --seeds=0,1,2, for a run of each seed in WORKDIR/seed0 ..., their mean and its interval
  summary        print layers, parameters, FLOPs, memory, data and classes, and of a workdir its checkpoints
  preview        draw augmented training images: --images=8 of them, --versions=8 of each
  sweep          a run for each combination of values of some fields, the best by validation: sweep --config=FILE
                 optimizer.learning_rate=0.01,0.1 model.widths=(8,16),(16,32); or with --method=random|tpe --trials=N
                 also of ranges, optimizer.learning_rate=1e-3..1:log; --storage=URL of a database to share
  report         draw pictures, tables and report.html of a workdir, also while it trains; of several (report runs/A
                 runs/B) their curves and a table sorted by validation accuracy, into --output=PATH
  evaluate       score a workdir, or several and their ensemble: evaluate runs/A runs/B
                 --split=test|validation|train, or any such as train[:500]; --checkpoint=best|newest|STEP
                 --tta=flip,shift to score the mean over views of each image beside it
  predict        what the network takes your images for, as a CSV: predict photos/ cat.jpg images.npy --workdir=runs/A
                 --output=PATH; --submission writes ID,Labels; --checkpoint=best|newest|STEP
  import-torch   start a workdir from PyTorch weights: --file=PATH, a .safetensors or a state_dict in .pt; of a
                 checkpoint that holds several the one under --key=NAME, such as ema
  export         write the best (or only) weights of a workdir: --format=safetensors|torch, or with stablehlo a program
                 that needs jax alone; --output=PATH, whose ending stands for its format

flags
  --config=FILE[:ARGUMENT]   a recipe, such as configs/preact.py, or configs/preact.py:full to train on all examples
  --config.FIELD=VALUE       set one of its fields, such as --config.optimizer.learning_rate=0.05
  --workdir=PATH             where the run lives, runs/NAME[-ARGUMENT] by default; the same command resumes there.
                             A workdir holds its config: where there is a run already, --workdir is enough
"""

import importlib
import sys
from typing import Any

from resnet_flax.cache import keep_compiled_programs
from resnet_flax.command_line import Job, Verb, read_command_line
from resnet_flax.errors import lookup, report_error

# The verb VERB is the function VERB of the module VERB in resnet_flax.commands.
VERBS: dict[str, Verb] = {
    "train": Verb(dict(seeds="")),
    "summary": Verb(),
    "preview": Verb(dict(images=8, versions=8)),
    "sweep": Verb(dict(method="grid", trials=0, storage=""), "fields"),
    "report": Verb(dict(output=""), "workdirs", True),
    "evaluate": Verb(dict(split="test", checkpoint="best", tta=""), "workdirs", True),
    "predict": Verb(dict(checkpoint="best", output="", submission=False), "files", True),
    "import-torch": Verb(dict(file="", key="")),
    "export": Verb(dict(format="", output=""), trained=True),
}


def parse(argv: list[str]) -> tuple[str, list[Job], dict[str, Any]]:
    """Return (verb, jobs, the verb's own flags) of a command line; UserError for a mistake in it."""
    name, *words = [word for word in argv if not word.startswith("-")] or ["train"]
    return name, *read_command_line(argv, name, lookup("verb", name, VERBS), words)


def main(argv: list[str]) -> int:
    """Run one command; return the process's exit code."""
    if {"--help", "-h", "help"} & set(argv):
        print(__doc__, end="")
        return 0
    try:
        keep_compiled_programs()
        name, jobs, options = parse(argv)
        function = name.replace("-", "_")
        run = getattr(importlib.import_module(f"resnet_flax.commands.{function}"), function)
        run(jobs, **options) if VERBS[name].words == "workdirs" else run(*jobs[0], **options)
    except Exception as error:
        return report_error(error)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
