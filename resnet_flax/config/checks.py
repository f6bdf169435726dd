"""Checks of a config, made before anything is compiled: its fields and types, each value, and how values combine."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from resnet_flax.config.defaults import changed, field_types, flatten, get_config
from resnet_flax.config.suggestions import unknown_field
from resnet_flax.data.augment.policy import Policy
from resnet_flax.data.augment.statistics import channel_statistics
from resnet_flax.data.datasets.load import fill_from_dataset, load_dataset
from resnet_flax.data.datasets.sources import SOURCES
from resnet_flax.errors import UserError, is_address, lookup
from resnet_flax.models import NETWORKS, architecture
from resnet_flax.models.blocks import BLOCKS, SHORTCUTS
from resnet_flax.models.initializers import KERNEL_INITS
from resnet_flax.models.resnet import ACTIVATIONS, part_names
from resnet_flax.optim.optimizers import OPTIMIZERS
from resnet_flax.optim.schedules import SCHEDULES
from resnet_flax.parallel.devices import PARALLEL
from resnet_flax.text import first_few, short_repr

MAX_ERRORS_LISTED = 20
MAX_INT32 = 2**31 - 1  # steps and seeds are int32

# Type -> what messages call a value of it.
TYPES = {bool: "True or False", int: "a whole number", float: "a number", str: "a string", tuple: "a tuple"}


def positive_integers(values: tuple, largest: int = MAX_INT32) -> bool:
    return all(type(value) is int and 0 < value <= largest for value in values)


def one_per_stage(values: tuple, largest: int) -> bool:
    return 1 <= len(values) <= 8 and positive_integers(values, largest)


def distinct_names(values: tuple) -> bool:
    return all(isinstance(name, str) and name for name in values) and len(set(values)) == len(values)


def is_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text) and not is_address(text)
    except UnicodeEncodeError:
        return False


def are_paths(text: str) -> bool:
    return all(is_path(name.strip()) for name in text.split(","))


MOUNTED = "on this machine (mount a bucket as a folder, see launch/README.md)"

# A rule is a test of a value, and what the value must be, in words.
Rule = tuple[Callable[[Any], bool], str]
POSITIVE: Rule = (lambda v: v > 0, "positive")
NOT_NEGATIVE: Rule = (lambda v: v >= 0, "0 or positive")
BELOW_ONE: Rule = (lambda v: 0 <= v < 1, "at least 0 and below 1")
PIXELS: Rule = (lambda v: 8 <= v <= 1024, "from 8 to 1,024 pixels")
EPOCHS: Rule = (lambda v: v > 0, "a positive number of epochs")
ALPHA: Rule = (lambda v: v == 0 or 1e-3 <= v <= 1e3, "0 (off), or from 0.001 to 1,000")

# Field -> its rule. A float is tested as the float32 that it becomes.
RULES: dict[str, Rule] = {
    "seed": (lambda v: v >= 0, "an integer from 0 to 2**31 - 1"),
    "data.dir": (is_path, f"a path {MOUNTED}"),
    "data.train": (lambda v: v.strip() != "", "a split, such as train or train[:90%]"),
    "data.classes": (lambda v: len(v) > 1 and distinct_names(v), "two or more names, all different"),
    "data.image_size": PIXELS,
    "data.train_examples": (lambda v: v >= 0, "0 (all) or positive"),
    "model.blocks": (lambda v: one_per_stage(v, 200), "1 to 8 positive integers, one per stage, each at most 200"),
    "model.widths": (lambda v: one_per_stage(v, 8192), "1 to 8 positive integers, one per stage, each at most 8,192"),
    "model.stem_dropout": BELOW_ONE,
    "model.block_dropout": BELOW_ONE,
    "model.drop_path": BELOW_ONE,
    "model.stem_width": (lambda v: 0 <= v <= 8192, "0 (as the first stage) or positive, at most 8,192"),
    "model.bottleneck_ratio": (lambda v: 0 < v <= 8, "above 0 and at most 8"),
    "model.groups": (lambda v: 0 < v <= 8192, "positive, at most 8,192"),
    "model.max_params": (lambda v: v >= 0, "0 (no limit) or positive"),
    "optimizer.learning_rate": POSITIVE,
    "optimizer.bias_lr_factor": POSITIVE,
    "optimizer.weight_decay": NOT_NEGATIVE,
    "optimizer.clip_norm": (lambda v: v >= 0, "0 (off) or positive"),
    "optimizer.momentum": BELOW_ONE,
    "optimizer.dampening": BELOW_ONE,
    "optimizer.b1": BELOW_ONE,
    "optimizer.b2": BELOW_ONE,
    "optimizer.eps": POSITIVE,
    "schedule.milestones": (
        lambda v: positive_integers(v) and list(v) == sorted(set(v)),
        "whole epochs in ascending order",
    ),
    "schedule.factor": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
    "schedule.every": EPOCHS,
    "schedule.end_factor": (lambda v: 0 <= v <= 1, "from 0 to 1"),
    "schedule.warmup": EPOCHS,
    "schedule.warmup_offset": NOT_NEGATIVE,
    "schedule.decay": (lambda v: v >= 0, "0 (until the end of training) or positive"),
    "schedule.rise": (lambda v: 0 < v < 1, "between 0 and 1"),
    "schedule.start_divisor": POSITIVE,
    "schedule.end_divisor": POSITIVE,
    "schedule.min_momentum": BELOW_ONE,
    "schedule.max_momentum": BELOW_ONE,
    "train.init_from": (is_path, f"the name of a trained network, or its path {MOUNTED}"),
    "train.freeze": (distinct_names, "parts of the network, all different"),
    "train.epochs": POSITIVE,
    "train.batch_size": POSITIVE,
    "train.label_smoothing": BELOW_ONE,
    "train.mixup": ALPHA,
    "train.cutmix": ALPHA,
    "train.ricap": ALPHA,
    "train.mix_probability": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
    "train.mix_switch": (lambda v: 0 <= v <= 1, "from 0 to 1"),
    "train.teacher": (are_paths, f"names of trained networks or their paths {MOUNTED}, separated by commas"),
    "train.teacher_weight": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
    "train.teacher_temperature": POSITIVE,
    "train.small_share": BELOW_ONE,
    "train.small_size": PIXELS,
    "train.sam_radius": (lambda v: v >= 0, "0 (off) or positive"),
    "train.ema_decay": (lambda v: 0 <= v < 1, "0 (off), or above 0 and below 1"),
    "train.checkpoint_every": EPOCHS,
    "train.patience": (lambda v: v >= 0, "0 (off) or a positive number of epochs"),
    "train.min_delta": NOT_NEGATIVE,
}

# Field -> the kind of thing that it names, and the valid names.
CHOICES: dict[str, tuple[str, Iterable[str]]] = {
    "parallel": ("kind of parallelism", PARALLEL),
    "data.feed": ("feed", ("auto", "tfdata", "device")),
    "data.name": ("dataset", SOURCES),
    "model.name": ("model", NETWORKS),
    "model.stem": ("stem", ("conv", "whitening")),
    "model.block": ("block", BLOCKS),
    "model.shortcut": ("shortcut", SHORTCUTS),
    "model.activation": ("activation", ACTIVATIONS),
    "model.kernel_init": ("initialisation", KERNEL_INITS),
    "model.compute_dtype": ("compute dtype", ("auto", "float32", "bfloat16")),
    "optimizer.name": ("optimizer", OPTIMIZERS),
    "schedule.name": ("schedule", SCHEDULES),
    "schedule.per": ("schedule unit", ("epoch", "step")),
    "schedule.anneal": ("annealing", ("cosine", "linear")),
    "train.monitor": ("quantity to monitor", ("val_accuracy", "val_loss")),
}


def complete(config: ConfigDict) -> FrozenConfigDict:
    """Check `config`, fill in the fields that its network and its dataset determine, and freeze it.

    Raises UserError with a line for each mistake: first in the fields and their types, then in single values, then in
    how values combine.
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
    """Return a complete `config` with normalize(auto) replaced by the statistics of its training examples.

    A run stores these numbers, so that its network can be used without its data.
    """
    policy = Policy(config.data.policy)
    if policy.normalization:
        return config
    statistics = channel_statistics(load_dataset(config.data).train.images)
    return changed(config, {"data.policy": policy.normalized_by(*statistics)})


def normalized_like(config: FrozenConfigDict, run: FrozenConfigDict) -> FrozenConfigDict:
    """Return a complete `config` with normalize(auto) replaced by the numbers that a `run` of it has stored."""
    policy, stored = Policy(config.data.policy), Policy(run.data.policy)
    if policy.normalization or not stored.normalization:
        return config
    return changed(config, {"data.policy": policy.normalized_by(*stored.normalization)})


def raise_errors(lines: Iterable[str]) -> None:
    """Raise UserError with the first few of `lines`, unless there are none."""
    if listed := first_few(list(lines), MAX_ERRORS_LISTED):
        raise UserError("\n".join(listed))


def type_errors(values: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each field of a flat config that is unknown, or has a value of the wrong type."""
    types = field_types()
    for field, value in values.items():
        if field not in types:
            yield unknown_field(field)
            continue
        kind, optional = types[field]
        fits = isinstance(value, (kind, int) if kind is float else kind) and isinstance(value, bool) == (kind is bool)
        if not fits and not (optional and value is None):
            yield f"config.{field} must be {TYPES[kind]}, not {short_repr(value)}"


def set_fields(config: ConfigDict, values: Mapping[str, Any]) -> None:
    """Set fields by their dotted names; lists and arrays become tuples, NumPy numbers Python's, and paths strings.

    Another model.name selects that network as a whole: the fields that a recipe has set for its own network become
    those of the new one, unless `values` sets them. Raises UserError with a line for each unknown field and each value
    of the wrong type.
    """
    fields = {}
    for field, value in values.items():
        plain = value.tolist() if isinstance(value, np.generic | np.ndarray) else value
        plain = os.fspath(plain) if isinstance(plain, os.PathLike) else plain
        fields[field] = tuple(plain) if isinstance(plain, list) else plain
    raise_errors(type_errors(fields))
    name = fields.get("model.name")
    if name in NETWORKS and name != config.get("model", {}).get("name"):
        present = flatten(config.to_dict())  # a recipe may have deleted some, which `complete` reports
        of_network = (f"model.{field}" for field in architecture(name))
        fields = {field: None for field in of_network if field in present} | fields
    config.update_from_flattened_dict(fields)


def value_errors(config: ConfigDict) -> Iterator[str]:
    """Yield a line for each value that is not allowed by itself. All fields have the right types."""
    for field, value in flatten(config.to_dict()).items():
        if value is not None and field in CHOICES:
            kind, names = CHOICES[field]
            yield from complaint(f"config.{field}", lookup, kind, value, dict.fromkeys(names))
        if value is not None and field in RULES and not follows(value, RULES[field]):
            yield f"config.{field} must be {demand(value, RULES[field])}, not {short_repr(value)}"
    yield from complaint("config.data.policy", Policy, config.data.policy)


def complaint(field: str, function: Callable, *arguments: Any) -> Iterator[str]:
    """Yield the message of the UserError that a call raises, if it does."""
    try:
        function(*arguments)
    except UserError as mistake:
        yield f"{field}: {mistake}"


def follows(value: Any, rule: Rule) -> bool:
    """Return whether a value, as the float32 or int32 that it becomes, is finite, in range and obeys its rule."""
    if isinstance(value, float):
        with np.errstate(over="ignore"):
            value = float(np.float32(value))
        return math.isfinite(value) and rule[0](value)
    return not (isinstance(value, int) and abs(value) > MAX_INT32) and rule[0](value)


def demand(value: Any, rule: Rule) -> str:
    """Return what a value that does not follow a rule must be, in words.

    If the value itself obeys the rule, the words add the limit of int32 or float32 that it exceeds.
    """
    fits, words = rule
    if not fits(value):
        return words
    if not isinstance(value, float):
        return f"{words}, and at most {MAX_INT32:,}"
    with np.errstate(over="ignore"):
        held = math.isfinite(np.float32(value)) and np.float32(value) != 0
    return f"{words}, {'also when rounded to float32' if held else 'and from about 1e-45 to 3e38'}"


def conflicts(config: ConfigDict) -> Iterator[str]:
    """Yield a line for each disallowed combination of values that are valid by themselves."""
    optimizer = config.optimizer
    like_sgd = optimizer.name in ("sgd", "muon")
    has_momentum = optimizer.momentum > 0 if like_sgd else optimizer.name != "adagrad"
    classes = getattr(SOURCES[config.data.name], "classes", config.data.classes)
    if len(config.data.classes) != len(classes):
        yield f"config.data.classes must be {len(classes)} names, one for each class of {config.data.name}"
    yield from network_conflicts(config)
    if optimizer.nesterov and not (like_sgd and has_momentum and optimizer.dampening == 0):
        yield "config.optimizer.nesterov needs sgd or muon with momentum and without dampening, as in PyTorch"
    yield from schedule_conflicts(config.schedule, config.train.epochs, has_momentum)
    if config.train.ricap and (config.train.mixup or config.train.cutmix):
        yield "config.train.ricap takes the place of config.train.mixup and config.train.cutmix: set them to 0"
    if not config.data.validation:
        missing = "needs a validation split, and config.data.validation is empty"
        if config.train.patience:
            yield f"config.train.patience {missing}"
        if config.train.monitor != get_config().train.monitor:
            yield f"config.train.monitor {config.train.monitor} {missing}"


def network_conflicts(config: ConfigDict) -> Iterator[str]:
    model = config.model
    if len(model.blocks) != len(model.widths):
        yield (
            f"config.model.blocks {tuple(model.blocks)} and config.model.widths {tuple(model.widths)} "
            "must have the same length, with one entry per stage"
        )
    if model.final_norm and model.block != "preact":
        yield f"config.model.final_norm needs config.model.block to be preact, not {model.block}"
    if model.zero_last_scale and model.block == "preact":
        yield "config.model.zero_last_scale needs blocks that end in BatchNorm: config.model.block preact does not"
    if model.stem_width and model.stem != "conv":
        yield f"config.model.stem_width needs config.model.stem to be conv, not {model.stem}"
    yield from size_conflicts(config)
    yield from shortcut_conflicts(model)
    yield from bottleneck_conflicts(model)
    parts = part_names(len(model.blocks), model.final_norm)
    for part in config.train.freeze:
        yield from complaint("config.train.freeze", lookup, "part of the network", part, dict.fromkeys(parts))
    if set(parts) <= set(config.train.freeze):
        yield "config.train.freeze leaves nothing to train: leave out the head at least"


def size_conflicts(config: ConfigDict) -> Iterator[str]:
    size, small = config.data.image_size, config.train.small_size
    yield from pooling_conflicts(config.model, "config.data.image_size", size)
    if config.train.small_share:
        yield from pooling_conflicts(config.model, "config.train.small_size", small)
        if small >= size:
            yield f"config.train.small_size {small} must be less than config.data.image_size {size}"


def pooling_conflicts(model: ConfigDict, field: str, image_size: int) -> Iterator[str]:
    """Yield a line if `image_size`, the value of `field`, is too small for pool blocks.

    A pool block halves images and rounds down; the whitening stem takes a pixel, and all stages after it pool.
    """
    whitening = model.stem == "whitening"
    poolings = len(model.blocks) - (not whitening)
    smallest = 2**poolings + whitening
    if model.block == "pool" and image_size < smallest:
        yield (
            f"{field} {image_size} is too small for pool blocks in {poolings} stages: "
            f"make it at least {smallest}, or config.model.blocks shorter"
        )


def shortcut_conflicts(model: ConfigDict) -> Iterator[str]:
    if model.shortcut != "conv" and model.block == "pool":
        yield f"config.model.shortcut {model.shortcut} does not apply to pool blocks, whose shortcuts keep the shape"
    stem = 8 * 3 if model.stem == "whitening" else model.stem_width or model.widths[0]
    widths = (stem, *model.widths)
    if model.shortcut == "pad" and list(widths) != sorted(widths):
        yield (
            f"config.model.shortcut pad cannot remove channels: from the stem on, there are {widths}, "
            "and each number must be at least the one before"
        )


def bottleneck_conflicts(model: ConfigDict) -> Iterator[str]:
    if model.block != "bottleneck":
        if model.groups > 1:
            yield f"config.model.groups {model.groups} needs config.model.block to be bottleneck, not {model.block}"
        if model.bottleneck_ratio != architecture(model.name)["bottleneck_ratio"]:
            yield f"config.model.bottleneck_ratio needs config.model.block to be bottleneck, not {model.block}"
        return
    inners = {width: width * model.bottleneck_ratio for width in model.widths}
    misfits = [width for width, inner in inners.items() if inner < 1 or inner % 1 or inner % model.groups]
    for width in misfits[:1]:
        yield (
            f"config.model.bottleneck_ratio {model.bottleneck_ratio} of {width} channels is {inners[width]:g}: "
            f"it must be a positive multiple of config.model.groups {model.groups}"
        )


def schedule_conflicts(schedule: ConfigDict, epochs: int, has_momentum: bool) -> Iterator[str]:
    if schedule.name == "multistep" and not (schedule.milestones and schedule.milestones[-1] < epochs):
        yield (
            f"config.schedule.milestones must be epochs between 0 and config.train.epochs {epochs}, "
            f"not {short_repr(tuple(schedule.milestones))}"
        )
    if schedule.name == "warmup_cosine" and schedule.warmup > epochs:
        yield f"config.schedule.warmup {schedule.warmup} is longer than config.train.epochs {epochs}"
    if schedule.name != "onecycle":
        return
    if schedule.per == "epoch" and schedule.rise * epochs <= 1:
        yield (
            f"config.schedule.rise {schedule.rise} of config.train.epochs {epochs} must be more than one epoch: "
            f"train for at least {int(1 / schedule.rise) + 1} epochs, or set config.schedule.per=step"
        )
    if schedule.three_phase and schedule.rise > 0.5:
        yield f"config.schedule.three_phase needs config.schedule.rise to be at most 0.5, not {schedule.rise}"
    if schedule.cycle_momentum and not has_momentum:
        yield "config.schedule.cycle_momentum needs an optimizer with momentum: set it to False"
    if schedule.cycle_momentum and schedule.min_momentum > schedule.max_momentum:
        yield (
            f"config.schedule.min_momentum {schedule.min_momentum} is more than "
            f"config.schedule.max_momentum {schedule.max_momentum}"
        )
