"""The default config with every field, and the checks that run before anything is compiled.

A recipe in `configs/` starts from `get_config()` and sets what its report says. Every field is typed by its default;
0 or "" means "off" where a comment says so, and None in `model` means "as the network named has it".
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict
from ml_collections.config_dict import placeholder

from resnet_flax.data import sources
from resnet_flax.data.augment import Policy
from resnet_flax.errors import Damaged, UserError, lookup, nearest, reason
from resnet_flax.models import NETWORKS, architecture
from resnet_flax.models.blocks import BLOCKS
from resnet_flax.models.resnet import ACTIVATIONS, KERNEL_INITS
from resnet_flax.optim.optimizers import OPTIMIZERS
from resnet_flax.optim.schedules import SCHEDULES


def get_config() -> ConfigDict:
    """Every field with its default: a tiny network on the digits that scikit-learn carries."""
    return ConfigDict(
        dict(
            seed=0,
            parallel="jit",  # "jit" over a mesh of all devices, or "pmap"
            data=dict(
                name="digits",
                dir="",  # where it lies; "" is TFDS_DATA_DIR, or TFDS's own default
                train="train[:90%]",  # splits in the syntax of TFDS
                validation="train[90%:]",  # "" for none: then the last epoch is the result
                test="test",  # "" for none: a run that only chooses, by validation, needs not look at it
                classes=placeholder(tuple),  # the names of its classes; None is as the dataset has them
                train_examples=0,  # keep only so many of the training split; 0 keeps all
                feed="auto",  # "tfdata" on the host, "device" on the accelerator
                policy="crop(4)|flip|normalize(cifar10)",
                concat_original=False,  # an epoch is the augmented and the plain training split, shuffled together
            ),
            model=dict(
                name="tiny",
                block=placeholder(str),
                blocks=placeholder(tuple),
                widths=placeholder(tuple),
                activation=placeholder(str),
                stem_dropout=placeholder(float),
                block_dropout=placeholder(float),
                final_norm=placeholder(bool),
                kernel_init="torch",  # or "he_normal"
                compute_dtype="auto",  # bfloat16 on GPU and TPU, float32 on CPU
                max_params=0,  # refuse a network with more; 0 is no limit
            ),
            optimizer=dict(
                name="sgd",
                learning_rate=0.1,
                weight_decay=0.0,
                clip_norm=0.0,  # largest global norm of the gradient; 0 is no clipping
                momentum=0.9,  # sgd
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


# Field -> what it must be, as a test and in words. Wrong types are refused by the config itself.
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": (lambda v: 0 <= v < 2**31, "an integer from 0 to 2**31 - 1"),
    "data.train_examples": (lambda v: v >= 0, "0 (all) or positive"),
    "model.blocks": (lambda v: len(v) > 0 and all(isinstance(n, int) and n > 0 for n in v), "positive integers"),
    "model.widths": (lambda v: len(v) > 0 and all(isinstance(n, int) and n > 0 for n in v), "positive integers"),
    "model.stem_dropout": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "model.block_dropout": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "model.max_params": (lambda v: v >= 0, "0 (no limit) or positive"),
    "optimizer.learning_rate": (lambda v: v > 0, "positive"),
    "optimizer.weight_decay": (lambda v: v >= 0, "0 or positive"),
    "optimizer.clip_norm": (lambda v: v >= 0, "0 (off) or positive"),
    "optimizer.momentum": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "optimizer.dampening": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "optimizer.b1": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "optimizer.b2": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "optimizer.eps": (lambda v: v > 0, "positive"),
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

    Raises UserError with one line for each mistake.
    """
    config = config.copy_and_resolve_references()
    lookup("model", config.model.name, NETWORKS)
    for field, value in architecture(config.model.name).items():
        if config.model[field] is None:
            config.model[field] = value
    if config.data.classes is None and config.data.name in sources.SOURCES:
        config.data.classes = sources.SOURCES[config.data.name].classes
    mistakes = list(find_mistakes(config))
    if mistakes:
        raise UserError("\n".join(mistakes))
    return FrozenConfigDict(config)


def find_mistakes(config: ConfigDict) -> Iterator[str]:
    """A line for each field of a completed `config` that is out of range or does not fit the others."""
    values = flatten(config.to_dict())
    for field, (kind, registry) in NAMES.items():
        try:
            lookup(kind, values[field], registry)
        except UserError as mistake:
            yield f"config.{field}: {mistake}"
    for field, (allowed, words) in RULES.items():
        if not allowed(values[field]):
            yield f"config.{field} must be {words}, not {values[field]!r}"
    try:
        Policy(config.data.policy)
    except UserError as mistake:
        yield f"config.data.policy: {mistake}"
    model, optimizer, schedule, train = config.model, config.optimizer, config.schedule, config.train
    without_momentum = optimizer.name == "sgd" and optimizer.momentum == 0
    if optimizer.nesterov and (without_momentum or optimizer.dampening):
        yield "config.optimizer.nesterov needs a momentum and no dampening, as in PyTorch"
    known = len(sources.SOURCES[config.data.name].classes) if config.data.name in sources.SOURCES else 0
    if known and len(config.data.classes) != known:
        yield f"config.data.classes must be {known} names, one for each class of {config.data.name}"
    if len(model.blocks) != len(model.widths):
        yield (
            f"config.model.blocks {tuple(model.blocks)} and config.model.widths {tuple(model.widths)} "
            "must be of one length, one entry a stage"
        )
    if schedule.name == "multistep":
        late = [m for m in schedule.milestones if not 0 < m < train.epochs]
        if late or not schedule.milestones:
            yield (
                f"config.schedule.milestones must be epochs between 0 and config.train.epochs {train.epochs}, "
                f"not {tuple(schedule.milestones)}"
            )
    if schedule.name == "onecycle":
        turn = schedule.rise * train.epochs
        if schedule.per == "epoch" and not 1 < turn < train.epochs:
            yield (
                f"config.schedule.rise {schedule.rise} of config.train.epochs {train.epochs} is no whole epoch: "
                f"take at least {int(1 / schedule.rise) + 1} epochs, or config.schedule.per=step"
            )
        if schedule.cycle_momentum and (optimizer.name == "adagrad" or without_momentum):
            yield "config.schedule.cycle_momentum cycles a momentum, and the optimizer has none: set it to False"
    if train.patience and not config.data.validation:
        yield "config.train.patience needs a validation split, and config.data.validation is empty"


def flatten(nested: dict, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
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
        stored = json.loads(path.read_text())
    except ValueError as error:
        again = "the command that the run was started with writes it again"
        raise Damaged(f"{path} is damaged ({reason(error)}): {again}") from None
    try:
        fields = flatten(stored)
        for field in fields:
            lookup("field", field, flatten(config.to_dict()))
        config.update_from_flattened_dict({k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
    except (UserError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no config of this version: {str(error).splitlines()[0]}") from None
    return config


def to_json(config: FrozenConfigDict) -> str:
    """The config as indented JSON; tuples become lists."""
    return json.dumps(config.to_dict(), indent=2, default=list) + "\n"


def differences(old: dict, new: dict) -> list[str]:
    """ "field: old -> new" for every field in which two configs read from JSON differ."""
    a, b = flatten(old), flatten(new)
    return [f"config.{k}: {a.get(k)!r} -> {b.get(k)!r}" for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]
