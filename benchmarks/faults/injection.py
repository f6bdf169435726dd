"""Inject real faults into runs of a tiny network, and collect what must be the same at the end as without faults."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest import mock

from resnet_flax import errors
from resnet_flax.command_line import parse
from resnet_flax.commands import train as command
from resnet_flax.main import main
from resnet_flax.training import run as run_module
from resnet_flax.training.classifier import Classifier
from resnet_flax.training.restore import restore_checkpoint
from resnet_flax.training.run import Run
from resnet_flax.workdir.checkpoints import Checkpoints, checksum
from resnet_flax.workdir.results import read_results

ROOT = Path(__file__).parents[2]
STEPS = 8  # an epoch
# Nothing counts as an improvement, so that the run stops early: after 3 epochs of 6.
SMALL = [
    f"--config={ROOT}/configs/quickstart.py",
    "--config.model.blocks=(1,)",
    "--config.model.widths=(4,)",
    "--config.model.block_dropout=0.1",
    "--config.data.train=train[:20%]",
    "--config.data.train_examples=256",
    "--config.data.validation=train[85%:]",
    "--config.train.batch_size=32",
    "--config.train.epochs=6",
    "--config.train.patience=2",
    "--config.train.min_delta=1.0",
    "--config.train.ema_decay=0.9",
    "--config.train.mixup=0.4",
    "--config.train.cutmix=1.0",
    "--config.train.mix_probability=0.8",
]


def run(workdir: Path, *words: str) -> int:
    """Train SMALL, changed by `words`, in this process; return the exit code.

    Evaluation takes several batches, so that it can be stopped in the middle, and there are no pictures.
    """
    in_small_batches = partial(Classifier, batch_size=90)
    with mock.patch.object(run_module, "Classifier", in_small_batches), mock.patch.object(command, "ensure_report"):
        return main([*SMALL, *words, f"--workdir={workdir}"])


LONG = ["--config.train.epochs=200", "--config.train.patience=0", "--config.train.min_delta=0"]
PROGRAM = ("-m", "resnet_flax.main")
WITHOUT_PICTURES = ("-m", "benchmarks.faults.injection")  # `run` in a process of its own


def start(workdir: Path, *words: str, python: tuple[str, ...] = PROGRAM, **environment: str) -> subprocess.Popen:
    """Start training SMALL, changed by `words`, in a process of its own."""
    return popen([sys.executable, *python, *SMALL, *words, f"--workdir={workdir}"], **environment)


def popen(command: list[str], cwd: Path = ROOT, **environment: str) -> subprocess.Popen:
    """Start a command that finds the package from any folder and whose output can be read."""
    everything = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=cwd, env=everything, stdout=pipe, stderr=pipe, text=True)


def newest(workdir: Path, *words: str) -> tuple[int, list, int]:
    """Return (step, history, checksum of all arrays and the history) of the newest checkpoint of a run."""
    found = restored(workdir, "newest", *words)
    return found.step, found.history, checksum(found)


def restored(workdir: Path, which: str, *words: str):
    """Return a checkpoint of a run, see restore_checkpoint."""
    _, [(config, _)], _ = parse([*SMALL, *words])
    return restore_checkpoint(config, workdir, which)


# Results that may differ between equal runs.
CIRCUMSTANCES = ("images_per_second", "training_seconds", "date", "code")


def end(workdir: Path, *words: str) -> dict:
    """Return all that must be the same at the end of two runs: every array, row and result."""
    best = restored(workdir, "best", *words)
    results = read_results(workdir)
    return {
        "newest": newest(workdir, *words),
        "best": (best.step, checksum(best)),
        "metrics.csv": (workdir / "metrics.csv").read_bytes(),
        "results": {name: value for name, value in results.items() if name not in CIRCUMSTANCES},
    }


@contextlib.contextmanager
def at_step(step: int, act: Callable[[], object]) -> Iterator[None]:
    """Call `act` just before training step `step` (from 0) is sent to the devices."""
    advance = Run.advance

    def patched(self, first_step):
        go_on, sent = advance(self, first_step), first_step

        def counted(state, totals, most):
            nonlocal sent
            if sent == step:
                act()
            state, totals, taken = go_on(state, totals, min(most, max(1, step - sent)))
            sent += taken
            return state, totals, taken

        return counted

    with mock.patch.object(Run, "advance", patched):
        yield


@contextlib.contextmanager
def in_evaluation(act: Callable[[], object]) -> Iterator[None]:
    """Call `act` after the first batch of the next evaluation, which must end there."""
    evaluate, acted = Classifier.evaluate, False

    def patched(self, state, split, after_batch):
        def act_once_and_ask(done: int) -> bool:
            nonlocal acted
            if not acted:
                acted = True
                act()
            return after_batch(done)

        first = not acted
        found = evaluate(self, state, split, act_once_and_ask)
        assert not first or len(found) < len(split)
        return found

    with mock.patch.object(Classifier, "evaluate", patched):
        yield


@contextlib.contextmanager
def in_save(number: int, act: Callable[[], object]) -> Iterator[None]:
    """Call `act` while save `number` (from 1) is written in the background."""
    save, count = Checkpoints.save, 0

    def patched(self, checkpoint, best_step):
        nonlocal count
        save(self, checkpoint, best_step)
        count += 1
        if count == number:
            act()

    with mock.patch.object(Checkpoints, "save", patched):
        yield


def send(signum: int) -> Callable[[], None]:
    """Return a function that sends a signal to this process."""
    return lambda: os.kill(os.getpid(), signum)


EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}


def interrupt(
    workdir: Path, signum: int, doing: str, seconds: float, *words: str, python: tuple[str, ...] = PROGRAM
) -> tuple[int, float]:
    """Start the run and send it a signal `seconds` after it begins "starting", "training" or "saving".

    Returns the exit code, 0 if the run finished before the signal, and the seconds that it took to end.
    """
    with start(workdir, *words, python=python) as process:
        try:
            if doing == "training":
                wait_for_epoch(process)
            elif doing == "saving":
                wait_for_save(process, workdir / "checkpoints")
            sleep(process, seconds)
            process.send_signal(signum)
            sent = time.monotonic()
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    at_once = signum == signal.SIGKILL or doing == "starting" or (workdir / "report" / "results.json").exists()
    assert process.returncode in (0, 128 + signum, *([-signum] if at_once else [])), (process.returncode, err)
    assert err in ("", f"stopped by {signal.Signals(signum).name}; the same command resumes from here\n"), err
    return process.returncode, time.monotonic() - sent


def wait_for_epoch(process: subprocess.Popen) -> None:
    """Wait for the line of the first epoch, or for the end of the process."""
    while (line := process.stdout.readline()) and not line.startswith("epoch"):
        pass


def sleep(process: subprocess.Popen, seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def wait_for_save(process: subprocess.Popen, folder: Path) -> None:
    """Wait until a checkpoint is being written, or for the end of the process."""

    def unfinished() -> set[str]:
        return {name for name in os.listdir(folder) if "orbax-checkpoint-tmp" in name} if folder.is_dir() else set()

    before = unfinished()
    while not unfinished() - before and process.poll() is None:
        time.sleep(0.001)


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes: like a full disk, but without needing the rights to mount one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


if __name__ == "__main__":
    errors.runs_command_only = True
    *changed, last = sys.argv[1 + len(SMALL) :]
    sys.exit(run(Path(last.removeprefix("--workdir=")), *changed))
