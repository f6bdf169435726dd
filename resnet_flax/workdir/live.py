"""The state of a run for those who watch it train: progress.json, and whatever else its workdir says."""

import contextlib
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

from resnet_flax.files import atomic_write, read_json
from resnet_flax.workdir.folder import is_locked
from resnet_flax.workdir.history import EpochRow, read_rows

PROGRESS_FIELDS = ("epoch", "step", "steps", "loss", "accuracy", "learning_rate", "images_per_second", "seconds_left")
CLOCK = "time"  # seconds since 1970 when progress.json was written
RUN_STATES = ("training", "stopped", "failed", "finished", "not begun")  # in the order of a list of runs


def write_progress(workdir: Path, progress: dict[str, float]) -> None:
    """Write how far a run is (PROGRESS_FIELDS) into progress.json. Failures are ignored."""
    with contextlib.suppress(OSError), atomic_write(workdir / "progress.json") as file:
        json.dump(progress | {CLOCK: time.time()}, file)


def remove_progress(workdir: Path) -> None:
    """Remove what write_progress has written, when a run begins or ends. Failures are ignored."""
    with contextlib.suppress(OSError):
        (workdir / "progress.json").unlink()


@dataclass(frozen=True)
class Live:
    """The state of a run, one of RUN_STATES, the rows of its epochs, and how far it is within the next one.

    `progress` has PROGRESS_FIELDS and CLOCK, or is {} if the run is not training or has none to show yet. `failure`
    says what is not finite in a failed run, and where. `mixes` says whether its training accuracy is of mixed images.
    """

    state: str
    epochs: int
    history: list[EpochRow] = field(default_factory=list)
    progress: dict[str, float] = field(default_factory=dict)
    failure: str = ""
    mixes: bool = False


def read_live(workdir: Path) -> Live:
    """Return the state of the run in `workdir`. Nothing there is changed, and damaged files count as missing."""
    config = read_object(workdir / "config.json")
    train = config.get("train")
    train = train if isinstance(train, dict) else {}
    epochs = train.get("epochs")
    if not isinstance(epochs, int):
        return Live("not begun", 0)
    history = read_rows(workdir / "metrics.csv")
    training = is_locked(workdir)
    progress = read_progress(workdir) if training else {}
    failure = "" if training else read_failure(workdir)
    finished = bool(read_object(workdir / "report" / "results.json"))
    state = "finished" if finished else "training" if training else "failed" if failure else "stopped"
    mixes = any(train.get(field) for field in ("mixup", "cutmix", "ricap"))
    return Live(state, epochs, history, progress, failure, mixes)


def read_progress(workdir: Path) -> dict[str, float]:
    """Return PROGRESS_FIELDS and CLOCK of progress.json, {} unless all are numbers."""
    found = read_object(workdir / "progress.json")
    values = {name: found.get(name, math.nan) for name in (*PROGRESS_FIELDS, CLOCK)}
    valid = all(type(value) in (int, float) and 0 <= value < math.inf for value in values.values())
    return values if valid else {}


def read_failure(workdir: Path) -> str:
    """Return what was not finite when the run was last trained, see training.finite; "" if nothing was."""
    found = read_object(workdir / "nonfinite.json")
    step, what = found.get("step"), found.get("what")
    if not isinstance(step, int) or not isinstance(what, str):
        return ""
    return f"{what} is not finite at step {step}, epoch {found.get('epoch')}"


def remove_failure(workdir: Path) -> None:
    """Remove nonfinite.json. Failures are ignored."""
    with contextlib.suppress(OSError):
        (workdir / "nonfinite.json").unlink()


def read_object(path: Path) -> dict:
    """Return the object in a JSON file, {} if there is none."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
