"""Restore what a run has saved: the state of a checkpoint, and the history of its epochs."""

import csv
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax
from ml_collections import FrozenConfigDict

from resnet_flax import models
from resnet_flax.data.datasets.load import image_shape
from resnet_flax.errors import Damaged, UserError, nearest, reason
from resnet_flax.models.resnet import Variables
from resnet_flax.models.torch_weights import Tensors, from_torch
from resnet_flax.models.weight_files import read_weights
from resnet_flax.optim import optimizers
from resnet_flax.parallel.devices import PARALLEL
from resnet_flax.text import print_line
from resnet_flax.training.step import Totals, TrainState, init_state
from resnet_flax.workdir.checkpoints import Checkpoint, Checkpoints, steps_in
from resnet_flax.workdir.history import EpochRow, best_row, read_csv
from resnet_flax.workdir.trained import display_name

DELETION_SECONDS = 0.2  # longer than a training run takes to delete a checkpoint, after which the steps differ
RECOVERY_ADVICE = "restore a copy, or evaluate and predict with --checkpoint=newest"


def checkpoint_template(config: FrozenConfigDict) -> dict:
    """Return the content of a checkpoint of `config` before the first step, with zeros for weights. Needs no data."""
    model, optimizer = models.build(config), optimizers.build(config.optimizer)
    image, averaged = image_shape(config.data), config.train.ema_decay > 0
    shapes = jax.eval_shape(partial(init_state, model, optimizer, config.seed, image, averaged))
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return PARALLEL[config.parallel]().replicate({"state": state, "totals": Totals.zero()})


def restore_checkpoint(config: FrozenConfigDict, workdir: Path, which: str = "best") -> Checkpoint:
    """Return a checkpoint of `workdir`: the "best" on validation so far, the "newest", or that of a step such as "400".

    The best is the newest if nothing is held out. Nothing in the workdir, where a run may be training, is changed. If
    `workdir` is a file of weights, they are returned as the state before the first step. Raises UserError if there is
    no such checkpoint, or no intact one.
    """
    if workdir.is_file():
        return weights_checkpoint(config, workdir, which)
    folder = workdir / "checkpoints"
    like = checkpoint_template(config)
    steps: list[int] = []
    while True:
        before, steps = steps, steps_in(folder)
        if not steps:
            raise UserError(f"{workdir} holds no checkpoints")
        if which not in ("best", "newest", *map(str, steps)):
            raise UserError(f"unknown checkpoint {which!r}: {nearest(which, ['best', 'newest', *map(str, steps)])}")
        try:
            with Checkpoints(folder) as checkpoints:
                return find_checkpoint(checkpoints, steps, which, config.train.monitor, like)
        except (FileNotFoundError, Damaged) as problem:
            if steps == before:
                raise UserError(f"{problem}: {RECOVERY_ADVICE}") from None
            time.sleep(DELETION_SECONDS)


def weights_checkpoint(config: FrozenConfigDict, file: Path, which: str) -> Checkpoint:
    """Return the weights in a file as a checkpoint without an optimizer. Raises UserError if they do not fit."""
    if which not in ("best", "newest"):
        raise UserError(f"{display_name(file)} has no checkpoint {which!r}: it holds only weights")
    variables = fit_weights(config, read_weights(file), file)
    state = TrainState.start(variables["params"], variables["batch_stats"], optax.identity(), averaged=False)
    return Checkpoint(0, {"state": state})


def fit_weights(config: FrozenConfigDict, tensors: Tensors, file: Path) -> Variables:
    """Return the params and batch_stats of the network of `config` from the `tensors` of a file.

    Raises UserError if they are those of another network.
    """
    like = models.variable_shapes(models.build(config), image_shape(config.data))
    try:
        return from_torch(tensors, like)
    except UserError as misfit:
        raise UserError(f"{file} does not fit config.model {config.model.name!r}: {misfit}") from None


def find_checkpoint(checkpoints: Checkpoints, steps: list[int], which: str, monitor: str, like: dict) -> Checkpoint:
    """Return the checkpoint among `steps` that restore_checkpoint is asked for; raises what `restore` does."""
    if which.isdigit():
        return checkpoints.restore(int(which), like)
    checkpoint = newest_intact(checkpoints, steps, like)
    best = best_row(checkpoint.history, monitor)
    if which == "newest" or not best or best["step"] == checkpoint.step:
        return checkpoint
    name = f"checkpoint {best['step']:.0f}, the best by {monitor} (epoch {best['epoch']:.0f}),"
    return checkpoints.restore(int(best["step"]), like, name)


def newest_intact(checkpoints: Checkpoints, steps: list[int], like: dict) -> Checkpoint:
    """Return the first intact checkpoint of `steps`, and print which are damaged; UserError if all are."""
    for step in steps:
        try:
            return checkpoints.restore(step, like)
        except Damaged as damage:
            print_line(damage)
    raise UserError(f"no checkpoint in {checkpoints.folder} is intact")


def read_history(config: FrozenConfigDict, workdir: Path) -> list[EpochRow]:
    """Return what finished_epochs does; UserError if there are none."""
    rows = finished_epochs(config, workdir)
    if not rows:
        raise UserError(f"{workdir} has no finished epoch to report on yet")
    return rows


def finished_epochs(config: FrozenConfigDict, workdir: Path) -> list[EpochRow]:
    """Return the rows of a workdir's metrics.csv, without empty columns; [] before its first epoch is finished.

    If that file is damaged, return those of the newest checkpoint, which are the same.
    """
    path = workdir / "metrics.csv"
    if not path.exists():  # the run has not been trained since import-torch
        return []
    try:
        return read_csv(path)
    except (ValueError, csv.Error) as error:
        print_line(f"{path} is damaged ({reason(error)}): reading the newest checkpoint instead")
        return restore_checkpoint(config, workdir, "newest").history
