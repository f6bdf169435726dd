"""Schedules as functions of arrays; their values are compared with PyTorch's in test_fidelity.py."""

import numpy as np
import pytest

from resnet_flax.config.defaults import get_config
from resnet_flax.optim import schedules


@pytest.mark.parametrize("per", ["epoch", "step"])
@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_many_steps_at_once_are_each_of_them(name, per):
    config = get_config()
    config.schedule.update(name=name, per=per, milestones=(3, 5, 8), every=2)
    span = schedules.Span(epochs=10, steps_per_epoch=3, per=per)
    steps = np.arange(30)
    for schedule in (schedules.learning_rate(config, span), schedules.momentum(config, span)):
        together = schedule(steps)
        assert together.shape == steps.shape
        np.testing.assert_allclose(together, [schedule(step) for step in steps], rtol=0, atol=1e-7)
