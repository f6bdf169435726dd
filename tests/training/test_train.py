"""Whole runs of a small network: what they leave, how they resume, how they end."""

import contextlib
import csv
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jax
import pytest
from jax.errors import JaxRuntimeError

from benchmarks.faults.injection import at_step, send
from resnet_flax.command_line import parse
from resnet_flax.data.datasets import load
from resnet_flax.errors import UserError
from resnet_flax.main import main
from resnet_flax.training import train as training
from resnet_flax.training.run import Run
from resnet_flax.training.step import Totals
from resnet_flax.training.train import out_of_patience
from resnet_flax.workdir.checkpoints import Checkpoints, checksum, json_checksum
from resnet_flax.workdir.predictions import Predictions

ROOT = Path(__file__).parents[2]
SMALL = [
    f"--config={ROOT}/configs/quickstart.py",
    "--config.model.blocks=(1,)",
    "--config.model.widths=(4,)",
    "--config.model.block_dropout=0.1",
    "--config.data.train_examples=256",
    "--config.train.epochs=3",
    "--config.train.batch_size=32",
]


def newest(workdir: Path, words: list[str] = SMALL) -> tuple[int, list, int]:
    """Return (step, history, checksum) of the newest checkpoint of a run."""
    _, [(config, _)], _ = parse(words)
    run = Run(config)
    tree = {"state": run.fresh_state(), "totals": Totals.zero()}
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        found = checkpoints.restore_newest(tree)
    return found.step, found.history, checksum(found)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """An undisturbed run."""
    workdir = tmp_path_factory.mktemp("finished")
    assert main([*SMALL, f"--workdir={workdir}"]) == 0
    return workdir


def test_a_process_with_arrays_of_64_bits_trains_the_same(finished, tmp_path, undrawn):
    with jax.enable_x64(True):
        assert main([*SMALL, f"--workdir={tmp_path}"]) == 0
    assert (tmp_path / "metrics.csv").read_bytes() == (finished / "metrics.csv").read_bytes()


@pytest.mark.parametrize(
    ("size", "advice"),
    [(32, "try 16"), (1, "it cannot be smaller, so try a smaller network, or another device")],
)
def test_too_little_memory_names_the_next_smaller_batch_size(size, advice, tmp_path, monkeypatch, capsys):
    def exhausted(loop):
        raise JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")

    monkeypatch.setattr("resnet_flax.training.train.Loop.fit", exhausted)
    assert main([*SMALL, f"--config.train.batch_size={size}", f"--workdir={tmp_path}"]) == 1
    message = f"error: there is not enough memory for config.train.batch_size {size}: {advice}\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("flags", "noted"),
    [
        ([], []),
        (["optimizer.eps=0.5"], ["no effect with config.optimizer.name sgd: config.optimizer.eps"]),
    ],
)
def test_fields_without_effect_are_noted(flags, noted, tmp_path, monkeypatch, capsys):
    def stop(loop):
        raise UserError("enough")

    monkeypatch.setattr("resnet_flax.training.train.Loop.fit", stop)
    assert main([*SMALL, *(f"--config.{flag}" for flag in flags), f"--workdir={tmp_path}"]) == 1
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert notes == [f"note: {line}" for line in noted]


def test_run_leaves_what_it_promises(finished):
    with open(finished / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["step"] for row in rows] == ["8", "16", "24"]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    results = json.loads((finished / "report" / "results.json").read_text())
    best = max(rows, key=lambda row: float(row["val_accuracy"]))
    assert results["chosen_epoch"] == int(best["epoch"])
    assert results["val_accuracy"] == float(best["val_accuracy"])
    assert results["test_examples"] == 360
    assert 0 <= results["test_accuracy"] <= 1
    for name in ("loss.png", "accuracy.png", "learning_rate.png"):
        assert (finished / "report" / name).stat().st_size > 5000
    assert "parameters:" in (finished / "report" / "summary.txt").read_text()
    assert json.loads((finished / "config.json").read_text())["model"]["widths"] == [4]
    assert list(finished.glob("events.out.tfevents.*"))


def test_results_are_of_the_best_checkpoint(finished):
    results = json.loads((finished / "report" / "results.json").read_text())
    _, [(config, _)], _ = parse(SMALL)
    run = Run(config)
    tree = {"state": run.fresh_state(), "totals": Totals.zero()}
    with Checkpoints(finished / "checkpoints") as checkpoints:
        best = checkpoints.restore(8 * results["chosen_epoch"], tree).tree["state"]
    for name, split in (("test", run.data.test), ("val", run.data.validation)):
        found = run.classifier.evaluate(best.variables, split)
        assert (results[f"{name}_loss"], results[f"{name}_accuracy"]) == (found.loss, found.accuracy)


def test_results_tell_the_chosen_epoch_from_the_last_and_how_they_came_about(finished):
    with open(finished / "metrics.csv", newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    results = json.loads((finished / "report" / "results.json").read_text())
    chosen = rows[results["chosen_epoch"] - 1]
    for name in ("train_loss", "train_accuracy"):
        assert (results[name], results[f"last_{name}"]) == (chosen[name], rows[-1][name])
    assert results["seed"] == 0
    assert 0 < results["training_seconds"] < 100
    assert abs(datetime.fromisoformat(results["date"]) - datetime.now(UTC)) < timedelta(minutes=10)
    assert re.fullmatch(r"[0-9a-f]{7,}(-dirty)?|\d+\.\d+\.\d+", results["code"])


def test_seconds_of_training_are_summed_over_the_parts_of_a_run(undrawn, tmp_path):
    words = [*SMALL, f"--workdir={tmp_path}"]
    with at_step(8, send(15)):
        assert main(words) == 143
    [path] = (tmp_path / "checkpoints").glob("9/record/metadata")
    record = json.loads(path.read_text())
    record["run"]["seconds"] += 3600
    record["run_checksum"] = json_checksum(record["run"])
    path.write_text(json.dumps(record))
    assert main(words) == 0
    assert 3600 < json.loads((tmp_path / "report" / "results.json").read_text())["training_seconds"] < 3700


def test_finished_run_is_not_run_again(finished, capsys):
    before = (finished / "report" / "results.json").stat().st_mtime_ns
    assert main([*SMALL, f"--workdir={finished}"]) == 0
    assert "is finished" in capsys.readouterr().out
    assert (finished / "report" / "results.json").stat().st_mtime_ns == before


def test_another_config_in_the_workdir_is_refused_with_the_difference(finished, capsys):
    assert main([*SMALL, "--config.optimizer.learning_rate=0.05", f"--workdir={finished}"]) == 1
    error = capsys.readouterr().err
    assert "config.optimizer.learning_rate: 0.1 -> 0.05" in error
    assert error.count("\n") == 1


def test_report_verb_draws_again(finished, capsys):
    (finished / "report" / "loss.png").unlink()
    assert main(["report", *SMALL, f"--workdir={finished}"]) == 0
    assert (finished / "report" / "loss.png").exists()


@pytest.fixture(scope="module")
def again(tmp_path_factory) -> tuple[Path, str, str]:
    """The same run in a process that compiles everything itself: (workdir, stdout, stderr)."""
    workdir = tmp_path_factory.mktemp("again")
    command = [sys.executable, "-m", "resnet_flax.main", *SMALL, f"--workdir={workdir}"]
    alone = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "0"}
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, timeout=120, check=True)
    return workdir, done.stdout, done.stderr


def test_same_seed_gives_the_same_bits(finished, again):
    workdir, _, _ = again
    assert newest(workdir) == newest(finished)
    assert (workdir / "metrics.csv").read_bytes() == (finished / "metrics.csv").read_bytes()


def test_each_epoch_is_one_plain_line_without_a_terminal(again):
    _, out, err = again
    lines = out.splitlines()
    assert len([line for line in lines if line.startswith("epoch ")]) == 3
    assert len(lines) == 3 + 3  # and what is trained before, the result and where the report is after
    assert re.fullmatch(
        r"epoch 1/3  loss \d\.\d{4} [\d.]+%  val \d\.\d{4} [\d.]+%  lr \S+  [\d,]+ img/s",
        lines[1],
    )
    assert "\r" not in out and "\x1b" not in out
    assert err == ""


def test_terminal_shows_a_bar(undrawn, tmp_path, monkeypatch):
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (24, 100))
    parts = []

    def read():
        with open(reader, "rb", buffering=0) as screen, contextlib.suppress(OSError):  # how the end of a terminal reads
            while part := screen.read(65536):
                parts.append(part)

    reading = threading.Thread(target=read)
    reading.start()
    with open(writer, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        assert main([*SMALL, f"--workdir={tmp_path}"]) == 0
    reading.join()
    text = b"".join(parts).decode()
    assert "\r" in text
    assert re.search(r"loss \d\.\d{4} acc [\d.]+% lr \S+ [\d,]+ img/s \S+ left", text)
    assert text.count("  val ") == 3


def test_a_dispatch_on_a_slow_cpu_is_no_longer_than_it_should_be(undrawn, tmp_path, monkeypatch, capsys):
    """Or a signal would be answered late; and the speed counts no step that it has not timed."""
    advance_of, sent = Run.advance, []

    def slow(run, first_step):
        advance = advance_of(run, first_step)

        def after_a_while(state, totals, most):
            *after, taken = jax.block_until_ready(advance(state, totals, most))
            time.sleep(0.02 * taken)
            sent.append(taken)
            return *after, taken

        return after_a_while

    monkeypatch.setattr(Run, "advance", slow)
    monkeypatch.setattr(training, "CPU_DISPATCH_SECONDS", 0.06)
    words = [*SMALL, "--config.train.batch_size=8", "--config.train.epochs=2"]
    assert main([*words, f"--workdir={tmp_path}"]) == 0
    assert sum(sent) == 64
    assert max(sent) <= 3
    speeds = re.findall(r"([\d,]+) img/s", capsys.readouterr().out)
    assert len(speeds) == 2
    assert max(float(speed.replace(",", "")) for speed in speeds) <= 8 / 0.02


def test_an_epoch_of_one_step_that_compiles_has_no_speed(undrawn, tmp_path, capsys):
    words = [*SMALL, "--config.train.batch_size=256", "--config.train.epochs=2"]
    assert main([*words, f"--workdir={tmp_path}"]) == 0
    first, second = (line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch "))
    assert "img/s" not in first
    assert "img/s" in second


def test_diverging_run_has_its_own_exit_code(tmp_path, capsys):
    words = [*SMALL, "--config.optimizer.learning_rate=1e30", "--config.schedule.name=constant"]
    assert main([*words, f"--workdir={tmp_path}"]) == 4
    error = capsys.readouterr().err
    assert re.search(r"not finite at step \d+, epoch 1, learning rate 1e\+30", error)
    assert not (tmp_path / "report").exists()
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_patience_ends_a_run(tmp_path):
    row = {"val_accuracy": 0.5, "val_loss": 1.0}
    _, [(config, _)], _ = parse([*SMALL, "--config.train.patience=2", "--config.train.min_delta=0.01"])
    flat = [row | {"val_accuracy": value} for value in (0.5, 0.505, 0.5)]
    assert not out_of_patience(flat[:2], config.train)
    assert out_of_patience(flat, config.train)
    assert not out_of_patience([*flat[:2], row | {"val_accuracy": 0.6}], config.train)


def test_without_validation_the_last_epoch_is_the_result(undrawn, tmp_path):
    words = [*SMALL, "--config.data.train=train", "--config.data.validation="]
    assert main([*words, f"--workdir={tmp_path}"]) == 0
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert results["chosen_epoch"] == 3
    assert "val_accuracy" not in results


def test_a_test_loss_that_is_not_finite_is_no_result(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Predictions, "loss", math.inf)
    words = [*SMALL, "--config.train.epochs=1", "--config.data.train=train", "--config.data.validation="]
    assert main([*words, f"--workdir={tmp_path}"]) == 4
    assert capsys.readouterr().err.startswith("error: the test loss is not finite at step ")
    assert not (tmp_path / "report" / "results.json").exists()


@pytest.mark.parametrize("held_out", ["train[90%:]", ""])
def test_run_without_a_test_split_does_not_read_or_mention_one(finished, tmp_path, held_out, capsys, monkeypatch):
    """Choosing a recipe must not look at the test split: it is not even read."""
    read = load.read_split
    names = []
    monkeypatch.setattr(load, "read_split", lambda *split: names.append(split[1]) or read(*split))
    assert main([*SMALL, f"--config.data.validation={held_out}", "--config.data.test=", f"--workdir={tmp_path}"]) == 0
    assert set(names) == {"train"}
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert not [name for name in results if name.startswith("test_")]
    page, out = (tmp_path / "report" / "report.html").read_text(), capsys.readouterr().out
    assert "test accuracy" not in page and "On the test split" not in page
    assert ("On the validation split" in page) == bool(held_out)
    if held_out:
        assert (tmp_path / "metrics.csv").read_bytes() == (finished / "metrics.csv").read_bytes()
        assert f"validation accuracy {results['val_accuracy']:.2%}" in out
        assert "no test: config.data.test is empty" in out
    else:
        assert "epoch 3: nothing to evaluate on" in out
    assert main(["report", str(finished), str(tmp_path), f"--output={tmp_path / 'both'}"]) == 0


def test_pmap_trains_too(undrawn, tmp_path):
    assert main([*SMALL, "--config.parallel=pmap", "--config.data.feed=device", f"--workdir={tmp_path}"]) == 0


def test_network_learns_the_digits(undrawn, tmp_path):
    """Far enough above chance (10 %) to show that data, labels, network and optimizer fit together."""
    words = [SMALL[0], "--config.model.widths=(8,16,16)", "--config.train.epochs=6", "--config.train.batch_size=32"]
    assert main([*words, f"--workdir={tmp_path}"]) == 0
    assert json.loads((tmp_path / "report" / "results.json").read_text())["test_accuracy"] > 0.8


def test_averaged_weights_predict_and_the_unaveraged_ones_are_scored_beside_them(undrawn, tmp_path, capsys):
    words = [*SMALL, "--config.train.ema_decay=0.9", "--config.data.feed=device"]
    assert main([*words, f"--workdir={tmp_path}"]) == 0
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert results["test_loss"] != results["unaveraged_test_loss"]
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(row["unaveraged_val_loss"] != row["val_loss"] for row in rows)
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"^{tmp_path} .* {results['test_loss']:.4f} ", out, re.MULTILINE)
    assert re.search(rf"^{tmp_path}, unaveraged .* {results['unaveraged_test_loss']:.4f} ", out, re.MULTILINE)


def test_early_stop_says_which_epoch_is_restored(undrawn, tmp_path, capsys):
    words = [*SMALL, "--config.train.patience=1", "--config.train.min_delta=2.0", "--config.schedule.name=constant"]
    assert main([*words, f"--workdir={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "epoch 2/3" in out and "epoch 3/3" not in out
    chosen = json.loads((tmp_path / "report" / "results.json").read_text())["chosen_epoch"]
    assert (
        f"stopped early after epoch 2: no improvement in val_accuracy for 1 epochs; epoch {chosen} is restored" in out
    )
    for line in ("extending the run from 3 to 4 epochs", f"{tmp_path} is finished"):  # to no avail, but only once
        assert main([*words, "--config.train.epochs=4", f"--workdir={tmp_path}"]) == 0
        assert line in capsys.readouterr().out
