"""Train a recipe and changes of it with the same seeds, and compare: python -m benchmarks.ablation --base=preact:fast
    --change="--config.train.label_smoothing=0" --change="--config.train.mixup=0.2 --config.train.epochs=20"

Each --change is one row, of one or more --config.FIELD=VALUE; anything outside a --change applies to all rows. The
recipe itself and then every change run with seed 0, then all with seed 1, and so on up to --seeds, so that a slow
hour of the machine affects all alike.

The test split is not used. Runs are compared by their accuracy after the last epoch on a part of the training images
that they do not train on: the validation split of the recipe, or the last tenth of the training images if it has none.
No epoch is chosen, so nothing is selected on that part within a run.

The same command resumes: a run that was stopped continues in its folder below --workdir, and a finished one is not
repeated. Each finished run is a line of ablation.jsonl in the folder --output, and so is one whose loss or gradients
became NaN or infinite, which has no accuracy. The table at the end shows for each change the mean difference from the
recipe with the same seed, Student's 95 % interval of that difference, and the training time of the fastest run, unless
the machine had more processes to run than cores when a run began.
"""

import hashlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import command_line, recipes, record
from benchmarks.tables import difference, minutes, spread, table
from resnet_flax.config.checks import complete
from resnet_flax.config.stored import read_config
from resnet_flax.errors import NotFinite, UserError
from resnet_flax.main import main as train
from resnet_flax.training.restore import read_history
from resnet_flax.workdir.live import read_object
from resnet_flax.workdir.results import read_results

NAME = "ablation"
HELD_OUT = ("--config.data.train=train[:90%]", "--config.data.validation=train[90%:]")
HEADER = ("change", "accuracy, %", "difference", "95 % interval", "seeds", "training time", "cost")


def changes_of(base: str, change: str, shared: Sequence[str]) -> list[str]:
    """Return all --config.FIELD=VALUE of a row, which holds out training images; UserError for a mistake."""
    words = [*shared, *shlex.split(change)]
    if strange := [word for word in words if not word.startswith("--config.")]:
        raise UserError(f"a change is --config.FIELD=VALUE, or several in quotes: what is {strange[0]!r}?")
    held_out = () if recipes.config(base).data.validation else HELD_OUT
    words = [*held_out, *words, "--config.data.test=", "--config.train.patience=0"]
    if not recipes.config(base, words).data.validation:
        raise UserError("config.data.validation is empty: there is nothing to compare the runs on")
    return words


def case_of(base: str, change: str, shared: Sequence[str], seed: int) -> dict:
    """Return what a line of the journal is about."""
    return {"base": base, "shared": " ".join(shared), "change": change, "seed": seed}


def run(case: dict, workdirs: Path) -> tuple[int, dict]:
    """Train the run of a case, or resume it; return an exit code and, if that is 0, what was found.

    That a run diverged is a result, too.
    """
    words = changes_of(case["base"], case["change"], shlex.split(case["shared"]))
    digest = hashlib.sha256(repr(case).encode()).hexdigest()[:8]
    workdir = workdirs / f"{case['base'].replace(':', '-').replace(',', '-')}-{digest}"
    flags = [f"--config={recipes.file(case['base'])}", recipes.CHECKPOINTS, *words, f"--config.seed={case['seed']}"]
    code = train([*flags, f"--workdir={workdir}"])
    if code == NotFinite.exit_code:
        return 0, {"diverged_in_epoch": read_object(workdir / "nonfinite.json")["epoch"]}
    return code, {} if code else outcome(workdir)


def outcome(workdir: Path) -> dict:
    """Return the accuracy of a finished run on the images held out, after its last epoch, and what it cost."""
    results, last = read_results(workdir), read_history(complete(read_config(workdir)), workdir)[-1]
    kept = {name: results[name] for name in ("training_seconds", "images_per_second", "parameters")}
    return {"accuracy": last["val_accuracy"], "loss": last["val_loss"], "epochs": int(last["epoch"])} | kept


def compared(lines: Sequence[dict], base: str, shared: Sequence[str], changes: Sequence[str]) -> str:
    """Return the table of `changes`, of which "" is the recipe itself, from the lines of the journal."""
    found = {
        (line["case"]["change"], line["case"]["seed"]): line["found"] | {"alone": was_alone(line["made"])}
        for line in lines
        if case_of(base, line["case"]["change"], shared, line["case"]["seed"]) == line["case"]
    }
    return table(HEADER, [row(change, base, found) for change in changes])


def was_alone(made: dict) -> bool:
    """Return whether the machine had a core for each process when a run began, so that its time means something."""
    return made["load"] <= made["cores"]


def tables(lines: Sequence[dict]) -> str:
    """Return a table for each recipe and whatever applies to all its rows, in the order of the journal."""
    groups: dict[tuple[str, str], list[str]] = {}
    for case in (line["case"] for line in lines):
        changes = groups.setdefault((case["base"], case["shared"]), [])
        changes += [case["change"]] if case["change"] not in changes else []
    return "\n".join(
        f"`{f'{base} {shared}'.rstrip()}`:\n\n{compared(lines, base, shlex.split(shared), changes)}"
        for (base, shared), changes in groups.items()
    )


def row(change: str, base: str, found: dict[tuple[str, int], dict]) -> list[str]:
    """Return the row of a change, over the seeds with which both it and the recipe have run."""
    finished = {key for key, one in found.items() if "diverged_in_epoch" not in one}
    seeds = sorted(seed for name, seed in finished if name == change and ("", seed) in finished)
    name = f"`{change}`".replace("|", r"\|") if change else f"none ({base})"
    runs = {key for key in found if key[0] == change}
    if diverged := [found[key]["diverged_in_epoch"] for key in runs - finished]:
        name += f": {len(diverged)} of {len(runs)} diverged, first in epoch {min(diverged)}"
    if not seeds:
        return [name, "", "", "", "0", "", ""]
    here, there = ([found[which, seed] for seed in seeds] for which in (change, ""))
    gaps = [100 * (a["accuracy"] - b["accuracy"]) for a, b in zip(here, there, strict=True)]
    seconds, base_seconds = (min(one["training_seconds"] for one in some) for some in (here, there))
    timed = base_seconds and all(one["alone"] for one in (*here, *there))
    return [
        name,
        spread([100 * one["accuracy"] for one in here]),
        *(difference(gaps) if change else ("", "")),
        str(len(seeds)),
        minutes(seconds) if timed else "",
        f"{seconds / base_seconds:.2f}x" if timed else "",
    ]


def main() -> int:
    parser = command_line.parser(__doc__)
    parser.add_argument("--base", required=True, help="the recipe, such as preact:fast")
    parser.add_argument("--change", action="append", default=[], help="one row: --config.FIELD=VALUE, or several")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds: 0, 1, ...")
    parser.add_argument("--output", type=Path, default=record.RESULTS, help="the folder of the log")
    parser.add_argument("--workdir", type=Path, default=Path("runs/ablation"))
    arguments, shared = command_line.read(parser)
    for change in ("", *arguments.change):
        changes_of(arguments.base, change, shared)  # a mistake is reported before anything is trained
    for seed in range(arguments.seeds):
        for change in ("", *arguments.change):
            case = case_of(arguments.base, change, shared, seed)
            journal = record.Journal(NAME, arguments.output)  # anew, for the date and load of this run
            if not journal.has(case):
                code, found = run(case, arguments.workdir)
                if code:
                    return code
                journal.add(case, found)
    print(compared(journal.lines_here(), arguments.base, shared, ("", *arguments.change)))
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(main))
