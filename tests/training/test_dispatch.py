"""The result does not depend on how steps reach the devices, nor on the length of a dispatch."""

from functools import partial

import jax
import numpy as np
import optax
import pytest

from resnet_flax.data.augment.policy import Policy
from resnet_flax.data.datasets.arrays import Split
from resnet_flax.data.stream import Stream
from resnet_flax.models.resnet import ResNet
from resnet_flax.parallel.devices import PARALLEL
from resnet_flax.training import dispatch
from resnet_flax.training.step import Totals, init_state, train_step

STEPS = 13  # two epochs of 6 and one more


@pytest.fixture(scope="module")
def stream() -> Stream:
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (50, 8, 8, 3), np.uint8), rng.integers(0, 10, 50, np.int32))
    return Stream(split, Policy("crop(1)|flip|normalize(half)"), 8, seed=3, concat_original=False)


def trained(start, stream: Stream, way: str, lengths: list[int]) -> list[np.ndarray]:
    """Return the state and totals after STEPS steps, in dispatches of `lengths` in turn."""
    parallel = PARALLEL[way]()
    model = ResNet((1,), (4,), block_dropout=0.2, drop_path=0.5, axis_name=parallel.axis_name)
    optimizer = optax.sgd(0.05, momentum=0.9)
    step = partial(train_step, model=model, optimizer=optimizer, seed=0, ema_decay=0.9, axis_name=parallel.axis_name)
    state = parallel.replicate(init_state(model, optimizer, 0, (8, 8, 3), averaged=True))
    totals = parallel.replicate(Totals.zero())
    advance, done, asked = start(step, stream, 0, parallel), 0, 0
    while done < STEPS:
        state, totals, taken = advance(state, totals, min(lengths[asked % len(lengths)], STEPS - done))
        done, asked = done + taken, asked + 1
    assert int(state.step) == STEPS
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state, totals))]


def test_length_of_a_dispatch_changes_no_bit(stream):
    """One compiled loop serves all lengths."""
    whole = trained(partial(dispatch.device_steps, looped=True), stream, "jit", [100])
    for lengths in ([1], [4, 1]):
        for a, b in zip(
            whole, trained(partial(dispatch.device_steps, looped=True), stream, "jit", lengths), strict=True
        ):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("way", ["jit", "pmap"])
def test_loop_of_steps_equals_single_steps(stream, way):
    single, looped = (trained(partial(dispatch.device_steps, looped=on), stream, way, [4]) for on in (False, True))
    for a, b in zip(single, looped, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_batches_from_the_host_and_from_the_device_train_alike(stream):
    fed = (
        trained(start, stream, "jit", [1])
        for start in (dispatch.host_steps, partial(dispatch.device_steps, looped=False))
    )
    for a, b in zip(*fed, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_average_follows_the_weights():
    model, optimizer = ResNet((1,), (4,)), optax.sgd(0.1)
    state = init_state(model, optimizer, 0, (8, 8, 3), averaged=True)
    rng = np.random.default_rng(0)
    batch = {"image": rng.normal(size=(4, 8, 8, 3)).astype(np.float32), "label": rng.integers(0, 10, 4, np.int32)}
    step = jax.jit(partial(train_step, model=model, optimizer=optimizer, seed=0, ema_decay=0.15))
    expected = np.asarray(state.params["head"]["kernel"])
    for decay in (0.1, 0.15, 0.15):  # 1/10 and 2/11, but at most 0.15
        state, _ = step(state, Totals.zero(), batch)
        expected = decay * expected + (1 - decay) * np.asarray(state.params["head"]["kernel"])
    np.testing.assert_allclose(state.variables["params"]["head"]["kernel"], expected, rtol=1e-5)
    assert state.trained.variables["params"] is state.params
