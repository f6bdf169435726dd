"""Fields without effect are named, and those named are the ones that optimisers and schedules do not read."""

from pathlib import Path

import jax
import numpy as np
import pytest

from resnet_flax.config.defaults import get_config
from resnet_flax.config.effects import USES, without_effect
from resnet_flax.config.recipes import load_recipe, recipe_names
from resnet_flax.optim.optimizers import OPTIMIZERS, Hyperparams
from resnet_flax.optim.schedules import SCHEDULES, Span

CONFIGS = Path(__file__).parents[2] / "configs"
# What those who use it get from elsewhere than the section.
MOMENTUM = {"sgd": "momentum", "muon": "momentum", "adam": "b1", "adamw": "b1"}
CYCLES = {"cycle_momentum", "min_momentum", "max_momentum"}


class Spy:
    """A section of the default config that notes which of its fields are read."""

    def __init__(self, section: str, **changes):
        self._fields, self.read = get_config()[section].to_dict() | changes, set()

    def __getattr__(self, name):
        self.read.add(name)
        return self._fields[name]


def read_by_optimizer(name: str) -> set[str]:
    spy, params = Spy("optimizer"), {"kernel": np.ones((3, 3, 2, 2), np.float32)}
    transform = OPTIMIZERS[name](spy, Hyperparams(*np.ones(3, np.float32)))
    jax.jit(lambda: transform.update(params, transform.init(params), params))()
    return spy.read | {MOMENTUM[name]} if name in MOMENTUM else spy.read


def read_by_schedule(name: str) -> set[str]:
    spy = Spy("schedule", milestones=(1, 2))
    SCHEDULES[name](0.1, spy, Span(epochs=8, steps_per_epoch=3, per="step"))(np.arange(24))
    return spy.read | CYCLES if name == "onecycle" else spy.read


@pytest.mark.parametrize(
    ("section", "registry", "read_by", "for_all"),
    [
        ("optimizer", OPTIMIZERS, read_by_optimizer, {"decay_all"}),
        ("schedule", SCHEDULES, read_by_schedule, set()),
    ],
)
def test_what_each_uses_is_what_its_code_reads(section, registry, read_by, for_all):
    assert USES[section].keys() == registry.keys()
    for name, fields in USES[section].items():
        assert set(fields) == read_by(name) - for_all, name


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_set_no_field_without_effect(name):
    arguments = ["", ":fast"] if "fast" in (CONFIGS / f"{name}.py").read_text() else [""]
    for argument in arguments:
        assert not list(without_effect(load_recipe(f"{name}{argument}")))


def lines(**changes) -> list[str]:
    """Return what is said about the default config with changes, written like train__epochs."""
    config = get_config()
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return list(without_effect(config))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (dict(optimizer__momentum=0.5), None),
        (dict(optimizer__b1=0.5), "no effect with config.optimizer.name sgd: config.optimizer.b1"),
        (
            dict(schedule__name="cosine", schedule__warmup=3, schedule__rise=0.2),
            "no effect with config.schedule.name cosine: config.schedule.warmup, config.schedule.rise",
        ),
        (
            dict(train__mix_switch=0.1, train__mixup=0.2),
            "config.train.mix_switch has no effect unless config.train.mixup and cutmix are above 0",
        ),
        (dict(train__mix_probability=0.5, train__ricap=0.3), None),
        *(
            (
                dict(schedule__per="step", schedule__name=name),
                "config.schedule.per has no effect unless config.schedule changes the learning rate within epochs",
            )
            for name in ("constant", "multistep", "step_decay")
        ),
        (
            dict(train__small_size=16),
            "config.train.small_size has no effect unless config.train.small_share is above 0",
        ),
        (dict(train__small_size=16, train__small_share=0.5), None),
        (
            dict(train__teacher_weight=0.5),
            "config.train.teacher_weight has no effect unless config.train.teacher names a network",
        ),
        (
            dict(train__min_delta=0.1),
            "config.train.min_delta has no effect unless config.train.patience is above 0",
        ),
        (
            dict(optimizer__decay_all=False, optimizer__weight_decay=0.0),
            "config.optimizer.decay_all has no effect unless config.optimizer.weight_decay is above 0",
        ),
        (
            dict(optimizer__dampening=0.1, optimizer__momentum=0.0),
            "config.optimizer.dampening has no effect unless config.optimizer.momentum is above 0",
        ),
        (
            dict(schedule__min_momentum=0.8, schedule__name="onecycle", schedule__cycle_momentum=False),
            "config.schedule.min_momentum has no effect unless config.schedule.cycle_momentum is True",
        ),
    ],
)
def test_a_field_without_effect(changes, line):
    assert lines(**changes) == ([line] if line else [])


def test_an_optimizer_of_the_user_may_use_any_field():
    assert lines(optimizer__name="lion", optimizer__b2=0.9) == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        (dict(optimizer__momentum=0.5), "momentum"),
        (dict(optimizer__name="adam", optimizer__b1=0.5), "b1"),
        (dict(optimizer__momentum=0.5, schedule__cycle_momentum=False), None),
    ],
)
def test_a_momentum_that_the_schedule_replaces(changes, field):
    line = (
        f"config.optimizer.{field} has no effect: onecycle moves the momentum between 0.85 and 0.95; "
        "set config.schedule.cycle_momentum to False to use it"
    )
    assert lines(schedule__name="onecycle", **changes) == ([line] if field else [])
