"""Training that begins on smaller images."""

from functools import partial

import jax
import numpy as np
import optax
import pytest

from resnet_flax.config.checks import complete
from resnet_flax.config.defaults import get_config
from resnet_flax.models.resnet import ResNet
from resnet_flax.training.resizing import Resizing
from resnet_flax.training.run import Run
from resnet_flax.training.step import Totals, init_state, train_step


def test_steps_are_on_smaller_images_until_all_of_these_are_done():
    model, optimizer = ResNet((1,), (4,), stem_dropout=0.5), optax.sgd(0.1)
    state = init_state(model, optimizer, 0, (16, 16, 3))
    step = jax.jit(partial(train_step, model=model, optimizer=optimizer, seed=0))
    resized = jax.jit(partial(train_step, model=model, optimizer=optimizer, seed=0, resizing=Resizing(8, 2)))
    # Linear interpolation weighs the pixels under a triangle as wide as four of them: 1/8, 3/8, 3/8 and 1/8, and at the
    # border, where one of the four is missing, 3/7, 3/7 and 1/7.
    weights = np.zeros((8, 18), np.float32)
    for row in range(8):
        weights[row, 2 * row : 2 * row + 4] = (1, 3, 3, 1)
    weights = weights[:, 1:17] / weights[:, 1:17].sum(1, keepdims=True)
    random = np.random.default_rng(0)
    for number in range(3):
        images = random.normal(size=(4, 16, 16, 3)).astype(np.float32)
        small = np.einsum("ih,bhwc,jw->bijc", weights, images, weights)
        labels = np.arange(4, dtype=np.int32)
        after, totals = resized(state, Totals.zero(), {"image": images, "label": labels})
        expected = step(state, Totals.zero(), {"image": small if number < 2 else images, "label": labels})
        for found, other in zip(jax.tree.leaves((after, totals)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(found, other, rtol=1e-4, atol=1e-5)
        state = after
    assert int(state.step) == 3


@pytest.mark.parametrize(("share", "steps"), [(0.0, 0), (0.5, 6), (0.3, 3), (0.99, 11)])
def test_a_share_of_the_steps_is_on_small_images_and_never_all(share, steps):
    config = get_config()
    config.data.update(train_examples=64)
    config.train.update(batch_size=16, epochs=3, small_share=share, small_size=16)
    found = Run(complete(config)).resizing()
    assert found == (Resizing(16, steps) if steps else None)
