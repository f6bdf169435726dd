"""Measure the seconds to 94, 95 and 96 % test accuracy on CIFAR-10: python -m benchmarks.speed [--targets=94,96]

Each seed trains a target's recipe on all 50,000 images and is evaluated once on the test split, with its last weights
(--seeds=5).

seconds   all training steps and the computation of the whitening, without compiling (benchmarks.startup measures that),
          loading data and evaluation. The first step compiles, so only the others are timed, and the first is counted
          as one of them
accuracy  on the test images as they are; tta_accuracy: with the six views of the published records

Writes a line for each run to speed.jsonl and prints a table at the end. --small reduces the recipes to what a CPU does
in a minute, to show that everything works, and logs to speed_small.jsonl. Flags such as --config.train.epochs=12 change
the recipes.
"""

import itertools
import statistics
import sys
import time
from collections.abc import Sequence

import jax
from ml_collections import FrozenConfigDict

from benchmarks import command_line, recipes, record, tables
from resnet_flax.cache import keep_compiled_programs
from resnet_flax.commands.evaluate import View, flip, over_views, shift
from resnet_flax.data.datasets.arrays import Split
from resnet_flax.models.resnet import Variables
from resnet_flax.training.classifier import Classifier
from resnet_flax.training.run import Run
from resnet_flax.training.step import Totals
from resnet_flax.workdir.predictions import Predictions

TARGETS = {"94": "speed94", "95": "speed95", "96": "speed96"}  # percent -> the recipe that is meant to reach it
SMALL = (
    "--config.model.widths=(8,16,32)",
    "--config.data.train=train[:5000]",
    "--config.data.test=test[:2000]",
    "--config.data.feed=device",
    "--config.train.epochs=2",
    "--config.train.batch_size=125",
)
HEADER = (
    "test accuracy", "recipe", "epochs", "%", "% with TTA", "seconds", "seeds", "reached"
)  # fmt: skip


def measure(config: FrozenConfigDict) -> dict:
    """Train one run of `config`; return its accuracies and times."""
    run = Run(config)
    steps = config.train.epochs * run.stream.steps_per_epoch
    state, totals = run.fresh_state(), run.parallel.replicate(Totals.zero())
    advance = run.advance(0)
    state, totals, first = jax.block_until_ready(advance(state, totals, 1))
    compiled, done = time.perf_counter(), first
    while done < steps:
        state, totals, taken = advance(state, totals, steps - done)
        done += taken
    jax.block_until_ready(totals)
    finished = time.perf_counter()
    run.statistics()
    seconds = (finished - compiled) * steps / (steps - first) + time.perf_counter() - finished
    test = run.data.test
    assert test
    plain, over_six = evaluate(run.classifier, state.variables, test)
    return {
        "accuracy": plain.accuracy,
        "tta_accuracy": over_six.accuracy,
        "loss": round(plain.loss, 4),
        "seconds": round(seconds, 3),
        "images_per_second": round(steps * config.train.batch_size / seconds),
        "parameters": run.parameters,
    }


def evaluate(classifier: Classifier, variables: Variables, test: Split) -> tuple[Predictions, Predictions]:
    """Return the predictions for the images as they are, and those with the six views of the published records."""
    views = flip(shift([View(test.images)]))
    found = [classifier.evaluate(variables, Split(view.images, test.labels)) for view in views]
    return found[0], over_views(found, [view.weight for view in views])


def table(lines: Sequence[dict]) -> str:
    """Return a row for each case of one device: mean and deviation over seeds, and whether it reached its target."""
    groups: dict[tuple, list[dict]] = {}
    for line in lines:
        case = line["case"]
        groups.setdefault((case["target"], case["recipe"], case["epochs"], *case["changes"]), []).append(line["found"])
    rows = []
    for (target, recipe, epochs, *changes), found in sorted(groups.items()):
        name = " ".join([recipe, *changes]).replace("--config.", "")
        percents = [tables.spread([100 * run[field] for run in found]) for field in ("accuracy", "tta_accuracy")]
        seconds = tables.spread([run["seconds"] for run in found])
        met = statistics.mean(run["accuracy"] for run in found) >= float(target) / 100
        rows.append([f"{target} %", name, f"{epochs}", *percents, seconds, f"{len(found)}", "yes" if met else "no"])
    return tables.table(HEADER, rows)


def main() -> None:
    parser = command_line.journal_parser(__doc__)
    parser.add_argument("--targets", type=command_line.some_of(TARGETS), default=tuple(TARGETS), help="percent")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--small", action="store_true")
    arguments, given = command_line.read(parser)
    keep_compiled_programs()  # the seeds share them, and so do other benchmarks
    journal = record.Journal("speed_small" if arguments.small else "speed", arguments.output, arguments.again)
    for seed, target in itertools.product(range(arguments.seeds), arguments.targets):
        recipe = TARGETS[target]
        words = [*(SMALL if arguments.small else ()), *given, f"--config.seed={seed}"]
        config = recipes.config(f"{recipe}:full", words)
        case = {
            "target": target,
            "recipe": recipe,
            "epochs": config.train.epochs,
            "seed": seed,
            "changes": record.changes_to_log(given),
        }
        if not journal.has(case):
            journal.add(case, measure(config))
    print(table(journal.lines_here()))


if __name__ == "__main__":
    sys.exit(command_line.run(main))
