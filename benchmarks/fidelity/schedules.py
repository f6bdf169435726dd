"""Learning rates and momenta over whole runs against torch.optim.lr_scheduler and the rates that report 004 logged."""

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np

from benchmarks.fidelity import Row, absolute
from resnet_flax.config.defaults import get_config
from resnet_flax.optim import schedules

CASES: dict[str, dict] = {
    "multistep (report 000)": dict(name="multistep", epochs=75, milestones=(30, 40, 60)),
    "step decay (report 004, tuning)": dict(name="step_decay", epochs=50, peak=0.01, every=3, factor=0.7),
    "OneCycle (report 001)": dict(name="onecycle", epochs=65),
    "OneCycle, linear": dict(name="onecycle", epochs=20, anneal="linear", rise=0.25),
    "OneCycle, three phases": dict(name="onecycle", epochs=20, three_phase=True),
    "OneCycle, three phases, linear": dict(name="onecycle", epochs=20, three_phase=True, anneal="linear", rise=0.4),
    "OneCycle for Adam": dict(name="onecycle", epochs=20, optimizer="adam", peak=0.01, min_momentum=0.8),
    "OneCycle, steady momentum": dict(name="onecycle", epochs=20, cycle_momentum=False),
    "cosine": dict(name="cosine", epochs=80),
    "cosine to a hundredth": dict(name="cosine", epochs=30, end_factor=0.01),
    "warmup_cosine": dict(name="warmup_cosine", epochs=20, end_factor=1e-3),
    "warmup_cosine (report 004)": dict(
        name="warmup_cosine", epochs=50, peak=0.01, warmup_offset=2, decay=50, end_factor=1e-3
    ),
}
# Epoch (from 0) -> learning rate, from the log that goes with report 004.
LOGGED = {
    0: 0.004, 1: 0.006, 2: 0.008, 3: 0.01, 4: 0.01, 5: 0.00999014, 6: 0.00996061, 49: 0.00025447
}  # fmt: skip


def settings(case: dict, per: str) -> SimpleNamespace:
    """Return the fields of a config that schedules read, for one of CASES."""
    config = get_config()
    config.schedule.per = per
    config.schedule.update({field: value for field, value in case.items() if field in config.schedule})
    config.optimizer.name = case.get("optimizer", "sgd")
    config.optimizer.learning_rate = case.get("peak", 0.1)
    return SimpleNamespace(schedule=config.schedule, optimizer=config.optimizer, epochs=case["epochs"])


def ours(case: dict, per: str, steps_per_epoch: int) -> np.ndarray:
    """Return (learning rate, momentum) at each step of the run, (steps, 2) float64."""
    config = settings(case, per)
    span = schedules.Span(config.epochs, steps_per_epoch, per)
    steps = np.arange(config.epochs * steps_per_epoch)
    curves = [schedule(config, span)(steps) for schedule in (schedules.learning_rate, schedules.momentum)]
    return np.stack(curves, axis=-1).astype(np.float64)


def theirs(case: dict, per: str, steps_per_epoch: int) -> np.ndarray:
    """Return the same from PyTorch's schedulers, stepped after each epoch or each step."""
    import torch

    config = settings(case, per)
    peak, adam = config.optimizer.learning_rate, config.optimizer.name == "adam"
    parameters = [torch.zeros(1)]
    optimizer = torch.optim.Adam(parameters, peak) if adam else torch.optim.SGD(parameters, peak, momentum=0.9)
    advance = scheduler(config, optimizer, 1 if per == "epoch" else steps_per_epoch)
    rates = []
    for step in range(config.epochs * steps_per_epoch):
        if step and (per == "step" or step % steps_per_epoch == 0):
            optimizer.step()  # first, or PyTorch warns
            advance()
        group = optimizer.param_groups[0]
        rates.append((group["lr"], group["betas"][0] if adam else group["momentum"]))
    return np.array(rates)


def scheduler(config, optimizer, units: int):
    """Return a function that advances PyTorch's scheduler by one step; an epoch has this many `units`."""
    from torch.optim import lr_scheduler as torch_schedules

    fields, total = config.schedule, config.epochs * units
    peak = config.optimizer.learning_rate
    if fields.name == "multistep":
        milestones = [epoch * units for epoch in fields.milestones]
        return torch_schedules.MultiStepLR(optimizer, milestones, fields.factor).step
    if fields.name == "step_decay":
        return torch_schedules.StepLR(optimizer, fields.every * units, fields.factor).step
    if fields.name == "cosine":
        return torch_schedules.CosineAnnealingLR(optimizer, total, peak * fields.end_factor).step
    if fields.name == "onecycle":
        return torch_schedules.OneCycleLR(
            optimizer,
            peak,
            total_steps=total,
            pct_start=fields.rise,
            anneal_strategy="linear" if fields.anneal == "linear" else "cos",
            cycle_momentum=fields.cycle_momentum,
            base_momentum=fields.min_momentum,
            max_momentum=fields.max_momentum,
            div_factor=fields.start_divisor,
            final_div_factor=fields.end_divisor,
            three_phase=fields.three_phase,
        ).step
    return warmup_cosine(config, optimizer, units)


def warmup_cosine(config, optimizer, units: int):
    """Return a function that takes the steps of a LambdaLR and then of a CosineAnnealingLR, both made at the start."""
    from torch.optim import lr_scheduler as torch_schedules

    fields, peak = config.schedule, config.optimizer.learning_rate
    warmup = fields.warmup * units
    decay = fields.decay * units or config.epochs * units - (warmup - 1)
    rise = torch_schedules.LambdaLR(optimizer, lambda t: min((t + fields.warmup_offset) / warmup, 1.0))
    fall = torch_schedules.CosineAnnealingLR(optimizer, decay, peak * fields.end_factor)
    following = iter([rise] * (warmup - 1) + [fall] * (config.epochs * units))
    return lambda: next(following).step()


def compare() -> Iterator[Row]:
    """Compare all cases, stepped per epoch and per step, over epochs of 352 steps (45,000 images in batches of 128)."""
    for label, case in CASES.items():
        for per in ("epoch", "step"):
            difference = absolute(ours(case, per, 352), theirs(case, per, 352))
            yield Row(f"{label}, per {per}: rate and momentum", difference, 1e-7)
    rates = ours(CASES["warmup_cosine (report 004)"], "epoch", 352)[::352, 0]
    logged = max(abs(rates[epoch] - rate) for epoch, rate in LOGGED.items())
    yield Row("warmup_cosine: the rates that report 004 logged (to 8 decimals)", logged, 1e-8)


def golden() -> dict[str, np.ndarray]:
    """Return PyTorch's curves for every case, over epochs of 3 steps."""
    return {f"{label}/{per}": theirs(case, per, 3) for label, case in CASES.items() for per in ("epoch", "step")}
