"""Learning-rate and momentum schedules, with PyTorch's definitions.

A schedule is a function of the time `t`, in epochs or optimiser steps as `config.schedule.per` says; `Span` converts
between them. Lengths and milestones in a config are always in epochs. Schedules are computed on the host, in float64,
and passed to the compiled program as numbers.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from resnet_flax.errors import UserError

Schedule = Callable[[Any], np.ndarray]  # optimiser steps, integers of any shape -> float32 of the same shape


@dataclass(frozen=True)
class Span:
    """The length of a run, in the unit of its schedule."""

    epochs: int
    steps_per_epoch: int
    per: str  # "epoch" or "step"

    def __post_init__(self) -> None:
        if self.epochs * self.steps_per_epoch >= 2**31:  # steps are counted in int32
            raise UserError(
                f"{self.epochs:,} epochs of {self.steps_per_epoch:,} steps are more than the limit of 2**31 - 1 steps"
            )

    def units(self, epochs: float) -> float:
        """Return a number of epochs in this unit."""
        return epochs * (1 if self.per == "epoch" else self.steps_per_epoch)

    @property
    def total(self) -> int:
        return int(self.units(self.epochs))

    def over_steps(self, curve: Callable[[np.ndarray], np.ndarray]) -> Schedule:
        """Return the curve over `t` as a function of the optimiser step; if `per` "epoch", constant within an epoch."""

        def schedule(step) -> np.ndarray:
            step = np.asarray(step)
            t = step // self.steps_per_epoch if self.per == "epoch" else step
            return np.asarray(curve(t.astype(np.float64)), np.float32)

        return schedule


def anneal(kind: str, start: float, end: float, fraction: np.ndarray) -> np.ndarray:
    """Interpolate from `start` at fraction 0 to `end` at fraction 1; `kind` is "cosine" (half of one) or "linear"."""
    if kind == "linear":
        return start + (end - start) * fraction
    return end + (start - end) / 2 * (1 + np.cos(np.pi * fraction))


def constant(peak: float, config: ConfigDict, span: Span) -> Schedule:
    """Stay at the peak."""
    return span.over_steps(lambda t: np.full_like(t, peak))


def multistep(peak: float, config: ConfigDict, span: Span) -> Schedule:
    """Multiply by `factor` at each of `milestones` (epochs), like torch's MultiStepLR."""
    milestones = np.array([span.units(epoch) for epoch in config.milestones], np.float64)
    return span.over_steps(lambda t: peak * config.factor ** np.sum(t[..., None] >= milestones, axis=-1))


def step_decay(peak: float, config: ConfigDict, span: Span) -> Schedule:
    """Multiply by `factor` every `every` epochs, like torch's StepLR."""
    every = span.units(config.every)
    return span.over_steps(lambda t: peak * config.factor ** (t // every))


def cosine(peak: float, config: ConfigDict, span: Span) -> Schedule:
    """Fall along half a cosine from the peak to `end_factor` x peak at the end, like torch's CosineAnnealingLR."""
    return span.over_steps(lambda t: anneal("cosine", peak, peak * config.end_factor, t / span.total))


def warmup_cosine(peak: float, config: ConfigDict, span: Span) -> Schedule:
    """Rise linearly over `warmup` epochs, then fall along half a cosine of `decay` epochs to `end_factor` x peak.

    At time t of the warm-up the value is (t + warmup_offset) / warmup of the peak, at most 1. An offset of 1 is usual;
    the code of report 004 has 2. The cosine starts at the last t of the warm-up; with `decay` 0 it lasts to the end.
    """
    warmup = span.units(config.warmup)
    start = warmup - 1
    decay = span.units(config.decay) if config.decay else span.total - start

    def curve(t: np.ndarray) -> np.ndarray:
        rising = peak * np.minimum((t + config.warmup_offset) / warmup, 1.0)
        falling = anneal("cosine", peak, peak * config.end_factor, np.minimum((t - start) / decay, 1.0))
        return np.where(t < start, rising, falling)

    return span.over_steps(curve)


def onecycle_curve(config: ConfigDict, span: Span, low: float, high: float, end: float) -> Schedule:
    """Go low -> high -> end, with the peak after the fraction `rise` of all steps, like torch's OneCycleLR.

    With `three_phase`, go low -> high -> low -> end, where the second phase is as long as the first. Raises UserError
    for a run of one step.
    """
    turn, last = config.rise * span.total - 1, span.total - 1
    if last == 0:
        raise UserError("config.schedule.name onecycle needs more than a single step: train longer")
    knots = [(0.0, low), (turn, high), *([(2 * turn, low)] if config.three_phase else []), (last, end)]

    def curve(t: np.ndarray) -> np.ndarray:
        value = np.full_like(t, low)
        for (begin, start), (finish, target) in itertools.pairwise(knots):
            length = finish - begin or np.inf  # no step lies within a phase of length 0
            value = np.where(t > begin, anneal(config.anneal, start, target, (t - begin) / length), value)
        return value

    return span.over_steps(curve)


def onecycle(peak: float, config: ConfigDict, span: Span) -> Schedule:
    """Go peak / start_divisor -> peak -> peak / (start_divisor x end_divisor); Smith & Topin (2018)."""
    low = peak / config.start_divisor
    return onecycle_curve(config, span, low, peak, low / config.end_divisor)


SCHEDULES: dict[str, Callable[[float, ConfigDict, Span], Schedule]] = {
    "constant": constant,
    "multistep": multistep,
    "step_decay": step_decay,
    "cosine": cosine,
    "warmup_cosine": warmup_cosine,
    "onecycle": onecycle,
}


def depends_on_length(config: ConfigDict, epochs: int, longer: int) -> bool:
    """Return whether the first `epochs` of the schedule `config.schedule` differ in a run of `longer` epochs."""
    steps_per_epoch = 10  # any number shows it
    spans = (Span(length, steps_per_epoch, config.per) for length in (epochs, longer))
    short, long = (SCHEDULES[config.name](1.0, config, span) for span in spans)
    steps = np.arange(epochs * steps_per_epoch)
    return cycles_momentum(config) or not np.array_equal(short(steps), long(steps))


def learning_rate(config: ConfigDict, span: Span) -> Schedule:
    """Return the schedule of the learning rate."""
    return SCHEDULES[config.schedule.name](config.optimizer.learning_rate, config.schedule, span)


def momentum(config: ConfigDict, span: Span) -> Schedule:
    """Return the schedule of the momentum (Adam's b1): max -> min -> max under onecycle, or else constant."""
    schedule = config.schedule
    if cycles_momentum(schedule):
        return onecycle_curve(schedule, span, schedule.max_momentum, schedule.min_momentum, schedule.max_momentum)
    return constant(config.optimizer[momentum_field(config.optimizer)], schedule, span)


def cycles_momentum(config: ConfigDict) -> bool:
    """Return whether the schedule of `config.schedule` sets the momentum, whatever `config.optimizer` says."""
    return config.name == "onecycle" and config.cycle_momentum


def momentum_field(config: ConfigDict) -> str:
    """Return the name of the field of `config.optimizer` that has its momentum."""
    return "b1" if config.name in ("adam", "adamw") else "momentum"
