"""What a run has come to, as its workdir keeps it: metrics.csv, report/results.json and report/predictions.npz."""

import json
import math
from pathlib import Path
from typing import Any

from resnet_flax.errors import reason
from resnet_flax.files import atomic_write, read_json
from resnet_flax.text import print_line
from resnet_flax.workdir.predictions import SplitPredictions, write_split_predictions


def read_results(workdir: Path) -> dict:
    """The results of a finished run, {} of one that is not or whose file is damaged."""
    path = workdir / "report" / "results.json"
    try:
        return check_results(read_json(path)) if path.exists() else {}
    except ValueError as error:
        print_line(f"{path} is damaged ({reason(error)}): training again from the last checkpoint writes it again")
        return {}


def check_results(results: Any) -> dict:
    """`results` if they are those of a run; ValueError where they are not."""
    if not isinstance(results, dict):
        raise ValueError("it has no fields")
    limits = {"chosen_epoch": 2**31, "test_accuracy": 1, "test_loss": math.inf, "test_examples": 2**31}
    tested = ("test_accuracy" in results) + ("test_loss" in results) + ("test_examples" in results)
    if "chosen_epoch" not in results or tested not in (0, 3) or results.get("test_examples") == 0:
        raise ValueError("it lacks fields")
    for name, limit in limits.items():
        value = results.get(name, 0)
        if type(value) not in (int, float) or not (0 <= value <= limit or math.isnan(value)):
            raise ValueError(f"its {name} is {value!r}")
    return results


def write_results(results: dict, answers: SplitPredictions | None, workdir: Path) -> None:
    """Leave in `workdir` what the run has come to: results.json last, as that says that it is finished."""
    path = workdir / "report" / "results.json"
    path.parent.mkdir(exist_ok=True)
    if answers:
        write_split_predictions(answers, workdir)
    with atomic_write(path) as file:
        json.dump(results, file, indent=2)
