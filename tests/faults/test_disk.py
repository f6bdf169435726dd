"""A disk that is full or read-only: one line, nothing lost, and the same command resumes once there is room."""

import errno
import os
import re
import shutil
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks.faults.injection import SMALL, at_step, end, largest_file, run, send
from resnet_flax.errors import UserError
from resnet_flax.main import main
from resnet_flax.training.step import TrainState
from resnet_flax.workdir.checkpoints import Checkpoint, Checkpoints
from resnet_flax.workdir.history import write_history


@pytest.fixture
def disk(tmp_path):
    """A file system of 1 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root can mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def room(disk: Path, size: int | None) -> None:
    """Leave `size` bytes free, or all that are not used if it is None."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    if size is not None:
        free = shutil.disk_usage(disk).free
        ballast.write_bytes(b"\0" * max(0, free - size))


def test_full_disk_loses_nothing(disk, undisturbed, capfd):
    """Full from the start, at the first checkpoint, at a later one, and in between."""
    workdir = disk / "run"
    refused = 0
    for size in (0, 8_192, 40_960, 122_880, 163_840, 245_760):
        room(disk, size)
        code = run(workdir)
        err = capfd.readouterr().err
        if code == 0:
            break
        refused += 1
        assert code == 1
        assert re.fullmatch(r"error: .*No space left on device.*\n", err), err
        assert not list(workdir.glob("*.tmp"))
    assert refused >= 4
    room(disk, None)
    assert run(workdir) == 0
    assert not list(workdir.glob("**/*tmp*"))
    assert end(workdir) == end(undisturbed())


def test_last_checkpoint_that_could_not_be_written_is_not_called_missing(tmp_path, monkeypatch, capfd):
    """It is written in the background, and the reason is known only once it is waited for."""

    def wait(self):
        raise UserError("No space left on device")

    monkeypatch.setattr(Checkpoints, "save", lambda self, checkpoint, best_step: None)
    monkeypatch.setattr(Checkpoints, "wait", wait)
    assert run(tmp_path / "run") == 1
    assert capfd.readouterr().err == "error: No space left on device\n"


def test_stop_that_could_not_be_saved_does_not_claim_that_it_was(disk, capfd):
    with at_step(3, lambda: (room(disk, 0), send(15)())):
        assert run(disk / "run") == 1
    err = capfd.readouterr().err
    assert "no checkpoint could be written" in err
    assert "stopped by SIGTERM" not in err


def test_read_only_disk_is_refused_and_can_be_read(disk, undisturbed, capfd):
    workdir = disk / "run"
    shutil.copytree(undisturbed(), workdir)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for command in (["report", f"--workdir={workdir}"], [f"--workdir={disk / 'new'}", *SMALL]):
        assert main(command) == 1
        assert re.fullmatch(rf"error: Read-only file system: '?{disk}.*\n", capfd.readouterr().err)
    assert main(["evaluate", f"--workdir={workdir}"]) == 0


def test_checkpoint_that_cannot_be_written_leaves_earlier_ones(tmp_path):
    weights = jax.random.normal(jax.random.key(0), (64, 64))

    def saved_at(step: int) -> Checkpoint:
        return Checkpoint(step, {"state": TrainState(jnp.array(step), weights, {}, {}, {})})

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(saved_at(1))
        checkpoints.wait()
        with largest_file(10_000), pytest.raises(UserError, match=r"could be written.*File too large; earlier ones"):
            checkpoints.save(saved_at(2))
            checkpoints.wait()
        assert checkpoints.restore_newest(saved_at(0).tree).step == 1
        checkpoints.save(saved_at(2))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_newest(saved_at(0).tree).step == 2
        assert not list(tmp_path.glob("*tmp*"))  # a thread of the save that failed may leave a folder behind


def test_file_that_cannot_be_written_stays_as_it_was(tmp_path):
    path = tmp_path / "metrics.csv"
    write_history([], path)
    before = path.read_bytes()
    with largest_file(1_000), pytest.raises(OSError, match=os.strerror(errno.EFBIG)) as caught:
        write_history([{"epoch": epoch} for epoch in range(1_000)], path)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
