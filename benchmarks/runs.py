"""Record runs, finished or in progress, as results of the project: python -m benchmarks.runs WORKDIR...

Each run becomes a folder benchmarks/results/runs/NAME with its config.json, metrics.csv and, once it is finished,
results.json. The documents take every accuracy from these folders. NAME is the recipe, its variant and the seed, such
as preact-fast-seed0, and the accelerator if it was trained on one. A run whose config is not that of any recipe is
named after the nearest one, with "changed" and a digest of what differs.

The recipes for speed are meant for comparison with published records, which are measured with test-time augmentation.
A finished run of theirs is therefore evaluated once more, with the views of the records: tta_accuracy in results.json.

Runs of older versions do not say from which commit they are: the environment variable COMMIT names it.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ml_collections import FrozenConfigDict

from benchmarks import command_line, recipes, speed
from benchmarks.record import RESULTS, is_cpu
from resnet_flax.config.checks import complete
from resnet_flax.config.defaults import changed
from resnet_flax.config.identify import nearest_of, training_fields
from resnet_flax.config.stored import config_to_json, read_config
from resnet_flax.data.datasets.load import load_split
from resnet_flax.errors import UserError
from resnet_flax.files import atomic_write, read_json
from resnet_flax.training.classifier import Classifier, batch_size
from resnet_flax.training.restore import read_history, restore_checkpoint
from resnet_flax.workdir.history import EpochRow, write_history
from resnet_flax.workdir.results import check_results, read_results

RUNS = "runs"  # the folder of all runs within the results


class Recorded(NamedTuple):
    """A run in the results: its folder, its recipe, such as "preact:fast", and its changes to that recipe."""

    path: Path
    recipe: str
    changes: tuple[str, ...]  # --config.FIELD=VALUE
    config: FrozenConfigDict
    history: list[EpochRow]
    results: dict  # {} for a run in progress

    @property
    def images(self) -> int:
        """The number of images that it has trained on, counted again in each epoch."""
        return int(self.history[-1]["step"]) * self.config.train.batch_size

    @property
    def device(self) -> str:
        """The name of the device; the first versions did not record that of a CPU."""
        device = self.results["device"]
        return "an unnamed CPU" if device == "1 x cpu" else device

    def command(self) -> str:
        """Return the command that repeats the run."""
        seed = [f"--config.seed={self.config.seed}"] if self.config.seed else []
        words = [f"--config=configs/{self.recipe.replace(':', '.py:')}", *self.changes, *seed]
        return shlex.join(["python", "-m", "resnet_flax.main", *words])


@cache
def trainings() -> dict[str, dict]:
    """Return the training_fields of each recipe."""
    return {recipe: training_fields(recipes.config(recipe)) for recipe in recipes.variants()}


def identify(config: FrozenConfigDict) -> tuple[str, tuple[str, ...]]:
    """Return the recipe of a complete config, or the nearest one, and its changes to that as --config.FIELD=VALUE."""
    return nearest_of(config, trainings())


def name_of(config: FrozenConfigDict, device: str = "") -> str:
    """Return the name of the run of a complete config, including `device` if that is an accelerator."""
    recipe, changes = identify(config)
    digest = hashlib.sha256("\n".join(changes).encode()).hexdigest()[:6]
    accelerator = "" if is_cpu(device) else re.sub(r"\W+", "-", device.removeprefix("1 x ").lower())
    parts = [recipe, f"changed-{digest}" if changes else "", f"seed{config.seed}", accelerator]
    return re.sub("[:,]", "-", "-".join(filter(None, parts)))


def record(workdir: Path, results: Path = RESULTS) -> Path:
    """Write what exists of the run in `workdir` to its folder in `results` and return that folder.

    Raises UserError if no epoch is finished, and for a run in progress that would replace a finished one.
    """
    config = complete(read_config(workdir))
    outcome, history = read_results(workdir), read_history(config, workdir)
    if outcome:
        outcome = completed(outcome, config, workdir, history)
        if config.model.name in speed.TARGETS.values() and "test_accuracy" in outcome:
            outcome["tta_accuracy"] = tta_accuracy(config, workdir)
    in_progress = results / RUNS / name_of(config)
    path = results / RUNS / name_of(config, outcome.get("device", ""))
    if not outcome and (path / "results.json").exists():
        raise UserError(f"{workdir} is in progress, and {path} is a finished run of the same config, which is kept")
    if not (in_progress / "results.json").exists():
        shutil.rmtree(in_progress, ignore_errors=True)
    path.mkdir(parents=True, exist_ok=True)
    with atomic_write(path / "config.json") as file:
        file.write(config_to_json(changed(config, {"data.dir": ""})))
    counts = [{"epoch": int(row["epoch"]), "step": int(row["step"])} for row in history]
    write_history([row | count for row, count in zip(history, counts, strict=True)], path / "metrics.csv")
    if outcome:
        with atomic_write(path / "results.json") as file:
            file.write(json.dumps(outcome, indent=2) + "\n")
    return path


def tta_accuracy(config: FrozenConfigDict, workdir: Path) -> float:
    """Return the test accuracy of a run's network with the views of the published records."""
    _, test = load_split(config.data, config.data.test)
    state = restore_checkpoint(config, workdir).tree["state"]
    classifier = Classifier(config, batch_size(len(test)))
    return speed.evaluate(classifier, state.variables, test)[1].accuracy


def completed(outcome: dict, config: FrozenConfigDict, workdir: Path, history: list[EpochRow]) -> dict:
    """Return results with what older versions did not write; the seconds follow from the speed of the run.

    The commit is the one that the environment names, if any.
    """
    finished = datetime.fromtimestamp((workdir / "report" / "results.json").stat().st_mtime, UTC)
    older = {"seed": config.seed, "date": finished.isoformat(timespec="seconds"), "code": "unknown"}
    if outcome.get("images_per_second"):
        images = history[-1]["step"] * config.train.batch_size
        older["training_seconds"] = round(images / outcome["images_per_second"])
    if "train_examples" not in outcome:
        older["train_examples"] = len(load_split(config.data, "train")[1])
    return older | outcome | ({"code": os.environ["COMMIT"]} if "COMMIT" in os.environ else {})


def read(results: Path = RESULTS) -> list[Recorded]:
    """Return all runs that are recorded in `results`, in the order of their names."""
    return [read_one(path.parent) for path in sorted((results / RUNS).glob("*/config.json"))]


def read_one(path: Path) -> Recorded:
    """Return the run that is recorded in a folder."""
    config = complete(read_config(path))  # older runs lack newer fields
    outcome = path / "results.json"
    results = check_results(read_json(outcome)) if outcome.exists() else {}
    return Recorded(path, *identify(config), config, read_history(config, path), results)


def main() -> int:
    parser = command_line.parser(__doc__)
    parser.add_argument("workdirs", type=Path, nargs="+", metavar="WORKDIR")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the folder of all results")
    arguments = parser.parse_args()
    for workdir in arguments.workdirs:
        print(record(workdir, arguments.output))
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(main))
