"""Train recipes and record the runs, to compare them with the reports: python -m benchmarks.reproduce [--seeds=3]

--recipes names them, separated by commas, and + joins the words of one: preact:fast,preact:sgd+relu,speed94:full. The
bare name of a report's network, such as resnet_443, trains it as the report did: `preact` on 40,000 images with early
stopping, choosing the epoch on the other 10,000, the others on all 50,000, with the last epoch. The default is all
networks of the reports, both :fast and as in their reports, and those for speed, cheapest first. The test split is
evaluated once, at the end of a run. --config.FIELD=VALUE changes any field; --config.data.dir=FOLDER says where the
data are.

The same command resumes a stopped benchmark: each run has its own folder below --workdir, and finished runs are not
repeated; --again trains them anew, in further folders, and records the new runs in their place. Each run is recorded as
benchmarks.runs does, even one that a signal stops. After a crash the next run begins, and the exit code is 70 at the
end. Checkpoints are written every 10 epochs, when Ctrl-C or SIGTERM stops a run and, if it validates, after each epoch
that is the best so far.

--epochs and --train-examples make short runs, with the schedule scaled to fewer epochs. They show that everything works
but reproduce nothing, and the tables say so.
"""

import contextlib
import itertools
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from benchmarks import accuracy, command_line, recipes, runs
from resnet_flax.errors import UserError
from resnet_flax.main import main as train
from resnet_flax.parallel.devices import device_name
from resnet_flax.workdir.results import read_results

# In the order of their FLOPs.
DEFAULT = (
    "speed94:full",
    "preact:fast",
    "resnet18_w42:fast",
    "resnet_large:fast",
    "speed95:full",
    "resnet_2322:fast",
    "resnet_443:fast",
    "resnet_353:fast",
    "preact",
    "speed96:full",
    "resnet_2322",
    "resnet18_w42",
    "resnet_353",
    "resnet_443",
    "resnet_large",
)


def squeeze(recipe: str, epochs: int) -> list[str]:
    """Return the changes that make `recipe` train for fewer epochs, with its schedule scaled in proportion."""
    config = recipes.config(recipe)
    schedule, ratio = config.schedule, epochs / config.train.epochs
    changes = [f"--config.train.epochs={epochs}"]
    if schedule.name == "multistep":
        milestones = sorted({m for m in (round(m * ratio) for m in schedule.milestones) if 0 < m < epochs})
        changes.append(f"--config.schedule.milestones={tuple(milestones)}")
        if not milestones:
            changes.append("--config.schedule.name=constant")
    elif schedule.name == "onecycle":
        changes.append("--config.schedule.per=step")
    elif schedule.name == "warmup_cosine":
        changes.append(f"--config.schedule.warmup={max(1, round(schedule.warmup * ratio))}")
        changes.append(f"--config.schedule.decay={round(schedule.decay * ratio)}")
    return changes


def chosen(word: str) -> str:
    """Return the recipe that a word of --recipes stands for: "preact:sgd,relu" for "preact:sgd+relu"."""
    return recipes.as_reported(word.replace("+", ","))


def folders(first: Path) -> Iterator[Path]:
    """Yield the workdirs in which a run may be trained again and again, without end: NAME, NAME-2, NAME-3."""
    yield first
    yield from (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))


def run(recipe: str, changes: list[str], workdirs: Path, output: Path, again: bool) -> int:
    """Train or resume a run, unless it is recorded as finished, and record it; return the exit code of training.

    If a finished run is to be trained `again`, it trains in a new workdir, or resumes there.
    """
    config = recipes.config(recipe, changes)
    device = device_name()
    if (output / runs.RUNS / runs.name_of(config, device) / "results.json").exists() and not again:
        return 0
    workdir = next(one for one in folders(workdirs / runs.name_of(config)) if not (again and read_results(one)))
    try:
        code = train([f"--config={recipes.file(recipe)}", recipes.CHECKPOINTS, *changes, f"--workdir={workdir}"])
    except Exception:  # of the compiler or the device, which may not crash in other runs
        traceback.print_exc()
        code = os.EX_SOFTWARE
    with contextlib.suppress(UserError) if code else contextlib.nullcontext():  # perhaps no epoch is finished
        print(runs.record(workdir, output), flush=True)
    return code


def main() -> int:
    parser = command_line.journal_parser(__doc__, DEFAULT)
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds: 0, 1, ...")
    parser.add_argument("--epochs", type=int, default=0, help="train for fewer epochs")
    parser.add_argument("--train-examples", type=int, default=0, help="train on fewer images")
    parser.add_argument("--workdir", type=Path, default=Path("runs/reproduce"))
    arguments, given = command_line.read(parser)
    failed = 0
    for seed in range(arguments.seeds):
        for recipe in map(chosen, arguments.recipes):
            short = squeeze(recipe, arguments.epochs) if arguments.epochs else []
            if arguments.train_examples:
                short.append(f"--config.data.train_examples={arguments.train_examples}")
            changes = [*short, *given, f"--config.seed={seed}"]
            code = run(recipe, changes, arguments.workdir, arguments.output, arguments.again)
            if code > 128:  # stopped by a signal, and saved
                return code
            failed = failed or code
    found = runs.read(arguments.output)
    print(accuracy.trained(found) + accuracy.changed(found))
    return failed


if __name__ == "__main__":
    sys.exit(command_line.run(main))
