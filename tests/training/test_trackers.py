"""Trackers: what they are called with, and that a run does not depend on them."""

import io
import json
import os
import subprocess
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

import resnet_flax as rf
from resnet_flax.errors import Interrupted, NotFinite
from resnet_flax.main import main
from resnet_flax.training import trackers
from resnet_flax.training.services import Remote, follow
from resnet_flax.training.trackers import Guarded, Service, Tracking, find_trackers

ROWS = [
    {"epoch": epoch, "step": 8 * epoch, "learning_rate": 0.1, "train_loss": 1 / epoch, "train_accuracy": 0.5}
    for epoch in (1, 2, 3)
]


class Calls(list):
    """A tracker that notes how it is called; and fails in the method `failing`."""

    def __init__(self, failing: str = ""):
        super().__init__()
        self.failing = failing

    def start(self, workdir, config, history):
        self.note("start", workdir, config, history)

    def epoch(self, row):
        self.note("epoch", row)

    def end(self, results, outcome):
        self.note("end", results, outcome)

    def note(self, *call):
        self.append(call)
        if call[0] == self.failing:
            raise ConnectionError("no route\nto host")


def test_a_run_calls_its_tracker_from_its_start_to_its_end(tmp_path):
    calls = Calls()
    with Tracking(tmp_path, {"seed": 0}, [calls]) as tracking:
        tracking.start(ROWS[:1])
        tracking.epoch(ROWS[1])
        tracking.results = {"test_accuracy": 0.5}
    assert calls == [
        ("start", tmp_path, {"seed": 0}, ROWS[:1]),
        ("epoch", ROWS[1]),
        ("end", {"test_accuracy": 0.5}, "finished"),
    ]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(Interrupted(15), "stopped"), (KeyboardInterrupt(), "stopped"), (NotFinite("the loss"), "failed")],
)
def test_a_run_that_does_not_finish_says_why(tmp_path, error, outcome):
    calls = Calls()
    with pytest.raises(type(error)), Tracking(tmp_path, {}, [calls]) as tracking:
        tracking.start([])
        raise error
    assert calls[-1] == ("end", {}, outcome)


@pytest.mark.parametrize("method", ["start", "epoch", "end"])
def test_a_tracker_that_fails_is_one_warning_and_is_not_called_again(method, tmp_path, capsys):
    calls, other = Calls(failing=method), Calls()
    with Tracking(tmp_path, {}, [calls, other]) as tracking:
        tracking.start([])
        for row in ROWS:
            tracking.epoch(row)
    assert capsys.readouterr().err == "warning: Calls no longer tracks this run: no route\n"
    assert [name for name, *_ in calls].count(method) == 1 and calls[-1][0] == method
    assert [name for name, *_ in other] == ["start", "epoch", "epoch", "epoch", "end"]
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1


def service(code: str) -> Service:
    """W&B, with `code` as its process."""
    found = Service("wandb")
    found.command = [sys.executable, "-S", "-c", code]
    return found


def tracked_by(code: str, tmp_path: Path) -> float:
    """Track ROWS with a service whose process runs `code`; return how many seconds that took."""
    start = time.monotonic()
    with Tracking(tmp_path, {}, [service(code)]) as tracking:
        tracking.start([])
        for row in ROWS:
            tracking.epoch(row)
    return time.monotonic() - start


def test_a_service_that_hangs_is_given_up(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trackers, "END_SECONDS", 0.5)
    assert 0.5 < tracked_by("import time; time.sleep(600)", tmp_path) < 30
    assert capsys.readouterr().err == ("warning: W&B no longer tracks this run: it did not end within 0.5 seconds\n")


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("print('more'); raise SystemExit('no network')", "no network"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "its process ended with code -9"),
    ],
)
def test_a_service_whose_process_dies_is_one_warning(code, why, tmp_path, capsys):
    tracked_by(code, tmp_path)
    assert capsys.readouterr().err == f"warning: W&B no longer tracks this run: {why}\n"


def test_a_service_is_sent_every_call_even_if_a_pipe_cannot_hold_them(tmp_path, capsys):
    copy = f"import sys, shutil; shutil.copyfileobj(sys.stdin, open({str(tmp_path / 'lines')!r}, 'w'))"
    with Tracking(tmp_path, {"classes": ["x" * 100_000]}, [service(copy)]) as tracking:
        tracking.start(ROWS)
    lines = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    assert lines == [["start", str(tmp_path), {"classes": ["x" * 100_000]}, ROWS], ["end", {}, "finished"]]
    assert capsys.readouterr().err == ""


def test_a_run_that_is_killed_has_failed_for_its_service(tmp_path):
    calls = Calls()
    follow(calls, io.StringIO(json.dumps(["start", str(tmp_path), {}, []]) + "\n"))
    assert calls == [("start", tmp_path, {}, []), ("end", {}, "failed")]


class Logged(Remote):
    """A service in memory."""

    name = "logged"

    def open(self, workdir, config):
        self.rows = []
        self.opened, self.id = self.id, self.id or "new"

    def log(self, epoch, metrics):
        self.rows.append((epoch, metrics))


def test_a_resumed_run_goes_on_in_the_same_tracked_run_without_repeating_epochs(tmp_path):
    first, second = Logged(), Logged()
    first.start(tmp_path, {}, [])
    first.epoch(ROWS[0])
    first.epoch(ROWS[1])  # after which the run is killed, and its last checkpoint is that of the first epoch
    second.start(tmp_path, {}, ROWS[:1])
    second.epoch(ROWS[1])
    second.epoch(ROWS[2])
    assert (first.opened, second.opened) == ("", "new")
    assert [epoch for epoch, _ in first.rows + second.rows] == [1, 2, 3]
    assert second.rows == [(3, {name: value for name, value in ROWS[2].items() if name != "epoch"})]


@pytest.mark.parametrize("record", ["", "{", "[]", '{"id": "x", "epochs": "many"}'])
def test_a_tracked_run_begins_anew_with_all_epochs_if_its_file_is_damaged(record, tmp_path):
    (tmp_path / "logged.json").write_text(record)
    logged = Logged()
    logged.start(tmp_path, {}, ROWS)
    assert (logged.opened, len(logged.rows)) == ("", 3)
    assert json.loads((tmp_path / "logged.json").read_text()) == {"id": "new", "epochs": 3}


def test_a_mistake_about_trackers_ends_before_training(tmp_path, monkeypatch, capsys):
    """A folder that W&B has made in the current one is no package."""
    monkeypatch.chdir(tmp_path)
    folder = ModuleSpec("wandb", None, is_package=True)
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: folder if name == "wandb" else None)
    install = "pip install -c constraints.txt -e"
    for names, message in {
        "wandb": f"--track=wandb needs W&B: {install} '.[wandb]'",
        "mlflow": f"--track=mlflow needs MLflow: {install} '.[mlflow]'",
        "wandbb": "unknown tracker 'wandbb': did you mean 'wandb'?",
    }.items():
        assert main(["--config=quickstart", f"--track={names}"]) == 1
        assert capsys.readouterr() == ("", f"error: {message}\n")
    with pytest.raises(rf.UserError, match=r"must be a name .* or have the methods start, epoch and end"):
        rf.train("quickstart", track=print)
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_of_ones_own_and_none_are_taken():
    calls = Calls()
    assert find_trackers(calls) == [calls] and find_trackers("") == []
    assert isinstance(Guarded(calls), trackers.Tracker)


def test_the_process_of_a_service_needs_no_jax():
    code = "import sys, resnet_flax.training.services; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
