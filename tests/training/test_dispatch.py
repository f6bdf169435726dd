"""The result does not depend on how steps reach the devices, nor on the length of a dispatch."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.linen.dtypes import promote_dtype

from resnet_flax.command_line import parse
from resnet_flax.config.defaults import get_config
from resnet_flax.data.augment.policy import Policy
from resnet_flax.data.datasets.arrays import Split
from resnet_flax.data.stream import Stream
from resnet_flax.models import convolution
from resnet_flax.models.resnet import ResNet
from resnet_flax.optim import optimizers
from resnet_flax.parallel.devices import AXIS, PARALLEL
from resnet_flax.training import dispatch
from resnet_flax.training.run import Run
from resnet_flax.training.step import Totals, init_state, kernels_in, train_step

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.py"
STEPS = 18  # three epochs of 6


@pytest.fixture(scope="module")
def stream() -> Stream:
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (50, 8, 8, 3), np.uint8), rng.integers(0, 10, 50, np.int32))
    return Stream(split, Policy("crop(1)|flip|normalize(half)"), 8, seed=3, concat_original=False)


def trained(start, stream: Stream, way: str, lengths: list[int], dtype=jnp.float32) -> list[np.ndarray]:
    """Return the state and totals after STEPS steps, in dispatches of `lengths` in turn."""
    parallel = PARALLEL[way]()
    model = ResNet((1,), (4,), block_dropout=0.2, drop_path=0.5, dtype=dtype, axis_name=parallel.axis_name)
    config = get_config().optimizer
    optimizer = optimizers.build(config)

    def step(state, totals, batch, scheduled, seed, kernels=()):
        given = dict(model=model, optimizer=optimizer, ema_decay=0.9, axis_name=parallel.axis_name)
        return train_step(state, totals, batch, (), kernels, seed=seed, hyperparams=scheduled, **given)

    def scheduled(epoch):
        rates = np.linspace(0.05, 0.01, 18, dtype=np.float32)[6 * epoch : 6 * epoch + 6]
        return dict(learning_rate=rates, momentum=1 - 2 * rates, weight_decay=rates / 50)

    state = parallel.replicate(init_state(model, optimizer, 0, (8, 8, 3), averaged=True))
    totals = parallel.replicate(Totals.zero())
    advance, done, asked = start(step, stream, scheduled, 0, parallel, np.uint32(0)), 0, 0
    while done < STEPS:
        state, totals, taken = advance(state, totals, min(lengths[asked % len(lengths)], STEPS - done))
        done, asked = done + taken, asked + 1
    assert int(state.step) == STEPS
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state, totals))]


def test_length_of_a_dispatch_changes_no_bit(stream):
    """One compiled loop serves all lengths."""
    whole = trained(dispatch.device_steps, stream, "jit", [100])
    for lengths in ([1], [4, 1]):
        for a, b in zip(whole, trained(dispatch.device_steps, stream, "jit", lengths), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("way", ["jit", "pmap"])
def test_loop_of_steps_equals_single_steps(stream, way):
    """Also where the compiler knows the length, and the last steps of a dispatch are beyond the end of the epoch."""
    single, *others = (trained(partial(dispatch.device_steps, length=n), stream, way, [4]) for n in (1, 0, 4))
    for several in others:
        for a, b in zip(single, several, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_batches_from_the_host_and_from_the_device_train_alike(stream):
    fed = (
        trained(start, stream, "jit", [1]) for start in (dispatch.host_steps, partial(dispatch.device_steps, length=1))
    )
    for a, b in zip(*fed, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_kernels_rounded_a_step_before_train_alike(stream, monkeypatch):
    """As on a GPU, where the gradient of a kernel has the dtype of the network."""
    monkeypatch.setattr(convolution, "with_gradients", jax.lax.conv_general_dilated)
    monkeypatch.setattr(convolution, "_promote_all_but_kernel", promote_dtype)
    before = partial(dispatch.device_steps, rounded=lambda state: kernels_in(jnp.bfloat16, state.params))
    for a, b in zip(
        *(trained(start, stream, "jit", [4], jnp.bfloat16) for start in (before, dispatch.device_steps)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_program_for_a_gpu_trains_alike(stream, monkeypatch):
    """It packs small arrays, and sums in pairs and groups."""
    expected = trained(dispatch.device_steps, stream, "jit", [4])
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    for a, b in zip(expected, trained(dispatch.device_steps, stream, "jit", [4]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("steps", "length"), [(50, 10), (1250, 10), (1563, 9), (16, 16), (3, 3), (1409, 15)])
def test_groups_waste_the_fewest_steps(steps, length):
    assert dispatch.group_length(steps) == length


@pytest.mark.parametrize("way", ["jit", "pmap"])
def test_runs_that_differ_in_seed_rate_momentum_and_decay_are_the_same_program(way, monkeypatch):
    changes = ("seed=7", "optimizer.learning_rate=0.02", "optimizer.momentum=0.5", "optimizer.weight_decay=1e-3")
    before = program(way, monkeypatch)
    assert before == program(way, monkeypatch, *changes)
    assert before != program(way, monkeypatch, "optimizer.nesterov=True")


def program(way: str, monkeypatch, *changes: str) -> str:
    """Return the program of a tiny network's training steps as the compiler gets it."""
    lowered = []

    def lowering(self, step, sharded, donate=()):
        def lower(*arguments):
            axes = tuple(0 if index in sharded else None for index in range(len(arguments)))
            compiled = jax.jit(step) if way == "jit" else jax.pmap(step, axis_name=AXIS, in_axes=axes, out_axes=None)
            lowered.append(compiled.lower(*arguments).as_text())
            return arguments[:2]

        return lower

    monkeypatch.setattr(type(PARALLEL[way]()), "compile", lowering)
    small = ("model.blocks=(1,)", "model.widths=(4,)", "model.block_dropout=0.1", "data.policy=crop(4)|normalize(half)")
    fields = (*small, f"parallel={way}", "data.feed=device", "train.mixup=0.2", "schedule.name=cosine", *changes)
    _, [(config, _)], _ = parse([f"--config={QUICKSTART}", *(f"--config.{field}" for field in fields)])
    run = Run(config)
    run.advance(0)(run.fresh_state(), run.parallel.replicate(Totals.zero()), 1)
    return lowered[0]


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
    assert state.unaveraged["params"] is state.params
