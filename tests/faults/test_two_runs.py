"""A workdir belongs to one run at a time; reading it is always possible."""

import errno
import fcntl
import os
import shutil
import socket
from unittest import mock

import pytest

from benchmarks.faults.injection import STEPS, at_step, end, in_save, restored, run
from resnet_flax.main import main
from resnet_flax.workdir.checkpoints import Checkpoints
from resnet_flax.workdir.folder import lock_workdir


def test_second_run_is_refused_and_told_who_is_first(undisturbed, tmp_path, capsys):
    codes = []
    with at_step(10, lambda: codes.append(run(tmp_path, "--config.seed=1"))):
        assert run(tmp_path) == 0
    assert codes == [1]
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    assert capsys.readouterr().err == (
        f"error: {holder} is already training in {tmp_path}: wait for it, or choose another --workdir\n"
    )
    assert end(tmp_path) == end(undisturbed())


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_workdir_that_cannot_be_locked_is_used_with_a_note(code, tmp_path, capsys):
    with mock.patch.object(fcntl, "flock", side_effect=OSError(code, os.strerror(code))), lock_workdir(tmp_path):
        pass
    assert f"cannot be locked ({os.strerror(code)})" in capsys.readouterr().out


def test_run_is_read_while_it_trains(undisturbed, tmp_path):
    """While its second checkpoint is being written."""
    codes = []

    def read():
        workdir = f"--workdir={tmp_path}"
        codes.extend([main(["evaluate", workdir, "--split=validation"]), main(["report", workdir])])

    with in_save(2, read):
        assert run(tmp_path) == 0
    assert codes == [0, 0]
    assert end(tmp_path) == end(undisturbed())


def test_newest_checkpoint_that_is_deleted_while_it_is_read_is_looked_for_again(undisturbed, tmp_path, capsys):
    """As by a run that has saved others since."""
    restore = Checkpoints.restore

    def deleted_first(self, step, like, *name):
        if step == 3 * STEPS:
            shutil.rmtree(self.folder / str(step))
        return restore(self, step, like, *name)

    shutil.copytree(undisturbed(), tmp_path, dirs_exist_ok=True)
    with mock.patch.object(Checkpoints, "restore", deleted_first):
        assert restored(tmp_path, "newest").step == 2 * STEPS
    assert "damaged" not in capsys.readouterr().out
