"""A loss, gradient or weight that is not finite ends a run, is explained, and is in no checkpoint."""

import contextlib
import csv
import json
import re
import signal
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.faults.injection import SMALL, STEPS, at_step, end, newest, run, send
from resnet_flax.command_line import parse
from resnet_flax.data import host_feed
from resnet_flax.training.run import Run


@contextlib.contextmanager
def in_step(number, spoil):
    """Replace training step `number` (from 0) by `spoil`(step, now, state, totals, batch)."""
    step = Run.step

    def patched(self):
        sound = step(self)

        def spoiled(state, totals, batch, *given):
            return spoil(lambda *others: sound(*others, *given), state.step == number, state, totals, batch)

        return spoiled

    with mock.patch.object(Run, "step", patched):
        yield


def nan_pixel(step, now, state, totals, batch):
    image = batch["image"].at[5, 7, 7, 0].set(jnp.where(now, jnp.nan, batch["image"][5, 7, 7, 0]))
    return step(state, totals, batch | {"image": image})


def infinite_weight(step, now, state, totals, batch):
    state, totals = step(state, totals, batch)
    head = state.params["head"]
    spoiled = head | {"bias": jnp.where(now, jnp.inf, head["bias"])}
    return state.replace(params=state.params | {"head": spoiled}), totals


def refused(workdir, error: str) -> list[int]:
    """Check what is left after a bad step 11, and return the examples that it is said to have had."""
    assert re.match(r"error: the loss or a gradient is not finite at step 11, epoch 2, learning rate 0\.0\d+; ", error)
    assert error.endswith(f"listed in {workdir / 'nonfinite.json'}\n")
    assert error.count("\n") == 1
    details = json.loads((workdir / "nonfinite.json").read_text())
    assert (details["step"], details["epoch"], details["what"]) == (11, 2, "the loss or a gradient")
    assert 0 < details["learning_rate"] < 0.1 < details["momentum"] < 1
    step, history, _ = newest(workdir)
    assert (step, len(history)) == (STEPS, 1)
    with open(workdir / "metrics.csv", newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == [str(STEPS)]
    return details["training_examples"]


@pytest.mark.parametrize("feed", ["tfdata", "device"])
def test_nan_ends_the_run_and_names_its_batch(feed, undisturbed, tmp_path, capsys):
    words = [f"--config.data.feed={feed}"]
    with in_step(11, nan_pixel):
        assert run(tmp_path, *words) == 4
    named = refused(tmp_path, capsys.readouterr().err)
    _, [(config, _)], _ = parse([*SMALL, *words])
    stream = Run(config).stream
    batch = next(host_feed.batches(stream, 11))
    np.testing.assert_array_equal(stream.split.labels[named], batch["label"])
    # And without what spoiled it the run resumes from its last good checkpoint.
    assert run(tmp_path, *words) == 0
    assert end(tmp_path, *words) == end(undisturbed(*words), *words)


def test_value_that_is_not_finite_is_reported_even_if_its_details_cannot_be_written(tmp_path, capsys):
    (tmp_path / "nonfinite.json").mkdir()
    with in_step(11, nan_pixel):
        assert run(tmp_path) == 4
    error = capsys.readouterr().err
    assert "not finite at step 11" in error
    assert error.endswith("a --config.optimizer.clip_norm may help\n")


def test_stop_before_the_nan_is_noticed_saves_nothing_bad(tmp_path, capsys):
    with in_step(11, nan_pixel), at_step(12, send(signal.SIGTERM)):
        assert run(tmp_path) == 4
    refused(tmp_path, capsys.readouterr().err)


def test_weight_that_overflows_in_the_last_step_of_an_epoch_is_not_saved(tmp_path, capsys):
    """Its loss and gradient were finite, so only the weights themselves say so."""
    words = ["--config.data.validation=", "--config.train.patience=0"]
    with in_step(2 * STEPS - 1, infinite_weight):
        assert run(tmp_path, *words) == 4
    assert "the training state is not finite at step 15, epoch 2" in capsys.readouterr().err
    assert newest(tmp_path, *words)[0] == STEPS


def test_validation_that_is_not_finite_is_never_best(tmp_path, capsys):
    """Weights that are finite themselves, and too large to compute with."""

    def enormous(step, now, state, totals, batch):
        state, totals = step(state, totals, batch)
        grown = {name: jnp.where(now, 3e38, leaf) for name, leaf in state.average["params"]["head"].items()}
        params = state.average["params"] | {"head": grown}
        return state.replace(average=state.average | {"params": params}), totals

    with in_step(2 * STEPS - 1, enormous):
        assert run(tmp_path) == 4
    assert "val_loss is not finite at step 15, epoch 2" in capsys.readouterr().err
    assert newest(tmp_path)[0] == STEPS
