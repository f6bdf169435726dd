"""A run that was stopped resumes to the very same end."""

import os
import signal
import time
from functools import partial

import jax
import numpy as np
import pytest

from benchmarks.faults.injection import (
    EXIT_CODES,
    STEPS,
    at_step,
    end,
    in_evaluation,
    in_save,
    newest,
    restored,
    run,
    send,
    start,
)
from resnet_flax.training.run import Run
from resnet_flax.training.signals import StopRequest

TERM, INT = signal.SIGTERM, signal.SIGINT
WAYS = {
    "tfdata": ["--config.data.feed=tfdata"],
    "device": ["--config.data.feed=device"],
    "pmap": ["--config.data.feed=device", "--config.parallel=pmap"],
}


@pytest.mark.parametrize(
    ("way", "first", "second"), [("tfdata", TERM, INT), ("device", INT, TERM), ("pmap", TERM, INT)]
)
def test_run_stopped_at_every_stage_ends_as_if_it_had_not_been(way, first, second, undisturbed, tmp_path, capsys):
    """Stopped in the middle of epoch 1, in its evaluation, while it is saved, and before the last step of all."""
    words = WAYS[way]
    for stopping, signum, stopped_at in (
        (at_step(3, send(first)), first, (4, 0)),
        (in_evaluation(send(second)), second, (STEPS, 0)),
        (in_save(1, send(first)), first, (STEPS, 1)),
        (at_step(3 * STEPS - 1, send(second)), second, (3 * STEPS, 2)),
    ):
        with stopping:
            assert run(tmp_path, *words) == EXIT_CODES[signum]
        assert "the same command resumes from here" in capsys.readouterr().err
        step, history, _ = newest(tmp_path, *words)
        assert (step, len(history)) == stopped_at
    assert run(tmp_path, *words) == 0
    assert "stopped early after epoch 3" in capsys.readouterr().out
    assert end(tmp_path, *words) == end(undisturbed(*words), *words)


def test_stopped_while_a_run_of_several_seeds_is_prepared(tmp_path, monkeypatch, capsys):
    """The signal reaches the request around all seeds, before the run has one of its own."""
    prepare = Run.__init__

    def signalled(*arguments):
        send(TERM)()
        prepare(*arguments)

    monkeypatch.setattr(Run, "__init__", signalled)
    assert run(tmp_path, "--seeds=2") == 143
    assert capsys.readouterr().err == "stopped by SIGTERM; the same command resumes from here\n"
    assert newest(tmp_path / "seed0")[:2] == (0, []) and not (tmp_path / "seed1").exists()


def test_ignored_signals_stay_ignored(monkeypatch):
    """A shell starts a job in the background with Ctrl-C ignored, and nohup ignores the end of the terminal."""
    before = {signum: signal.signal(signum, signal.SIG_IGN) for signum in (INT, signal.SIGHUP)}
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), INT)
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested()
            os.kill(os.getpid(), TERM)
            assert stop.requested()
        assert {signum: signal.getsignal(signum) for signum in before} == dict.fromkeys(before, signal.SIG_IGN)
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@pytest.mark.parametrize("seconds", [1, 5])
def test_stopped_while_it_compiles(seconds, tmp_path):
    """First the program of the initial state, then that of the steps, for which XLA takes many seconds.

    Python handles no signal before that is done.
    """
    words = ["--config.model.blocks=(3,5,3)", "--config.model.widths=(64,128,256)"]
    with start(tmp_path, *words, JAX_ENABLE_COMPILATION_CACHE="0") as process:
        assert "parameters" in process.stdout.readline()
        time.sleep(seconds)
        stopped = time.monotonic()
        process.send_signal(TERM)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (143, "")
    assert err == "stopped by SIGTERM; the same command resumes from here\n"
    assert time.monotonic() - stopped < 10  # waiting for XLA takes longer


STOP_AT_STEP_19 = """
import sys
from pathlib import Path
from benchmarks.faults.injection import SMALL, at_step, run, send

*words, workdir = sys.argv[1 + len(SMALL):]
with at_step(19, send(15)):
    sys.exit(run(Path(workdir.removeprefix("--workdir=")), *words))
"""


def test_one_device_then_four_then_one(undisturbed, tmp_path):
    # A rounding error stays one: it turns no ReLU on, and is not multiplied much.
    smooth = ["--config.model.activation=gelu", "--config.optimizer.learning_rate=0.01"]
    words = ["--config.data.feed=device", *smooth]
    with at_step(10, send(TERM)):
        assert run(tmp_path, *words) == 143
    with start(tmp_path, *words, python=("-c", STOP_AT_STEP_19), JAX_NUM_CPU_DEVICES="4") as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert "on 4 x cpu" in out
    assert "resuming at step 11" in out
    assert newest(tmp_path, *words)[0] == 20
    assert run(tmp_path, *words) == 0
    ours, theirs = (restored(workdir, "newest", *words) for workdir in (tmp_path, undisturbed(*words)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-6), ours.tree, theirs.tree)
    assert [row["val_accuracy"] for row in ours.history] == [row["val_accuracy"] for row in theirs.history]
