"""The default config with every field, and the checks that run before anything is compiled.

A recipe in `configs/` starts from `get_config()` and sets what its report says. Every field is typed by its default;
0 or "" means "off" where a comment says so, and None in `model` means "as the network named has it".
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict
from ml_collections.config_dict import placeholder
from ml_collections.config_flags import config_path

from resnet_flax.data import sources
from resnet_flax.data.augment import Policy, channel_statistics
from resnet_flax.errors import Damaged, UserError, lookup, nearest, reason
from resnet_flax.files import read_json
from resnet_flax.models import NETWORKS, architecture
from resnet_flax.models.blocks import BLOCKS
from resnet_flax.models.resnet import ACTIVATIONS, KERNEL_INITS
from resnet_flax.optim.optimizers import OPTIMIZERS
from resnet_flax.optim.schedules import SCHEDULES
from resnet_flax.text import printable, shown

MOST_MISTAKES = 20  # that one message tells


def get_config() -> ConfigDict:
    """Every field with its default: a tiny network on the digits that scikit-learn carries."""
    return ConfigDict(
        dict(
            seed=0,
            parallel="jit",  # "jit" over a mesh of all devices, or "pmap"
            data=dict(
                name="digits",
                dir="",  # where it lies: of "folder" your images; "" is TFDS_DATA_DIR, or TFDS's own default
                # Splits in the syntax of TFDS. None is as fits what the dataset has: train[:90%], train[90%:] and test.
                train=placeholder(str),
                validation=placeholder(str),  # "" for none: then the last epoch is the result
                test=placeholder(str),  # "" for none: a run that only chooses, by validation, needs not look at it
                classes=placeholder(tuple),  # the names of its classes; None is as the dataset has them
                image_size=32,  # height and width; images in folders are resized to it
                train_examples=0,  # keep only so many of the training split; 0 keeps all
                feed="auto",  # "device" (what trains) if the images fit there, or else "tfdata" (the host)
                policy="crop(4)|flip|normalize(auto)",
                concat_original=False,  # an epoch is the augmented and the plain training split, shuffled together
            ),
            model=dict(
                name="tiny",
                stem=placeholder(str),
                block=placeholder(str),
                blocks=placeholder(tuple),
                widths=placeholder(tuple),
                activation=placeholder(str),
                stem_dropout=placeholder(float),
                block_dropout=placeholder(float),
                final_norm=placeholder(bool),
                kernel_init="torch",  # or "he_normal", "dirac"
                compute_dtype="auto",  # bfloat16 on GPU and TPU, float32 on CPU
                max_params=0,  # refuse a network with more; 0 is no limit
            ),
            optimizer=dict(
                name="sgd",
                learning_rate=0.1,
                bias_lr_factor=1.0,  # times the learning rate is that of biases, BatchNorm's too
                weight_decay=0.0,
                clip_norm=0.0,  # largest global norm of the gradient; 0 is no clipping
                momentum=0.9,  # sgd, muon
                nesterov=False,
                dampening=0.0,
                b1=0.9,  # adam, adamw
                b2=0.999,
                eps=1e-8,  # adam, adamw, adagrad
            ),
            schedule=dict(
                name="constant",
                per="epoch",  # stepped once per "epoch" or per "step"
                milestones=(),  # multistep: epochs
                factor=0.1,  # multistep, step_decay
                every=30,  # step_decay: epochs
                end_factor=0.0,  # cosine, warmup_cosine: last over peak learning rate
                warmup=5,  # warmup_cosine: epochs
                warmup_offset=1,
                decay=0,  # warmup_cosine: epochs of the cosine; 0 ends it with the training
                rise=0.3,  # onecycle: fraction of the steps before the peak
                anneal="cosine",  # or "linear"
                three_phase=False,
                start_divisor=25.0,
                end_divisor=1e4,
                cycle_momentum=True,
                min_momentum=0.85,
                max_momentum=0.95,
            ),
            train=dict(
                epochs=10,
                batch_size=128,
                label_smoothing=0.0,
                ema_decay=0.0,  # answer with a moving average of the weights that decays by so much a step; 0 for none
                checkpoint_every=1,  # epochs
                monitor="val_accuracy",  # what the best checkpoint is best at, or "val_loss"
                patience=0,  # stop after so many epochs without a new best; 0 never stops early
                min_delta=0.0,  # what counts as better by the patience
            ),
        )
    )


def recipe(network: str, arg: str, *choices: tuple[str, ...]) -> tuple[ConfigDict, tuple[str, ...]]:
    """The default config for `network` on CIFAR-10 under the budget of the reports, and the words chosen in `arg`.

    `arg` is what follows the file's name in --config=FILE:ARG: words with commas between. "full" trains on everything
    with nothing held out; each of `choices` is a tuple of words of which `arg` may have one, the first if it has none.
    Raises UserError for any other word.
    """
    words = [word for word in arg.split(",") if word]
    known = {word: index for index, options in enumerate(choices) for word in options} | {"full": len(choices)}
    kinds = [lookup("config argument", word, known) for word in words]
    if len(set(kinds)) < len(kinds):
        raise UserError(f"config argument {arg!r} chooses one thing twice")
    config = get_config()
    config.model.name = network
    config.model.max_params = 5_000_000
    config.data.name = "cifar10"
    if "full" in words:
        config.data.train, config.data.validation = "train", ""
    return config, tuple(next((word for word in words if word in options), options[0]) for options in choices)


# What the values of a type are called.
TYPES = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", tuple: "a tuple"}
LARGEST = 2**31 - 1  # integer: steps and seeds are int32


def positive_integers(values: tuple) -> bool:
    return all(type(value) is int and 0 < value <= LARGEST for value in values)


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
    "data.name": ("dataset", sources.SOURCES),
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
    refuse(misfits(values))
    refuse(f"config.{field} is missing" for field in field_types() if field not in values)
    if config.model.name in NETWORKS:
        for field, value in architecture(config.model.name).items():
            if config.model[field] is None:
                config.model[field] = value
    refuse(mistakes(config))
    sources.fill(config.data)
    refuse(contradictions(config))
    return FrozenConfigDict(config)


def settle(config: FrozenConfigDict) -> FrozenConfigDict:
    """A complete `config` with the numbers in it that normalize(auto) stands for, out of its training examples.

    What a run stores is settled, so that its network can be used where its data is not.
    """
    policy = Policy(config.data.policy)
    if policy.normalization:
        return config
    settled = ConfigDict(config)
    settled.data.policy = policy.normalized_by(*channel_statistics(sources.load(config.data).train.images))
    return FrozenConfigDict(settled)


def refuse(lines: Iterable[str]) -> None:
    """Raise UserError if there are any."""
    told = list(lines)
    if len(told) > MOST_MISTAKES:
        told = [*told[:MOST_MISTAKES], f"and {len(told) - MOST_MISTAKES} more"]
    if told:
        raise UserError("\n".join(told))


def misfits(values: dict[str, Any]) -> Iterator[str]:
    """A line for each field of a flat config that there is not, or whose value is of another type than the default."""
    types = field_types()
    for field, value in values.items():
        if field not in types:
            yield unknown_field(field)
            continue
        kind, optional = types[field]
        fits = isinstance(value, (kind, int) if kind is float else kind) and isinstance(value, bool) == (kind is bool)
        if not fits and not (optional and value is None):
            yield f"config.{field} must be {TYPES[kind]}, not {shown(value)}"


def unknown_field(field: str) -> str:
    """What is said of a field that there is not: the closest that there is, those of its section, or the sections."""
    sections: dict[str, list[str]] = {}
    for name in field_types():
        sections.setdefault(name.partition(".")[0], []).append(name)
    near = sections.get(field.partition(".")[0], sections)
    return f"unknown field config.{printable(field, 80)}: {nearest(field, field_types(), near)}"


@cache
def field_types() -> dict[str, tuple[type, bool]]:
    """Field -> (its type, whether None may stand for what the network or the dataset has)."""
    config = get_config()
    values = flatten(config.to_dict())
    return {field: (config_path.get_type(field, config), value is None) for field, value in values.items()}


def mistakes(config: ConfigDict) -> Iterator[str]:
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
            fits = abs(number) <= LARGEST if isinstance(number, int) else True
            fits = math.isfinite(number) if isinstance(number, float) else fits
            if not fits or not allowed(number):
                yield f"config.{field} must be {words}, not {shown(value)}"
    try:
        Policy(config.data.policy)
    except UserError as mistake:
        yield f"config.data.policy: {mistake}"


def in_float32(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def contradictions(config: ConfigDict) -> Iterator[str]:
    """A line for each pair of values, right by themselves, that cannot be had together."""
    model, optimizer, schedule, train = config.model, config.optimizer, config.schedule, config.train
    known = getattr(sources.SOURCES[config.data.name], "classes", None)
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
            f"not {shown(tuple(schedule.milestones))}"
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


def flatten(nested: dict, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        nests = isinstance(value, dict) and value
        flat |= flatten(value, f"{prefix}{key}.") if nests else {f"{prefix}{key}": value}
    return flat


def read(workdir: Path) -> ConfigDict:
    """The config that a run left in `workdir`; fields that it does not know have their defaults.

    Raises UserError where there is none, or one that this version cannot read.
    """
    path = workdir / "config.json"
    if not path.is_file():
        runs = [str(other.parent) for other in workdir.parent.glob("*/config.json")]
        raise UserError(f"{workdir} holds no run" + (f": {nearest(str(workdir), runs)}" if runs else ""))
    config = get_config()
    try:
        stored = read_json(path)
    except ValueError as error:
        again = "the command that the run was started with writes it again"
        raise Damaged(f"{path} is damaged ({reason(error)}): {again}") from None
    try:
        if not isinstance(stored, dict):
            raise UserError(f"it holds {shown(stored)}, and no fields")
        values = {field: tuple(v) if isinstance(v, list) else v for field, v in flatten(stored).items()}
        refuse(misfits(values))
        config.update_from_flattened_dict(values)
    except (UserError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} is no config of this version: {error}") from None
    return config


def to_json(config: FrozenConfigDict) -> str:
    """The config as indented JSON; tuples become lists."""
    return json.dumps(config.to_dict(), indent=2, default=list) + "\n"


def differences(old: dict, new: dict) -> list[str]:
    """ "field: old -> new" for every field in which two configs read from JSON differ."""
    a, b = flatten(old), flatten(new)
    changed = sorted(field for field in a.keys() | b.keys() if a.get(field) != b.get(field))
    return [f"config.{field}: {shown(a.get(field))} -> {shown(b.get(field))}" for field in changed]
