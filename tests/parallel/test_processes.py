"""Runs of several processes: they find each other, agree, train as one does, and stop and fail together."""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from launch import local
from resnet_flax.command_line import parse
from resnet_flax.errors import UserError
from resnet_flax.main import main
from resnet_flax.parallel import processes, watch
from resnet_flax.training.restore import checkpoint_template, restore_checkpoint
from resnet_flax.training.run import Run
from resnet_flax.workdir.checkpoints import Checkpoints, checksum
from resnet_flax.workdir.history import read_csv
from resnet_flax.workdir.results import read_results
from tests.parallel import tracked

ROOT = Path(__file__).parents[2]
SMALL = [
    f"--config={ROOT}/configs/quickstart.py",
    "--config.model.blocks=(1,)",
    "--config.model.widths=(4,)",
    "--config.data.train_examples=256",
    "--config.train.epochs=3",
    "--config.train.batch_size=32",
]


@pytest.fixture
def nowhere(monkeypatch):
    """An environment that names no other processes; returns the arguments of calls of jax.distributed.initialize."""
    for name in (
        *processes.COUNTS,
        *processes.VARIABLES,
        "TPU_PROCESS_ADDRESSES_PATH",
        "TPU_PROCESS_ADDRESSES",
        "TPU_WORKER_HOSTNAMES",
    ):
        monkeypatch.delenv(name, raising=False)
    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **options: asked.append(args))
    monkeypatch.setattr(threading.Timer, "start", lambda self: None)
    return asked


@pytest.mark.parametrize(
    ("environment", "arguments"),
    [
        ({}, None),
        ({"SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"SLURM_STEP_NUM_TASKS": "4"}, ()),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, ()),
        ({"JAX_NUM_PROCESSES": "1", "SLURM_STEP_NUM_TASKS": "4"}, None),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1", "JAX_COORDINATOR_ADDRESS": "a:1"}, ("a:1", 2, 1)),
    ],
)
def test_processes_that_the_environment_names_are_joined(nowhere, monkeypatch, environment, arguments):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    processes.start()
    assert nowhere == ([] if arguments is None else [arguments])


def test_processes_whose_launcher_jax_does_not_recognise_are_told_what_to_set(nowhere, monkeypatch):
    def initialize(**options):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")  # Open MPI 5
    with pytest.raises(UserError, match=r"cannot connect: .* be defined.; set JAX_NUM_PROCESSES, JAX_PROCESS_ID, "):
        processes.start()


@pytest.mark.parametrize(
    ("platforms", "environment", "in_use", "several"),
    [
        ("tpu,cpu", {"TPU_WORKER_HOSTNAMES": "one,two"}, False, True),
        ("tpu,cpu", {"TPU_WORKER_HOSTNAMES": "localhost"}, False, False),
        ("tpu,cpu", {"TPU_PROCESS_ADDRESSES": "one:8471,two:8471"}, False, True),
        ("tpu,cpu", {"TPU_PROCESS_ADDRESSES": "localhost:8471", "TPU_WORKER_HOSTNAMES": "one,two"}, False, False),
        ("tpu,cpu", {"TPU_PROCESS_ADDRESSES_PATH": "two hosts", "TPU_PROCESS_ADDRESSES": "one:8471"}, False, True),
        ("tpu,cpu", {"TPU_WORKER_HOSTNAMES": "localhost", "MEGASCALE_NUM_SLICES": "2"}, False, True),
        ("tpu,cpu", {}, False, True),  # its metadata server knows
        ("tpu,cpu", {}, True, False),  # its chips know
        ("tpu,cpu", {"TPU_SKIP_MDS_QUERY": "1"}, False, False),
        ("cpu", {"TPU_WORKER_HOSTNAMES": "one,two"}, False, False),
    ],
)
def test_a_tpu_knows_of_other_hosts(nowhere, monkeypatch, tmp_path, platforms, environment, in_use, several):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two hosts").write_text("one:8471,two:8471\n")
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)  # jax sets it where there is no TPU
    monkeypatch.setattr(processes, "backends_are_initialized", lambda: in_use)
    monkeypatch.setattr(jax, "process_count", lambda: 1)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", platforms)
    try:
        assert processes.launched_with_others() is several
    finally:
        jax.config.update("jax_platforms", before)


def test_an_error_in_a_process_that_is_alone_is_an_exception(monkeypatch):
    """As on a Cloud TPU of one host, where jax.distributed is initialised before it is known that there is no other."""
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    with pytest.raises(UserError, match="mine"), watch.joined_processes():
        raise UserError("mine")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES must be a whole number, 0 or more, not 'two'"),
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_PROCESS_ID must be a whole number, 0 or more, not ''"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, "JAX_COORDINATOR_ADDRESS must be HOST:PORT"),
        (
            {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0", "JAX_COORDINATOR_ADDRESS": "a:b"},
            "JAX_COORDINATOR_ADDRESS must be HOST:PORT of process 0, not 'a:b'",
        ),
        (
            {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2", "JAX_COORDINATOR_ADDRESS": "a:1"},
            "JAX_PROCESS_ID must be from 0 to 1, not 2",
        ),
    ],
)
def test_missing_variable_of_the_environment_is_named(nowhere, monkeypatch, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        processes.start()


def in_two_processes(monkeypatch, compute, tree):
    """Return what each of two processes, simulated in turn, gets from the first: [(result or error, arrays)]."""
    sent: list[np.ndarray] = []
    got = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for index in (0, 1):
        told = iter(sent if index else ())
        broadcast = (lambda own, told=told: next(told)) if index else (lambda own: sent.append(own) or own)
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        monkeypatch.setattr(processes.multihost_utils, "broadcast_one_to_all", broadcast)
        try:
            result = processes.run_on_first_process(compute if index == 0 else pytest.fail)
        except Exception as error:
            result = error
        own = tree if index == 0 else jax.tree.map(np.zeros_like, tree)
        got.append((result, processes.broadcast_arrays(own)))
    return got


def test_result_of_the_first_process_reaches_the_others(monkeypatch):
    """To the last bit of a float, and errors with their message; nothing of it is executed."""
    row = {"epoch": 3, "val_loss": 0.1 + 0.2, "images_per_second": math.nan, "none": None, "name": "\x1b\ud800"}
    tree = {"a": np.array([-0.0, math.inf, 5e-324]), "b": (np.array(0.1, np.float32), np.zeros((2, 0), np.int8))}
    for result, arrays in in_two_processes(monkeypatch, lambda: [row], tree):
        assert repr(result) == repr([row])
        assert str(jax.tree.map(np.ndarray.tobytes, arrays)) == str(jax.tree.map(np.ndarray.tobytes, tree))
        assert jax.tree.map(np.shape, arrays) == jax.tree.map(np.shape, tree)

    def fail():
        raise UserError("")

    (first, _), (other, _) = in_two_processes(monkeypatch, fail, tree)
    assert (str(first), first.quiet) == ("", False)
    assert (type(other), str(other), other.quiet) == (UserError, "", True)


def launch(count: int, workdir: Path, feed: str, *words: str) -> list[subprocess.Popen]:
    """Start a run on two devices: one process with both, or two with one each."""
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("JAX_NUM_CPU_DEVICES", str(2 // count))
        for name, value in tracked.offline(workdir).items():
            environment.setenv(name, value)
        return local.start(count, [*SMALL, f"--config.data.feed={feed}", f"--workdir={workdir}", *words], **options)


def wait_for(run: list[subprocess.Popen]) -> tuple[list[int], str, str]:
    """Return the exit codes, and stdout and stderr of the first process."""
    said = [process.communicate(timeout=120) for process in run]
    assert all(said[index] == ("", "") for index in range(1, len(run)))  # the first speaks for all
    return [process.returncode for process in run], *said[0]


def newest(workdir: Path) -> tuple[int, int]:
    """Return (step, checksum) of the newest checkpoint of a run."""
    _, [(config, _)], _ = parse(["train", f"--workdir={workdir}"])
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        found = checkpoints.restore_newest(checkpoint_template(config))
    return found.step, checksum(found)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """A run of one process."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    codes, _, told = wait_for(launch(1, workdir, "device"))
    assert codes == [0], told
    return workdir


@pytest.mark.parametrize(("before", "after", "feed"), [(2, 1, "device"), (1, 2, "tfdata")])
def test_stopped_run_resumes_in_more_or_fewer_processes_to_the_same_end(undisturbed, tmp_path, before, after, feed):
    track = tracked.TRACK if before == 2 else []
    run = launch(before, tmp_path, feed, *track)
    while not (line := run[0].stdout.readline()).startswith("epoch 1/3"):
        assert line, run[0].stderr.read()
    run[-1].send_signal(signal.SIGTERM)
    codes, _, told = wait_for(run)
    assert codes == [143] * before, told
    assert "stopped by SIGTERM; the same command resumes from here" in told
    stopped, _ = newest(tmp_path)
    assert 8 <= stopped < 24
    codes, said, told = wait_for(launch(after, tmp_path, feed, *track))
    assert codes == [0] * after, told
    assert said.count(f"resuming at step {stopped}") == said.count("test accuracy") == 1
    assert newest(tmp_path) == newest(undisturbed)
    assert (tmp_path / "metrics.csv").read_bytes() == (undisturbed / "metrics.csv").read_bytes()
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2  # the first process's, before and after
    if track:
        check_tracked(tmp_path)


def test_two_processes_start_from_weights_learn_from_a_teacher_and_freeze_as_one_does(undisturbed, tmp_path):
    teacher = tmp_path / "teacher.safetensors"
    assert main(["export", f"--workdir={undisturbed}", f"--output={teacher}"]) == 0
    words = ["--config.parallel=pmap", "--config.train.epochs=1", "--config.train.freeze=stem", "--config.seed=1"]
    words += [f"--init-from={undisturbed}", f"--config.train.teacher={teacher}"]
    runs = [launch(count, tmp_path / f"{count}", "device", *words) for count in (1, 2)]
    for run in runs:
        codes, _, told = wait_for(run)
        assert codes == [0] * len(run), told
    assert newest(tmp_path / "1") == newest(tmp_path / "2")
    _, [(config, _)], _ = parse(["train", f"--workdir={tmp_path / '2'}"])
    before, after = (restore_checkpoint(config, path).tree["state"].params for path in (undisturbed, tmp_path / "2"))
    same = {name for name in before if jax.tree.all(jax.tree.map(np.array_equal, before[name], after[name]))}
    assert same == {"stem_conv", "stem_norm"}


def check_tracked(workdir: Path) -> None:
    """Fail unless W&B and MLflow have one run each, with every epoch of metrics.csv once and the results."""
    rows = read_csv(workdir / "metrics.csv")
    columns = [name for name in rows[0] if name != "epoch"]
    expected = [(int(row["epoch"]), {name: row[name] for name in columns}) for row in rows]
    accuracy = read_results(workdir)["test_accuracy"]
    ids, logged, results = tracked.wandb_logged(workdir, columns)
    assert (len(ids), logged, float(results["results/test_accuracy"])) == (1, expected, accuracy)
    assert len(list((workdir / "wandb").glob("offline-run-*"))) == 2
    statuses, logged, results = tracked.mlflow_logged(workdir, columns)
    assert (statuses, logged, results["results/test_accuracy"]) == (["FINISHED"], expected, accuracy)


def together(
    *commands: tuple[list[str], dict[str, str]], program: tuple[str, ...] = ("-m", "resnet_flax.main")
) -> list:
    """Start a process of one run for each (words, environment)."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("JAX_NUM_PROCESSES", str(len(commands)))
        environment.setenv("JAX_COORDINATOR_ADDRESS", f"localhost:{local.free_port()}")
        options = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        return [
            subprocess.Popen(
                [sys.executable, *program, *words], env=os.environ | {"JAX_PROCESS_ID": str(index)} | more, **options
            )
            for index, (words, more) in enumerate(commands)
        ]


OTHERS = {
    "another learning rate": (
        ["--config.optimizer.learning_rate=0.01"],
        {},
        "all processes of a run must have the same "
        "config.optimizer.learning_rate (0.1 in process 0, 0.01 in process 1)",
    ),
    "a mistake in one": (
        ["--config.train.batch_size=512"],
        {},
        "process 1: config.train.batch_size 512 is more than the 256 examples of an epoch",
    ),
    "another number of devices": (
        [],
        {"JAX_NUM_CPU_DEVICES": "3"},
        "each process must have the same number of devices: process 0 has 1, process 1 has 3",
    ),
}


@pytest.mark.parametrize("difference", OTHERS)
def test_processes_that_differ_all_stop_and_the_first_says_why(difference, tmp_path):
    words, environment, message = OTHERS[difference]
    command = [*SMALL, f"--workdir={tmp_path}"]
    codes, _, told = wait_for(together((command, {}), ([*command, *words], environment)))
    assert (codes, told) == ([1, 1], f"error: {message}\n")
    assert list(tmp_path.iterdir()) == []


def test_processes_with_other_data_or_other_code_differ(tmp_path):
    _, [(config, _)], _ = parse(SMALL)
    run = Run(config)
    description = run.description()
    data = {"train": {"examples": 256, "start": 0, "digest": "0" * 16}}
    run.identity = run.identity | {"data": run.identity["data"] | data}
    other = run.description()
    found = processes.disagreement([(None, description), (None, description), (None, other)])
    assert found.startswith("all processes of a run must have the same data of config.data.train ({'examples'")
    other = description | {"code of resnet_flax": "0" * 12}
    assert "the same code of resnet_flax (" in processes.disagreement([(None, description), (None, other)])
    assert processes.disagreement([(None, description)] * 3) == ""


@pytest.mark.parametrize("killed", [0, 1])
def test_death_of_a_process_ends_the_others_in_one_line_and_loses_nothing(killed, undisturbed, tmp_path):
    command = [*SMALL, f"--workdir={tmp_path}", "--config.data.feed=device"]
    run = together((command, {}), (command, {}))
    while not (line := run[0].stdout.readline()).startswith("epoch 1/3"):
        assert line, run[0].stderr.read()
    run[killed].kill()
    dead = time.monotonic()
    _, told = run[1 - killed].communicate(timeout=60)
    assert told == f"error: process {killed} of this run died; the same command resumes from the last checkpoint\n"
    assert run[1 - killed].returncode == processes.PEER_LOST
    assert time.monotonic() - dead < 40  # JAX itself waits for 100 s
    run[killed].communicate()
    codes, _, told = wait_for(together((command, {}), (command, {})))
    assert codes == [0, 0], told
    assert newest(tmp_path) == newest(undisturbed)
    assert (tmp_path / "metrics.csv").read_bytes() == (undisturbed / "metrics.csv").read_bytes()


FAIL_IN_ONE = """
import sys
from unittest import mock
import jax
from resnet_flax.main import main
from resnet_flax.training.train import Loop

def fail(self, *_):
    if jax.process_index() == 1:
        raise ZeroDivisionError

with mock.patch.object(Loop, "is_best", fail):
    sys.exit(main(sys.argv[1:]))
"""


def test_bug_in_one_process_ends_all_of_them(tmp_path):
    command = [*SMALL, f"--workdir={tmp_path}"]
    first, second = together((command, {}), (command, {}), program=("-c", FAIL_IN_ONE))
    _, traceback = second.communicate(timeout=60)
    _, told = first.communicate(timeout=60)
    assert traceback.splitlines()[-1] == "ZeroDivisionError"
    assert told == "error: process 1 of this run died; the same command resumes from the last checkpoint\n"
    assert (first.returncode, second.returncode) == (processes.PEER_LOST, os.EX_SOFTWARE)


JOIN = """
from resnet_flax.parallel import processes
processes.JOIN_SECONDS = 2
processes.start()
"""


def test_process_whose_others_never_come_ends_in_one_line():
    alone = []
    for index in (0, 1):
        place = f"localhost:{local.free_port()}"
        run = {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(index), "JAX_COORDINATOR_ADDRESS": place}
        command = [sys.executable, "-c", JOIN]
        process = subprocess.Popen(command, env=os.environ | run, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        alone.append((place, process))
    for place, process in alone:
        _, told = process.communicate(timeout=60)
        assert told == f"error: not all processes of this run have joined at {place} within 2 s\n"
        assert process.returncode == processes.PEER_LOST
