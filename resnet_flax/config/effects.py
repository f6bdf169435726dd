"""Fields that have no effect in a config, because of the values of others."""

from collections.abc import Callable, Iterator

from ml_collections import FrozenConfigDict

from resnet_flax.config.defaults import flatten, get_config
from resnet_flax.optim.schedules import cycles_momentum, momentum_field

# Section -> name of an optimizer or a schedule -> the fields that it uses, among those that not all use. One that is
# not listed, because a user has added it, may use any.
USES: dict[str, dict[str, tuple[str, ...]]] = {
    "optimizer": {
        "sgd": ("momentum", "dampening", "nesterov"),
        "muon": ("momentum", "dampening", "nesterov"),
        "adam": ("b1", "b2", "eps"),
        "adamw": ("b1", "b2", "eps"),
        "adagrad": ("eps",),
    },
    "schedule": {
        "constant": (),
        "multistep": ("milestones", "factor"),
        "step_decay": ("every", "factor"),
        "cosine": ("end_factor",),
        "warmup_cosine": ("warmup", "warmup_offset", "decay", "end_factor"),
        "onecycle": (
            *("rise", "anneal", "three_phase", "start_divisor", "end_divisor"),
            *("cycle_momentum", "min_momentum", "max_momentum"),
        ),
    },
}

# What a field may need to have an effect: a test of the config, and the same in words.
Need = tuple[Callable[[FrozenConfigDict], bool], str]
TEACHER: Need = (lambda c: c.train.teacher != "", "config.train.teacher names a network")
CYCLE: Need = (
    lambda c: c.schedule.name != "onecycle" or c.schedule.cycle_momentum,
    "config.schedule.cycle_momentum is True",
)

NEEDS: dict[str, Need] = {
    "optimizer.decay_all": (lambda c: c.optimizer.weight_decay > 0, "config.optimizer.weight_decay is above 0"),
    "optimizer.dampening": (
        lambda c: c.optimizer.momentum > 0 or cycles_momentum(c.schedule),
        "config.optimizer.momentum is above 0",
    ),
    "schedule.per": (
        lambda c: c.schedule.name not in ("constant", "multistep", "step_decay"),
        "config.schedule changes the learning rate within epochs",
    ),
    "schedule.min_momentum": CYCLE,
    "schedule.max_momentum": CYCLE,
    "train.min_delta": (lambda c: c.train.patience > 0, "config.train.patience is above 0"),
    "train.mix_probability": (
        lambda c: max(c.train.mixup, c.train.cutmix, c.train.ricap) > 0,
        "config.train.mixup, cutmix or ricap is above 0",
    ),
    "train.mix_switch": (
        lambda c: min(c.train.mixup, c.train.cutmix) > 0,
        "config.train.mixup and cutmix are above 0",
    ),
    "train.small_size": (lambda c: c.train.small_share > 0, "config.train.small_share is above 0"),
    "train.teacher_weight": TEACHER,
    "train.teacher_temperature": TEACHER,
}


def without_effect(config: FrozenConfigDict) -> Iterator[str]:
    """Yield lines about the fields of a complete config that differ from their defaults and have no effect."""
    values, defaults = flatten(config.to_dict()), flatten(get_config().to_dict())
    changed = {field for field, value in values.items() if value != defaults[field]}
    for section, uses in USES.items():
        name = config[section].name
        every = dict.fromkeys(field for fields in uses.values() for field in fields)
        others = [field for field in every if name in uses and field not in uses[name]]
        if unused := [f"config.{section}.{field}" for field in others if f"{section}.{field}" in changed]:
            yield f"no effect with config.{section}.name {name}: {', '.join(unused)}"
    for field, (met, words) in NEEDS.items():
        if field in changed and not met(config):
            yield f"config.{field} has no effect unless {words}"
    field = f"optimizer.{momentum_field(config.optimizer)}"
    if cycles_momentum(config.schedule) and field in changed:
        yield (
            f"config.{field} has no effect: {config.schedule.name} moves the momentum between "
            f"{config.schedule.min_momentum} and {config.schedule.max_momentum}; set config.schedule.cycle_momentum "
            "to False to use it"
        )
