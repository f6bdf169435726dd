"""The outcome of a finished run: report/results.json and report/predictions.npz."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from resnet_flax.errors import reason
from resnet_flax.files import atomic_write, read_json
from resnet_flax.text import print_line
from resnet_flax.workdir.predictions import SplitPredictions, write_split_predictions


def read_results(workdir: Path) -> dict:
    """Return the results of a finished run, {} if it is not finished or the file is damaged."""
    path = workdir / "report" / "results.json"
    try:
        return check_results(read_json(path)) if path.exists() else {}
    except ValueError as error:
        print_line(f"{path} is damaged ({reason(error)}): the training command recreates it from the last checkpoint")
        return {}


def check_results(results: Any) -> dict:
    """Return `results` if they are valid results of a run; ValueError if not."""
    if not isinstance(results, dict):
        raise ValueError("it is not a JSON object")
    limits = {"chosen_epoch": 2**31, "test_accuracy": 1, "test_loss": math.inf, "test_examples": 2**31}
    tested = ("test_accuracy" in results) + ("test_loss" in results) + ("test_examples" in results)
    if "chosen_epoch" not in results or tested not in (0, 3) or results.get("test_examples") == 0:
        raise ValueError("fields are missing")
    for name, limit in limits.items():
        value = results.get(name, 0)
        if type(value) not in (int, float) or not 0 <= value <= limit:
            raise ValueError(f"{name} is {value!r}")
    init = results.get("init", {"weights": "", "sha256": ""})
    if not (isinstance(init, dict) and all(isinstance(init.get(name), str) for name in ("weights", "sha256"))):
        raise ValueError(f"init is {init!r}")
    return results


def write_results(results: dict, evaluated: SplitPredictions | None, workdir: Path) -> None:
    """Write the outcome of a run into `workdir`: results.json last, since it marks the run as finished."""
    path = workdir / "report" / "results.json"
    path.parent.mkdir(exist_ok=True)
    if evaluated:
        write_split_predictions(evaluated, workdir)
    with atomic_write(path) as file:
        json.dump(results, file, indent=2)


def remove_results(workdir: Path) -> None:
    """Remove results.json, so that the run counts as unfinished."""
    (workdir / "report" / "results.json").unlink(missing_ok=True)


def results_digest(workdir: Path) -> str:
    """Return the SHA-256 of results.json, "" for an unfinished run."""
    path = workdir / "report" / "results.json"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
