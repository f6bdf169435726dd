"""Restore what a run has saved: the state of a checkpoint, and the history of its epochs."""

import csv
from functools import partial
from pathlib import Path

import jax
import numpy as np
from ml_collections import FrozenConfigDict

from resnet_flax import models
from resnet_flax.data.datasets.load import image_shape
from resnet_flax.errors import UserError, nearest, reason
from resnet_flax.optim import optimizers, schedules
from resnet_flax.parallel.devices import PARALLEL
from resnet_flax.text import print_line
from resnet_flax.training.step import Totals, init_state
from resnet_flax.workdir.checkpoints import Checkpoint, Checkpoints
from resnet_flax.workdir.history import EpochRow, best_row, read_csv


def checkpoint_template(config: FrozenConfigDict) -> dict:
    """What a checkpoint of `config` holds before the first step, with zeros for weights. Needs no data."""
    model = models.build(config)
    image, averaged = image_shape(config.data), config.train.ema_decay > 0
    shapes = jax.eval_shape(partial(init_state, model, optimizer_template(config), config.seed, image, averaged))
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return PARALLEL[config.parallel]().replicate({"state": state, "totals": Totals.zero()})


def optimizer_template(config: FrozenConfigDict):
    """The optimiser of `config` as far as the shape of its state goes: with a learning rate that never changes."""
    steady = schedules.constant(0.0, config.schedule, schedules.Span(1, 1, "step"))
    return optimizers.build(config.optimizer, steady, steady)


def restore_checkpoint(config: FrozenConfigDict, workdir: Path, which: str = "best") -> Checkpoint:
    """The checkpoint of `workdir` that `which` names: "best" on validation so far, "newest", or a step.

    Best is the newest where nothing is held out. Nothing in the workdir changes, so that it may be in training.
    Raises UserError where there is no such checkpoint, or none that is sound.
    """
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        raise UserError(f"{workdir} holds no checkpoints")
    tree = checkpoint_template(config)
    while True:
        with Checkpoints(folder) as checkpoints:
            steps = checkpoints.steps()
            if which not in ("best", "newest", *map(str, steps)):
                raise UserError(f"unknown checkpoint {which!r}: {nearest(which, ['best', 'newest', *map(str, steps)])}")
            try:
                checkpoint = first_sound_checkpoint(checkpoints, [int(which)] if which.isdigit() else steps, tree)
                best = best_row(checkpoint.history, config.train.monitor)
                if which == "best" and best and best["step"] != checkpoint.step:
                    checkpoint = first_sound_checkpoint(checkpoints, [int(best["step"])], tree)
                return checkpoint
            except FileNotFoundError:  # the run has gone on meanwhile
                continue


def first_sound_checkpoint(checkpoints: Checkpoints, steps: list[int], tree: dict) -> Checkpoint:
    """The first sound one of the checkpoints of `steps`; FileNotFoundError where one is deleted before it is read."""
    for step in steps:
        try:
            return checkpoints.restore(step, tree)
        except Exception as error:  # Orbax and TensorStore raise many kinds
            if not (checkpoints.folder / str(step)).exists():
                raise FileNotFoundError from error
            print_line(f"checkpoint {step} cannot be read: {reason(error)}")
    raise UserError(f"none of the checkpoints {steps} in {checkpoints.folder} is sound")


def read_history(config: FrozenConfigDict, workdir: Path) -> list[EpochRow]:
    """The rows of a workdir's metrics.csv, at least one; a column without validation is left out.

    Where that file is damaged, those of the newest checkpoint, which has them too.
    """
    path = workdir / "metrics.csv"
    if not path.exists():
        raise UserError(f"{workdir} holds no run: there is no {path.name} in it")
    try:
        rows = read_csv(path)
    except (ValueError, csv.Error) as error:
        print_line(f"{path} is damaged ({reason(error)}): its rows are taken from the newest checkpoint")
        rows = restore_checkpoint(config, workdir, "newest").history
    if not rows:
        raise UserError(f"{workdir} has no finished epoch to report on yet")
    return rows
