"""Train every recipe as its report did, and compare: python -m benchmarks.reproduce [--recipes=preact] [--seeds=3]

Each recipe keeps its epochs and batch size. `preact` trains on 40,000 images with early stopping and chooses the epoch
on the other 10,000, as its report did; all others train on all 50,000 images and take the last epoch. The test split is
evaluated once, at the end of a run. --config.FIELD=VALUE changes any field; --config.data.dir=FOLDER says where the
data are.

The same command resumes a stopped benchmark: each run has its own folder below --workdir, and finished runs are not
repeated. Writes a line for each run to reproduce.jsonl and a table to reproduce.md. Checkpoints are written every 10
epochs and when Ctrl-C or SIGTERM stops a run, so they cost little time.

--epochs and --train-examples make short runs, with the schedule scaled to fewer epochs. They show that everything works
but reproduce nothing, and the table says so.
"""

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ml_collections import FrozenConfigDict

from benchmarks import recipes, record
from resnet_flax.data.datasets.load import load_dataset
from resnet_flax.main import main as train
from resnet_flax.workdir.results import read_results

# The test accuracy that each report states, in percent.
REPORTED = {
    "resnet_443": "93.41",
    "resnet_2322": "93.31",
    "preact": "90.76",
    "resnet18_w42": "93.02",
    "resnet_large": "92.73",
    "resnet_353": "91.8, 93.93 in its log",
}
HELD_OUT = ("preact",)  # recipes whose report chose the epoch on a validation split
CHECKPOINTS = "--config.train.checkpoint_every=10"
SAME_RESULT = ("data.dir", "data.feed", "parallel", "train.checkpoint_every")  # fields that do not change the result
HEADER = ("recipe", "report, %", "test accuracy, %", "parameters", "training images", "epochs", "batch", "s per epoch")


def argument(recipe: str) -> str:
    return "" if recipe in HELD_OUT else "full"


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


def lasting(changes: Sequence[str]) -> list[str]:
    """Return the changes that the result depends on."""
    return [word for word in changes if word.removeprefix("--config.").partition("=")[0] not in SAME_RESULT]


def run(words: list[str], config: FrozenConfigDict, workdir: Path) -> tuple[int, dict]:
    """Train or resume a run; return (exit code, the results to log)."""
    fresh, started = not workdir.exists(), time.perf_counter()
    code = train([*words, f"--workdir={workdir}"])
    if code:
        return code, {}
    results = read_results(workdir)
    names = ("test_accuracy", "test_loss", "train_loss", "train_accuracy", "chosen_epoch", "epochs", "parameters")
    found = {name: results[name] for name in names}
    if results["images_per_second"]:
        examples = len(load_dataset(config.data).train) * (2 if config.data.concat_original else 1)
        found["seconds_per_epoch"] = round(examples / results["images_per_second"], 3)
    return 0, found | ({"seconds": round(time.perf_counter() - started, 1)} if fresh else {})


def table(lines: Sequence[dict]) -> str:
    """Return a Markdown table for each device: a row for each recipe, mean and standard deviation over the seeds."""
    parts = []
    for device in sorted({line["made"]["device"] for line in lines}):
        groups: dict[tuple, list[dict]] = {}
        for line in lines:
            if line["made"]["device"] == device:
                changes = tuple(line["case"]["changes"])
                key = bool(changes), recipes.RECIPES.index(line["case"]["recipe"]), changes
                groups.setdefault(key, []).append(line)
        head = [f"| {' | '.join(HEADER)} |", "|:--" * len(HEADER) + "|"]
        parts.append("\n".join([f"On {device}:", "", *head, *(row(groups[key]) for key in sorted(groups)), ""]))
    return "\n".join(parts)


def row(lines: Sequence[dict]) -> str:
    """Return the row of runs that differ only in their seed."""
    case, found = lines[0]["case"], [line["found"] for line in lines]
    changes = " ".join(case["changes"]).replace("--config.", "")
    accuracies = [100 * one["test_accuracy"] for one in found]
    spread = f" ± {statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
    paces = [one["seconds_per_epoch"] for one in found if "seconds_per_epoch" in one]
    trained = sorted({one["epochs"] for one in found})
    cells = [
        case["recipe"] + (f", not a reproduction: {changes}" if changes else ""),
        REPORTED[case["recipe"]],
        f"{statistics.mean(accuracies):.2f}{spread} (n = {len(lines)})",
        f"{found[0]['parameters']:,}",
        f"{case['train_examples']:,}",
        f"{trained[0]}" if len(trained) == 1 else f"{trained[0]} to {trained[-1]}",
        f"{case['batch']}",
        f"{statistics.median(paces):.2f}" if paces else "",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    parser = recipes.parser(__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds: 0, 1, ...")
    parser.add_argument("--epochs", type=int, default=0, help="train for fewer epochs")
    parser.add_argument("--train-examples", type=int, default=0, help="train on fewer images")
    parser.add_argument("--workdir", type=Path, default=Path("runs/reproduce"))
    arguments, given = recipes.read(parser)
    journal = record.Journal("reproduce", arguments.output, arguments.again)
    failed = 0
    for seed in range(arguments.seeds):
        for recipe in arguments.recipes:
            short = squeeze(recipe, arguments.epochs) if arguments.epochs else []
            if arguments.train_examples:
                short.append(f"--config.data.train_examples={arguments.train_examples}")
            changes = [*short, *given]
            config = recipes.config(recipe, changes, argument(recipe))
            case = {
                "recipe": recipe,
                "seed": seed,
                "batch": config.train.batch_size,
                "train_examples": len(load_dataset(config.data).train),
                "changes": lasting(changes),
            }
            if journal.has(case):
                continue
            file = f"{recipes.ROOT / 'configs' / recipe}.py:{argument(recipe)}"
            words = [f"--config={file}", CHECKPOINTS, *changes, f"--config.seed={seed}"]
            code, found = run(words, config, arguments.workdir / f"{recipe}-seed{seed}{'-short' if short else ''}")
            if code > 128:  # stopped by a signal, and saved
                return code
            failed = failed or code
            if found:
                journal.add(case, found)
                journal.path.with_suffix(".md").write_text(table(journal.lines()))
    print(table(journal.lines()))
    return failed


if __name__ == "__main__":
    sys.exit(recipes.run(main))
