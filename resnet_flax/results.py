"""What a run has come to, as its workdir keeps it: metrics.csv, report/results.json and report/predictions.npz."""

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import FrozenConfigDict

from resnet_flax import predictions
from resnet_flax.checkpoint import check_history
from resnet_flax.classifier import Classifier, restore
from resnet_flax.data import sources
from resnet_flax.errors import UserError, reason
from resnet_flax.files import read_json, read_text
from resnet_flax.predictions import Predictions
from resnet_flax.text import say
from resnet_flax.workdir import replacing

Rows = list[dict[str, float]]


def read_history(config: FrozenConfigDict, workdir: Path) -> Rows:
    """The rows of a workdir's metrics.csv, at least one; a column without validation is left out.

    Where that file is damaged, those of the newest checkpoint, which has them too.
    """
    path = workdir / "metrics.csv"
    if not path.exists():
        raise UserError(f"{workdir} holds no run: there is no {path.name} in it")
    try:
        rows = read_csv(path)
    except (ValueError, csv.Error) as error:
        say(f"{path} is damaged ({reason(error)}): its rows are taken from the newest checkpoint")
        rows = restore(config, workdir, "newest").history
    if not rows:
        raise UserError(f"{workdir} has no finished epoch to report on yet")
    return rows


def read_csv(path: Path) -> Rows:
    """The rows of a table of numbers without its empty cells; ValueError or csv.Error where it is damaged."""
    text = read_text(path)
    if not text.endswith("\n"):
        raise ValueError("its last line is not complete")
    names, *lines = csv.reader(text.splitlines())
    return check_history(
        [{name: float(cell) for name, cell in zip(names, line, strict=True) if cell} for line in lines]
    )


def read_results(workdir: Path) -> dict:
    """The results of a finished run, {} of one that is not or whose file is damaged."""
    path = workdir / "report" / "results.json"
    try:
        return check_results(read_json(path)) if path.exists() else {}
    except ValueError as error:
        say(f"{path} is damaged ({reason(error)}): training again from the last checkpoint writes it again")
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


def is_drawn(workdir: Path) -> bool:
    """Whether there is a report of the results that `workdir` holds."""
    drawn, results = (workdir / "report" / name for name in ("report.html", "results.json"))
    return drawn.exists() and drawn.stat().st_mtime_ns >= results.stat().st_mtime_ns


@dataclass(frozen=True)
class Answers:
    """What the network says about the split `text`, which is the config's "test" or "validation"."""

    found: Predictions
    role: str
    text: str
    step: int


def keep(results: dict, answers: Answers | None, workdir: Path) -> None:
    """Leave in `workdir` what the run has come to: results.json last, as that says that it is finished."""
    path = workdir / "report" / "results.json"
    path.parent.mkdir(exist_ok=True)
    if answers:
        keep_answers(answers, workdir)
    with replacing(path) as file:
        json.dump(results, file, indent=2)


def keep_answers(answers: Answers, workdir: Path) -> None:
    """Save `answers` as report/predictions.npz."""
    path = workdir / "report" / "predictions.npz"
    path.parent.mkdir(exist_ok=True)
    predictions.save(answers.found, path, role=answers.role, split=answers.text, step=answers.step)


def find_answers(config: FrozenConfigDict, workdir: Path, finished: bool) -> Answers | None:
    """The answers that a finished run has kept, or else those of its best checkpoint so far on validation, kept now.

    None where nothing is held out: the test split is not looked at before the end.
    """
    path = workdir / "report" / "predictions.npz"
    if finished and path.exists():
        found, about = predictions.load(path, len(config.data.classes))
        role, text, step = (about.get(name) for name in ("role", "split", "step"))
        if role not in ("test", "validation") or not isinstance(text, str) or not isinstance(step, int):
            raise predictions.damaged(path, "it does not say what it is about")
        return Answers(found, role, text, step)
    if not config.data.validation:
        return None
    checkpoint = restore(config, workdir)
    text, split = sources.load_split(config.data, "validation")
    found = Classifier(config).evaluate(checkpoint.tree["state"], split)
    answers = Answers(found, "validation", text, checkpoint.step)
    keep_answers(answers, workdir)
    return answers
