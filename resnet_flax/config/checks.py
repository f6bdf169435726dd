"""The default config with every field, and the checks that run before anything is compiled.

A recipe in `configs/` starts from `get_config()` and sets what its report says. Every field is typed by its default;
0 or "" means "off" where a comment says so, and None in `model` means "as the network named has it".
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from resnet_flax.config.defaults import field_types, flatten, get_config
from resnet_flax.data.augment.policy import Policy
from resnet_flax.data.augment.statistics import channel_statistics
from resnet_flax.data.datasets.load import fill_from_dataset, load_dataset
from resnet_flax.data.datasets.sources import SOURCES
from resnet_flax.errors import UserError, lookup, nearest
from resnet_flax.models import NETWORKS, architecture
from resnet_flax.models.blocks import BLOCKS
from resnet_flax.models.resnet import ACTIVATIONS, KERNEL_INITS
from resnet_flax.optim.optimizers import OPTIMIZERS
from resnet_flax.optim.schedules import SCHEDULES
from resnet_flax.text import escape_line, short_repr

MAX_ERRORS_LISTED = 20  # that one message tells


# What the values of a type are called.
TYPES = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", tuple: "a tuple"}


MAX_INT32 = 2**31 - 1  # integer: steps and seeds are int32


def positive_integers(values: tuple) -> bool:
    return all(type(value) is int and 0 < value <= MAX_INT32 for value in values)


def is_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


# Field -> what it must be, as a test and in words. Numbers are tested as the float32 that they become.
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": (lambda v: v >= 0, "an integer from 0 to 2**31 - 1"),
    "data.dir": (is_path, "a path"),
    "data.train": (lambda v: v.strip() != "", "a split, such as train or train[:90%]"),
    "data.classes": (
        lambda v: all(isinstance(name, str) and name for name in v) and len(set(v)) == len(v) > 1,
        "two or more names, all different",
    ),
    "data.image_size": (lambda v: 8 <= v <= 1024, "from 8 to 1,024 pixels"),
    "data.train_examples": (lambda v: v >= 0, "0 (all) or positive"),
    "model.blocks": (
        lambda v: positive_integers(v) and 1 <= len(v) <= 8 and max(v) <= 200,
        "positive integers, at most 200 for each of at most 8 stages",
    ),
    "model.widths": (
        lambda v: positive_integers(v) and 1 <= len(v) <= 8 and max(v) <= 8192,
        "positive integers, at most 8,192 for each of at most 8 stages",
    ),
    "model.stem_dropout": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "model.block_dropout": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "model.max_params": (lambda v: v >= 0, "0 (no limit) or positive"),
    "optimizer.learning_rate": (lambda v: v > 0, "positive"),
    "optimizer.bias_lr_factor": (lambda v: v > 0, "positive"),
    "optimizer.weight_decay": (lambda v: v >= 0, "0 or positive"),
    "optimizer.clip_norm": (lambda v: v >= 0, "0 (off) or positive"),
    "optimizer.momentum": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "optimizer.dampening": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "optimizer.b1": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "optimizer.b2": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "optimizer.eps": (lambda v: v > 0, "positive"),
    "schedule.milestones": (
        lambda v: positive_integers(v) and list(v) == sorted(set(v)),
        "whole epochs in ascending order",
    ),
    "schedule.factor": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
    "schedule.every": (lambda v: v > 0, "a positive number of epochs"),
    "schedule.end_factor": (lambda v: 0 <= v <= 1, "from 0 to 1"),
    "schedule.warmup": (lambda v: v > 0, "a positive number of epochs"),
    "schedule.warmup_offset": (lambda v: v >= 0, "0 or positive"),
    "schedule.decay": (lambda v: v >= 0, "0 (to the end of training) or positive"),
    "schedule.rise": (lambda v: 0 < v < 1, "between 0 and 1"),
    "schedule.start_divisor": (lambda v: v > 0, "positive"),
    "schedule.end_divisor": (lambda v: v > 0, "positive"),
    "schedule.min_momentum": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "schedule.max_momentum": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "train.epochs": (lambda v: v > 0, "positive"),
    "train.batch_size": (lambda v: v > 0, "positive"),
    "train.label_smoothing": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "train.ema_decay": (lambda v: 0 <= v < 1, "0 (off), or above 0 and below 1"),
    "train.checkpoint_every": (lambda v: v > 0, "a positive number of epochs"),
    "train.patience": (lambda v: v >= 0, "0 (off) or a positive number of epochs"),
    "train.min_delta": (lambda v: v >= 0, "0 or positive"),
}


# Field -> what it may name, and what that thing is called.
NAMES: dict[str, tuple[str, dict]] = {
    "parallel": ("way to run in parallel", {"jit": 1, "pmap": 1}),
    "data.feed": ("feed", {"auto": 1, "tfdata": 1, "device": 1}),
    "data.name": ("dataset", SOURCES),
    "model.name": ("model", NETWORKS),
    "model.stem": ("stem", {"conv": 1, "whitening": 1}),
    "model.block": ("block", BLOCKS),
    "model.activation": ("activation", ACTIVATIONS),
    "model.kernel_init": ("initialisation", KERNEL_INITS),
    "model.compute_dtype": ("compute dtype", {"auto": 1, "float32": 1, "bfloat16": 1}),
    "optimizer.name": ("optimizer", OPTIMIZERS),
    "schedule.name": ("schedule", SCHEDULES),
    "schedule.per": ("unit of the schedule", {"epoch": 1, "step": 1}),
    "schedule.anneal": ("annealing", {"cosine": 1, "linear": 1}),
    "train.monitor": ("quantity to monitor", {"val_accuracy": 1, "val_loss": 1}),
}


def complete(config: ConfigDict) -> FrozenConfigDict:
    """`config` checked, with the architecture of its network filled in and nothing left to change.

    Raises UserError with a line for each mistake: in the fields there are and their types, then in the value of each,
    then in how they fit together.
    """
    config = config.copy_and_resolve_references()
    values = flatten(config.to_dict())
    raise_errors(type_errors(values))
    raise_errors(f"config.{field} is missing" for field in field_types() if field not in values)
    if config.model.name in NETWORKS:
        for field, value in architecture(config.model.name).items():
            if config.model[field] is None:
                config.model[field] = value
    raise_errors(value_errors(config))
    fill_from_dataset(config.data)
    raise_errors(conflicts(config))
    return FrozenConfigDict(config)


def resolve_normalization(config: FrozenConfigDict) -> FrozenConfigDict:
    """A complete `config` with the numbers in it that normalize(auto) stands for, out of its training examples.

    What a run stores is settled, so that its network can be used where its data is not.
    """
    policy = Policy(config.data.policy)
    if policy.normalization:
        return config
    settled = ConfigDict(config)
    settled.data.policy = policy.normalized_by(*channel_statistics(load_dataset(config.data).train.images))
    return FrozenConfigDict(settled)


def raise_errors(lines: Iterable[str]) -> None:
    """Raise UserError if there are any."""
    told = list(lines)
    if len(told) > MAX_ERRORS_LISTED:
        told = [*told[:MAX_ERRORS_LISTED], f"and {len(told) - MAX_ERRORS_LISTED} more"]
    if told:
        raise UserError("\n".join(told))


def type_errors(values: dict[str, Any]) -> Iterator[str]:
    """A line for each field of a flat config that there is not, or whose value is of another type than the default."""
    types = field_types()
    for field, value in values.items():
        if field not in types:
            yield unknown_field(field)
            continue
        kind, optional = types[field]
        fits = isinstance(value, (kind, int) if kind is float else kind) and isinstance(value, bool) == (kind is bool)
        if not fits and not (optional and value is None):
            yield f"config.{field} must be {TYPES[kind]}, not {short_repr(value)}"


def unknown_field(field: str) -> str:
    """What is said of a field that there is not: the closest that there is, those of its section, or the sections."""
    sections: dict[str, list[str]] = {}
    for name in field_types():
        sections.setdefault(name.partition(".")[0], []).append(name)
    near = sections.get(field.partition(".")[0], sections)
    return f"unknown field config.{escape_line(field, 80)}: {nearest(field, field_types(), near)}"


def value_errors(config: ConfigDict) -> Iterator[str]:
    """A line for each value of a `config` with the right fields that is not allowed, whatever the others are."""
    values = {field: value for field, value in flatten(config.to_dict()).items() if value is not None}
    for field, value in values.items():
        if field in NAMES:
            try:
                lookup(NAMES[field][0], value, NAMES[field][1])
            except UserError as mistake:
                yield f"config.{field}: {mistake}"
        if field in RULES:
            allowed, words = RULES[field]
            number = in_float32(value) if isinstance(value, float) else value
            fits = abs(number) <= MAX_INT32 if isinstance(number, int) else True
            fits = math.isfinite(number) if isinstance(number, float) else fits
            if not fits or not allowed(number):
                yield f"config.{field} must be {words}, not {short_repr(value)}"
    try:
        Policy(config.data.policy)
    except UserError as mistake:
        yield f"config.data.policy: {mistake}"


def in_float32(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def conflicts(config: ConfigDict) -> Iterator[str]:
    """A line for each pair of values, right by themselves, that cannot be had together."""
    model, optimizer, schedule, train = config.model, config.optimizer, config.schedule, config.train
    known = getattr(SOURCES[config.data.name], "classes", None)
    if known and len(config.data.classes) != len(known):
        yield f"config.data.classes must be {len(known)} names, one for each class of {config.data.name}"
    if len(model.blocks) != len(model.widths):
        yield (
            f"config.model.blocks {tuple(model.blocks)} and config.model.widths {tuple(model.widths)} "
            "must be of one length, one entry a stage"
        )
    if model.final_norm and model.block != "preact":
        yield f"config.model.final_norm is for preact blocks, and config.model.block is {model.block}"
    like_sgd = optimizer.name in ("sgd", "muon")
    without_momentum = optimizer.name == "adagrad" or (like_sgd and optimizer.momentum == 0)
    if optimizer.nesterov and (not like_sgd or without_momentum or optimizer.dampening):
        yield "config.optimizer.nesterov needs sgd or muon with a momentum and no dampening, as in PyTorch"
    if schedule.name == "multistep" and not (schedule.milestones and schedule.milestones[-1] < train.epochs):
        yield (
            f"config.schedule.milestones must be epochs between 0 and config.train.epochs {train.epochs}, "
            f"not {short_repr(tuple(schedule.milestones))}"
        )
    if schedule.name == "warmup_cosine" and schedule.warmup > train.epochs:
        yield f"config.schedule.warmup {schedule.warmup} is longer than config.train.epochs {train.epochs}"
    if schedule.name == "onecycle":
        if schedule.per == "epoch" and not 1 < schedule.rise * train.epochs < train.epochs:
            yield (
                f"config.schedule.rise {schedule.rise} of config.train.epochs {train.epochs} is no whole epoch: "
                f"take at least {int(1 / schedule.rise) + 1} epochs, or config.schedule.per=step"
            )
        if schedule.three_phase and schedule.rise > 0.5:
            yield f"config.schedule.three_phase needs config.schedule.rise to be at most 0.5, not {schedule.rise}"
        if schedule.cycle_momentum and without_momentum:
            yield "config.schedule.cycle_momentum cycles a momentum, and the optimizer has none: set it to False"
        if schedule.cycle_momentum and schedule.min_momentum > schedule.max_momentum:
            yield (
                f"config.schedule.min_momentum {schedule.min_momentum} is more than "
                f"config.schedule.max_momentum {schedule.max_momentum}"
            )
    if not config.data.validation:
        if train.patience:
            yield "config.train.patience needs a validation split, and config.data.validation is empty"
        if train.monitor != get_config().train.monitor:
            yield f"config.train.monitor {train.monitor} needs a validation split, and config.data.validation is empty"
