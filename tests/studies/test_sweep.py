"""Sweeps: what they leave, how they go on after every kind of end, how processes share one."""

import csv
import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from jax.errors import JaxRuntimeError
from matplotlib.figure import Figure

from resnet_flax.command_line import parse
from resnet_flax.config.defaults import get_config
from resnet_flax.data.datasets import load
from resnet_flax.data.datasets.arrays import read_split
from resnet_flax.errors import Interrupted, NotFinite, OutOfMemory, UserError
from resnet_flax.files import try_lock
from resnet_flax.main import main
from resnet_flax.studies import figures, trials
from resnet_flax.studies.space import Plan, Range, Space

ROOT = Path(__file__).parents[2]
RECIPE = [
    f"--config={ROOT}/configs/quickstart.py",
    "--config.model.blocks=(1,)",
    "--config.model.widths=(4,)",
    "--config.data.train_examples=256",
    "--config.schedule.name=constant",
    "--config.train.epochs=3",
]
GRID = ["sweep", *RECIPE, "optimizer.learning_rate=0.05,0.1", "optimizer.momentum=0.8,0.9"]
REAL = ["sweep", *RECIPE, "optimizer.learning_rate=0.05,0.1,1e30"]
RANDOM = ["sweep", *RECIPE, "optimizer.learning_rate=1e-3..1:log", "optimizer.momentum=0.1..0.9", "--method=random"]


def table(workdir: Path) -> list[dict[str, str]]:
    with open(workdir / "sweep.csv", newline="") as file:
        return list(csv.DictReader(file))


def results_of(config) -> dict:
    """Return an accuracy that is best at a learning rate of 0.1 and a momentum of 0.5."""
    rate, momentum = config.optimizer.learning_rate, config.optimizer.momentum
    value = 1 / (1 + abs(rate - 0.1) + abs(momentum - 0.5))
    return {"val_accuracy": value, "val_loss": 1 - value, "train_accuracy": value, "chosen_epoch": 1, "epochs": 1}


class Runs:
    """Stands in for training: takes no time, and remembers."""

    def __init__(self):
        self.trained: list[Path] = []
        self.before = lambda config: None

    def __call__(self, config, workdir: Path, trackers) -> dict:
        self.before(config)
        self.trained.append(workdir)
        return results_of(config)


@pytest.fixture
def runs(monkeypatch) -> Runs:
    runs = Runs()
    monkeypatch.setattr(trials, "train", runs)
    monkeypatch.setattr(trials, "ensure_report", lambda workdir: None)
    monkeypatch.setattr(figures.Scores, "figure", lambda scores: Figure(figsize=(1, 1)))
    return runs


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str, set[str]]:
    """(a sweep with real training, what it printed, the splits that it read)."""
    workdir = tmp_path_factory.mktemp("sweeps") / "rates"
    read, names = read_split, set()
    with pytest.MonkeyPatch.context() as patch, open(workdir.with_suffix(".txt"), "w") as out:
        patch.setattr(load, "read_split", lambda *split: names.add(split[1]) or read(*split))
        patch.setattr(sys, "stdout", out)
        assert main([*REAL, f"--workdir={workdir}"]) == 0
    return workdir, workdir.with_suffix(".txt").read_text(), names


def test_it_leaves_a_table_best_first_a_picture_and_a_page(finished):
    workdir, out, _ = finished
    rows = table(workdir)
    assert [row["state"] for row in rows] == ["complete", "complete", "fail"]
    assert float(rows[0]["val_accuracy"]) >= float(rows[1]["val_accuracy"])
    assert {row["optimizer.learning_rate"] for row in rows} == {"0.05", "0.1", "1e30"}
    assert "not finite at step" in rows[2]["reason"]
    for row in rows[:2]:
        results = json.loads((Path(row["run"]) / "report" / "results.json").read_text())
        assert float(row["val_accuracy"]) == results["val_accuracy"]
    assert "2 of 3 trials complete, 1 failed" in out
    assert (workdir / "sweep.png").stat().st_size > 5000
    page = (workdir / "sweep.html").read_text()
    assert f"{float(rows[0]['val_accuracy']):.2%}" in page
    assert "learning_rate=1e30" in page and "not finite at step" in page


def test_the_page_breaks_the_winners_command_between_flags_alone(finished):
    lines = (finished[0] / "sweep.html").read_text().partition("<pre>")[2].partition("</pre>")[0].split("\n")
    assert lines[0] == "python -m resnet_flax.main \\"
    assert all(line.startswith(("    --config", "    &#x27;--config", "    --workdir=")) for line in lines[1:])
    assert all(line.endswith(" \\") for line in lines[:-1])


def test_the_report_is_written_whole_or_not_at_all(finished, runs, capsys):
    workdir = finished[0]
    before = (workdir / "sweep.html").read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limit[1]))  # much like a full disk
    try:
        assert main([*REAL, f"--workdir={workdir}"]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert re.search(rf"error: .*{workdir}", capsys.readouterr().err)
    assert (workdir / "sweep.html").read_bytes() == before
    assert not list(workdir.glob(".*.tmp"))


def test_it_does_not_look_at_the_test_split(finished):
    workdir, _, names = finished
    assert names == {"train"}
    for path in workdir.glob("trials/*/report/results.json"):
        assert "test_accuracy" not in json.loads(path.read_text())


def test_the_winners_command_trains_the_winner_and_tests_it(finished):
    workdir, out, _ = finished
    (command,) = re.findall(r"^  python -m resnet_flax\.main (.*)$", out, re.MULTILINE)
    assert main(shlex.split(command)) == 0
    best = workdir / "best"
    assert (best / "metrics.csv").read_bytes() == (Path(table(workdir)[0]["run"]) / "metrics.csv").read_bytes()
    assert "test_accuracy" in json.loads((best / "report" / "results.json").read_text())


def test_a_finished_sweep_trains_nothing_again(finished, runs, capsys):
    workdir, _, _ = finished
    before = (workdir / "sweep.csv").read_text()
    assert main([*REAL, f"--workdir={workdir}"]) == 0
    assert runs.trained == []
    assert (workdir / "sweep.csv").read_text() == before
    assert "to train and test it" in capsys.readouterr().out


def test_another_sweep_in_the_workdir_is_refused(finished, runs, capsys):
    workdir, _, _ = finished
    assert main([*REAL[:-1], "optimizer.learning_rate=0.05,0.1", f"--workdir={workdir}"]) == 1
    assert "(fields.optimizer.learning_rate: ['0.05', '0.1', '1e30'] -> ['0.05', '0.1'])" in capsys.readouterr().err
    assert main([*REAL, "--config.train.epochs=4", f"--workdir={workdir}"]) == 1
    assert "config.train.epochs: 3 -> 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (GRID[:-2], "what should be swept?"),
        ([*GRID, "--method=rando"], "unknown method 'rando': did you mean 'random'?"),
        ([*GRID, "--trials=3"], "--trials=N is for --method=random and tpe"),
        ([*GRID, "--trials=-3"], "--trials=N is for --method=random and tpe"),
        (RANDOM, "--trials=N is for --method=random and tpe, which need it"),
        ([*RANDOM[:-1]], "a grid takes values, but optimizer.learning_rate has a range"),
        ([*GRID, "--config.data.validation="], "a sweep chooses by validation: set config.data.validation"),
        ([*GRID, "--config.data.train=train[:101%]"], "split 'train[:101%]' goes beyond the 1437 examples of train"),
        ([*GRID, "--storage=nothing://x"], "cannot open --storage: "),
        (["train", *RECIPE, "optimizer.momentum=0.8"], "what is 'optimizer.momentum=0.8'?"),
    ],
)
def test_mistakes_are_one_line(words, message, tmp_path, capsys):
    assert main([*words, f"--workdir={tmp_path / 'x'}"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x" / "trials").exists()


def test_without_optuna_it_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    for module in ("commands.sweep", "studies.sweep", "studies.trials"):
        monkeypatch.delitem(sys.modules, f"resnet_flax.{module}", raising=False)
    assert main([*GRID, f"--workdir={tmp_path}"]) == 1
    assert "a sweep needs Optuna: pip install" in capsys.readouterr().err


def test_a_damaged_database_is_named(tmp_path, capsys, runs):
    (tmp_path / "sweep.db").write_bytes(b"no database" * 100)
    assert main([*GRID, f"--workdir={tmp_path}"]) == 1
    assert f"cannot open {tmp_path / 'sweep.db'}" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_draws_follow_from_the_seed_however_often_it_is_stopped(method, tmp_path, runs):
    words = [*RANDOM[:-1], f"--method={method}", "--trials=12"]
    assert main([*words, f"--workdir={tmp_path / 'a'}"]) == 0
    whole = [path.name for path in runs.trained]
    assert len(set(whole)) == 12
    runs.trained.clear()

    def stop_at_the_third(config):
        if len(runs.trained) in (2, 11):
            runs.trained.append(Path())
            raise Interrupted(signal.SIGTERM)

    runs.before = stop_at_the_third
    codes = [main([*words, f"--workdir={tmp_path / 'b'}"]) for _ in range(3)]
    assert codes == [143, 143, 0]
    assert [path.name for path in runs.trained if path.name] == whole
    assert main([*words, "--config.seed=1", f"--workdir={tmp_path / 'c'}"]) == 0
    assert not {path.name for path in runs.trained[-12:]} & set(whole)


def test_tpe_learns_where_it_is_good(tmp_path, runs):
    """Its last ten draws are better, on average, than its first ten, which are random."""
    assert main([*RANDOM[:-1], "--method=tpe", "--trials=30", f"--workdir={tmp_path}"]) == 0
    values = [float(row["val_accuracy"]) for row in sorted(table(tmp_path), key=lambda row: int(row["trial"]))]
    assert sum(values[-10:]) > sum(values[:10])


def test_a_drawn_value_is_rounded_but_never_out_of_its_range():
    narrow = Range(0.999, 0.99999, False)
    assert [trials.typed(value, narrow) for value in (0.99912, 0.99996, 0.99999)] == ["0.9991", "0.99996", "0.99999"]
    assert trials.typed(0.0012345678, Range(1e-3, 1.0, True)) == "0.001235"
    assert trials.typed(64, Range(16, 256, False)) == "64"


def test_a_space_with_few_values_is_exhausted(tmp_path, runs, capsys):
    assert main([*GRID, "--method=random", "--trials=9", f"--workdir={tmp_path}"]) == 0
    assert len(set(runs.trained)) == len(runs.trained) == 4
    assert "4 of 9 trials complete" in capsys.readouterr().out


def test_by_loss_the_least_is_best(tmp_path, runs):
    assert main([*GRID, "--config.train.monitor=val_loss", f"--workdir={tmp_path}"]) == 0
    losses = [float(row["val_loss"]) for row in table(tmp_path)]
    assert losses == sorted(losses)
    assert f"{losses[0]:.4f}" in (tmp_path / "sweep.html").read_text()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NotFinite("the loss is not finite"), "the loss is not finite"),
        (OutOfMemory("there is not enough memory"), "there is not enough memory"),
    ],
)
def test_what_fails_is_recorded_and_skipped(error, reason, tmp_path, runs, capsys):
    def fail(config):
        raise error

    runs.before = fail
    assert main([*GRID, f"--workdir={tmp_path}"]) == 0
    assert [row["state"] for row in table(tmp_path)] == ["fail"] * 4
    assert {row["reason"].startswith(reason) and "\n" not in row["reason"] for row in table(tmp_path)} == {True}
    assert "0 of 4 trials complete, 4 failed: no complete trial in" in capsys.readouterr().out


def test_what_is_no_fault_of_the_settings_stops_the_sweep_and_is_tried_again(tmp_path, runs):
    def fail(config):
        raise JaxRuntimeError("INTERNAL: the device is gone")

    runs.before = fail
    with pytest.raises(JaxRuntimeError, match="the device is gone"):
        main([*GRID, f"--workdir={tmp_path}"])
    runs.before = lambda config: None
    assert main([*GRID, f"--workdir={tmp_path}"]) == 0
    assert [row["state"] for row in table(tmp_path)] == ["complete"] * 4


def test_full_disk_stops_the_sweep_and_the_trial_is_resumed(tmp_path, runs, capsys):
    def fail(config):
        raise UserError("no checkpoint could be written: No space left on device")

    runs.before = fail
    assert main([*GRID, f"--workdir={tmp_path}"]) == 1
    assert "error: no checkpoint could be written: No space left on device" in capsys.readouterr().err
    assert [row["state"] for row in table(tmp_path)] == ["running"]
    runs.before = lambda config: None
    assert main([*GRID, f"--workdir={tmp_path}"]) == 0
    assert [row["state"] for row in table(tmp_path)] == ["complete"] * 4


def test_settings_that_do_not_fit_each_other_fail_alone(tmp_path, runs):
    words = [*GRID[:-2], "optimizer.nesterov=True", "optimizer.momentum=0.0,0.9"]
    assert main([*words, f"--workdir={tmp_path}"]) == 0
    assert [row["state"] for row in table(tmp_path)] == ["complete", "fail"]
    assert "config.optimizer.nesterov needs" in table(tmp_path)[1]["reason"]


def test_a_signal_while_nothing_trains_is_answered_before_the_next_trial(tmp_path, runs, capsys):
    runs.before = lambda config: os.kill(os.getpid(), signal.SIGTERM)
    assert main([*GRID, f"--workdir={tmp_path}"]) == 143
    assert len(runs.trained) == 1
    assert [row["state"] for row in table(tmp_path)] == ["complete"]
    captured = capsys.readouterr()
    assert "1 of 4 trials complete" in captured.out
    assert "the same command resumes from here" in captured.err
    runs.before = lambda config: None
    assert main([*GRID, f"--workdir={tmp_path}"]) == 0
    assert len(set(runs.trained)) == len(runs.trained) == 4


def study(workdir: Path, database, elsewhere: bool) -> trials.Study:
    _, [(config, _)], _ = parse(["train", *RECIPE])
    plan = Plan(config, workdir, Space.read(GRID[-2:], RECIPE), "grid", 4)
    workdir.mkdir(parents=True, exist_ok=True)
    return trials.Study.of(plan, database, elsewhere)


def test_a_trial_has_one_process_until_that_dies(tmp_path):
    """And with it its lock: closing the file is what the end of a process does."""
    with trials.open_database("", tmp_path) as database:
        one, other = (study(tmp_path, database, elsewhere=False) for _ in range(2))
        claims = [one.claim(), other.claim()]
        assert [trial.number for trial, _ in claims] == [0, 1]
        claims[0][1].close()
        claims += [other.claim(), one.claim()]
        assert [trial.number for trial, _ in claims] == [0, 1, 0, 2]
        for _, lock in claims:
            lock.close()


def test_trial_that_its_process_finishes_while_another_looks_at_it_is_not_taken_again(tmp_path, monkeypatch, runs):
    with trials.open_database("", tmp_path) as database:
        one, other = (study(tmp_path, database, elsewhere=False) for _ in range(2))
        first = one.claim()

        def finished_first(path: Path):
            monkeypatch.setattr(trials, "try_lock", try_lock)
            one.run(*first)
            return try_lock(path)

        monkeypatch.setattr(trials, "try_lock", finished_first)
        trial, lock = other.claim()
        lock.close()
        assert (first[0].number, trial.number) == (0, 1)
        assert [path.name for path in runs.trained] == ["learning_rate=0.05,momentum=0.8"]


def test_trial_that_two_machines_started_at_once_keeps_the_first_result(tmp_path, runs, capsys):
    """SQLite cannot lock a row between reading and writing it."""
    with trials.open_database("", tmp_path) as database:
        one = study(tmp_path, database, elsewhere=True)
        trial, lock = one.claim()
        one.run(trial, lock)
        one.run(trial, try_lock(tmp_path / "other"))
        assert [outcome.state for outcome in one.outcomes()] == ["complete"]
    assert "trial 1 was already finished by another process" in capsys.readouterr().out


def test_machines_that_create_the_database_at_once_all_open_it(tmp_path):
    """All but one fail to create a table that is there already, or a row, and have to look again."""
    together = threading.Barrier(4)

    def open_it(name: str) -> None:
        (tmp_path / name).mkdir()
        together.wait()
        with trials.open_database(f"sqlite:///{tmp_path}/shared.db", tmp_path / name):
            pass

    with ThreadPoolExecutor(4) as machines:
        list(machines.map(open_it, "abcd"))


@pytest.mark.parametrize("name", ["what?", "100%41", "a#b", "{x}", "a@b:c"])
def test_database_is_in_its_workdir_whatever_that_is_called(name, tmp_path, runs):
    assert main([*GRID, f"--workdir={tmp_path / name}"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "sweep.db").stat().st_size > 10_000


def test_machines_that_share_a_database_alone_leave_each_other_their_trials(tmp_path):
    with trials.open_database(f"sqlite:///{tmp_path}/shared.db", tmp_path) as database:
        here, there = (study(tmp_path / machine / "grid", database, elsewhere=True) for machine in ("a", "b"))
        claims = [here.claim(), there.claim(), here.claim()]
        assert [trial.number for trial, _ in claims] == [0, 1, 2]
        for _, lock in claims:
            lock.close()  # both machines die and come back
        claims = [here.claim(), there.claim(), there.claim(), here.claim(), there.claim()]
        assert [claim[0].number for claim in claims if claim] == [0, 1, 3, 2]
        assert len(list(tmp_path.glob("*/grid/trials/*"))) == 4
        for _, lock in filter(None, claims):
            lock.close()


def test_two_machines_that_drew_the_same_train_it_once(tmp_path):
    with trials.open_database("", tmp_path) as database:
        one = study(tmp_path, database, elsewhere=True)
        assert one.add_another_than([]) and one.add_another_than([])
        assert len(one.trials.trials) == 2
        claims = [one.claim() for _ in range(5)]
        assert [claim[0].number for claim in claims if claim] == [0, 2, 3, 4]
        for _, lock in filter(None, claims):
            lock.close()


SHARED = """
import json, os, sys, time
from pathlib import Path
from matplotlib.figure import Figure
from resnet_flax.studies import figures, trials
from resnet_flax.main import main
sys.path.insert(0, {tests!r})
from test_sweep import GRID, RATES, SWEEPS, results_of

def train(config, workdir, trackers):
    with open({log!r}, "a") as file:
        file.write(f"{{os.getpid()}} {{workdir.name}}\\n")
    deadline = time.monotonic() + 60  # until all train, so that they have something to share
    log = Path({log!r})
    while len({{line.split()[0] for line in log.read_text().splitlines()}}) < SWEEPS and time.monotonic() < deadline:
        time.sleep(0.05)
    return results_of(config)

trials.train = train
trials.ensure_report = lambda workdir: None
figures.Scores.figure = lambda scores: Figure(figsize=(1, 1))
sys.exit(main([*GRID[:-2], RATES, GRID[-1], "--workdir=" + {workdir!r}]))
"""
SWEEPS = 4
RATES = "optimizer.learning_rate=" + ",".join(f"0.0{number}" for number in range(10, 30))


def test_sweeps_at_once_on_one_folder_share_its_trials_and_train_none_twice(tmp_path):
    """As fast as they can, so that each reads what the others are about to change."""
    log = tmp_path / "log"
    code = SHARED.format(tests=str(Path(__file__).parent), log=str(log), workdir=str(tmp_path / "grid"))
    processes = [
        subprocess.Popen([sys.executable, "-W", "error::ResourceWarning", "-c", code], cwd=ROOT, stderr=subprocess.PIPE)
        for _ in range(SWEEPS)
    ]
    errors = [process.communicate(timeout=100)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * SWEEPS, errors
    lines = [line.split() for line in log.read_text().splitlines()]
    assert len(lines) == len({name for _, name in lines}) == 40
    assert len({pid for pid, _ in lines}) == SWEEPS
    assert [row["state"] for row in table(tmp_path / "grid")] == ["complete"] * 40


def test_killed_in_a_trial_it_goes_on_from_its_checkpoint(finished, tmp_path, capsys):
    """SIGKILL, which no process can answer, in a trial that the sweep of the other tests has finished undisturbed."""
    words = [*REAL[:-1], "optimizer.learning_rate=0.05", f"--workdir={tmp_path / 'rates'}"]
    command = [sys.executable, "-m", "resnet_flax.main", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not (line := process.stdout.readline()).startswith("epoch 2/3"):
            assert line, process.stderr.read()
        process.kill()
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.startswith("\ntrial 1 of 1: learning_rate=0.05\n")
    assert re.search(r"resuming at step \d+ \([12] of 3 epochs finished\)", out)
    run = Path("rates/trials/learning_rate=0.05/metrics.csv")
    assert (tmp_path / run).read_bytes() == (finished[0].parent / run).read_bytes()


FIELDS = {
    "optimizer.learning_rate": Range(1e-3, 1.0, True),
    "optimizer.momentum": ("0.8", "0.9"),
    "model.activation": ("relu", "gelu"),
    "train.batch_size": Range(16, 64, False),
}


@pytest.mark.parametrize(
    "names", [list(FIELDS)[:1], list(FIELDS)[1:2], list(FIELDS)[:2], list(FIELDS)[1:3], list(FIELDS)]
)
@pytest.mark.parametrize("monitor", ["val_accuracy", "val_loss"])
def test_pictures_of_one_two_and_many_fields(names, monitor, tmp_path):
    """Every trial is marked, one that failed as such, and the best in orange."""
    space = Space((), {name: FIELDS[name] for name in names})
    values = {"optimizer.learning_rate": "0.1", "optimizer.momentum": "0.8", "model.activation": "gelu"}
    other = {"optimizer.learning_rate": "0.01", "optimizer.momentum": "0.9", "model.activation": "relu"}
    points = [
        ({name: chosen.get(name, "32") for name in names}, score)
        for chosen, score in ((values, 0.5), (other, float("nan")), (other | values, 0.25))
    ]
    scores = figures.Scores(space, points, monitor)
    assert scores.best(points)[1] == (0.25 if monitor == "val_loss" else 0.5)
    figure = scores.figure()
    panels = [axes for axes in figure.axes if axes.axison and axes.get_xlabel()]
    assert len(panels) == max(1, len(names) * (len(names) - 1) // 2)
    figure.savefig(tmp_path / "picture.png")
    if names == ["optimizer.momentum", "model.activation"]:
        best = {"val_accuracy": "50.00%", "val_loss": "0.2500"}[monitor]
        assert {text.get_text() for text in panels[0].texts} == {best, "failed"}
    assert get_config().train.monitor == "val_accuracy"


def test_all_that_sets_the_config_goes_into_every_trial():
    setting = [*RECIPE, "--noconfig.optimizer.nesterov", "-config.seed=3"]
    _, _, options = parse(["sweep", *setting, "optimizer.momentum=0.8", "--method=tpe", "--workdir=x"])
    canonical = [*RECIPE, "--config.optimizer.nesterov=false", "--config.seed=3"]
    assert (options["recipe"], options["fields"]) == (canonical, ["optimizer.momentum=0.8"])
    assert Space.read(options["fields"], options["recipe"]).config({}).seed == 3
