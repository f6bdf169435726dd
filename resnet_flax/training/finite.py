"""Stop a run before a NaN or an infinity is saved, and record the step at which it appeared."""

import json
import math
from pathlib import Path

import jax
import numpy as np

from resnet_flax.errors import NotFinite
from resnet_flax.files import atomic_write
from resnet_flax.parallel.processes import is_first_process, reported_by_first_process
from resnet_flax.training.run import Run
from resnet_flax.training.step import Totals, TrainState
from resnet_flax.workdir.history import EpochRow


def check_finite(run: Run, workdir: Path, totals: Totals, state: TrainState | None = None) -> None:
    """Raise NotFinite if a loss or gradient so far, or anything in `state`, is NaN or infinite."""
    step = int(totals.nonfinite_step)
    if step >= 0:
        raise not_finite(run, workdir, step, "the loss or a gradient")
    if state is not None and not all(np.isfinite(leaf).all() for leaf in jax.device_get(jax.tree.leaves(state))):
        raise not_finite(run, workdir, int(state.step) - 1, "the training state")


def check_row(run: Run, workdir: Path, row: EpochRow) -> None:
    """Raise NotFinite if a value in an epoch's row is NaN or infinite."""
    if bad := [name for name, value in row.items() if not math.isfinite(value)]:
        raise not_finite(run, workdir, int(row["step"]) - 1, bad[0])


def not_finite(run: Run, workdir: Path, step: int, what: str) -> NotFinite:
    """Return the error for a step (from 0) after which `what` is not finite; nonfinite.json has the details."""
    details = {"what": what, **step_details(run, step)}
    return reported_by_first_process(
        NotFinite(
            f"{what} is not finite at step {step}, epoch {details['epoch']}, learning rate "
            f"{details['learning_rate']:.3g}; earlier epochs are kept. A lower --config.optimizer.learning_rate or "
            f"a --config.optimizer.clip_norm may help{write_details(details, workdir / 'nonfinite.json')}"
        )
    )


def write_details(details: dict, path: Path) -> str:
    """Write `details` in the first process and return a sentence about them, or "" if, say, the disk is full."""
    try:
        if is_first_process():
            with atomic_write(path) as file:
                json.dump(details, file, indent=2)
    except OSError:
        return ""
    return f". The examples in its batch are listed in {path}"


def step_details(run: Run, step: int) -> dict:
    """Return the epoch (from 1), learning rate and momentum of a step (from 0), and the training examples in it."""
    epoch, position = divmod(step, run.stream.steps_per_epoch)
    batch = run.stream.order(np, epoch)[position] % len(run.data.train)
    return {
        "step": step,
        "epoch": epoch + 1,
        "learning_rate": float(run.learning_rate(step)),
        "momentum": float(run.momentum(step)),
        "training_examples": batch.tolist(),
    }
