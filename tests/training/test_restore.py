"""Checkpoints are found while a run saves and deletes them, and one that is missing is named."""

import shutil
from unittest import mock

import pytest

from resnet_flax.config.checks import complete
from resnet_flax.config.stored import read_config
from resnet_flax.main import main
from resnet_flax.training import restore
from resnet_flax.workdir.checkpoints import Checkpoints, steps_in


@pytest.fixture
def workdir(small_runs, tmp_path, monkeypatch):
    """A finished run whose second-newest checkpoint is the best."""
    shutil.copytree(small_runs[0], tmp_path / "run")
    best = steps_in(tmp_path / "run" / "checkpoints")[1]
    monkeypatch.setattr(restore, "best_row", lambda history, _: next(row for row in history if row["step"] == best))
    return tmp_path / "run"


def best_of(workdir):
    return workdir / "checkpoints" / str(steps_in(workdir / "checkpoints")[1])


@pytest.mark.parametrize("verb", ["evaluate", "report", "predict", "export"])
def test_missing_best_checkpoint_is_named_and_what_to_do(verb, workdir, tmp_path, capsys):
    """As after a copy that was cut off; the commands looked for it for ever."""
    step = best_of(workdir)
    shutil.rmtree(step)
    (workdir / "report" / "results.json").unlink()
    (tmp_path / "photo.png").write_bytes((workdir / "report" / "loss.png").read_bytes())
    words = [str(tmp_path / "photo.png")] if verb == "predict" else []
    assert main([verb, *words, f"--workdir={workdir}"]) == 1
    error = capsys.readouterr().err
    epoch = int(step.name) // 16
    assert error == (
        f"error: checkpoint {step.name}, the best by val_accuracy (epoch {epoch}), is missing in {step.parent}: "
        "restore a copy, or evaluate and predict with --checkpoint=newest\n"
    )
    assert main(["evaluate", f"--workdir={workdir}", "--checkpoint=newest"]) == 0


def test_damaged_best_checkpoint_is_not_replaced_by_another(workdir, capsys):
    step = best_of(workdir)
    shutil.rmtree(step / "tree")
    assert main(["evaluate", f"--workdir={workdir}"]) == 1
    error = capsys.readouterr().err
    assert f"(epoch {int(step.name) // 16}), in {step.parent} is damaged: " in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("half", [False, True])
def test_best_checkpoint_that_a_run_replaces_meanwhile_is_looked_for_again(half, workdir, monkeypatch):
    """The run may be half way through deleting it when it is read."""
    old, newest = best_of(workdir), steps_in(workdir / "checkpoints")[0]
    found = Checkpoints.restore

    def replaced(self, step, like, *name):
        if step != int(old.name):
            return found(self, step, like, *name)
        (old / "tree" / "_METADATA").unlink()
        try:
            if not half:
                shutil.rmtree(old)
            return found(self, step, like, *name)
        finally:
            shutil.rmtree(old, ignore_errors=True)
            monkeypatch.setattr(restore, "best_row", lambda history, _: history[-1])

    config = complete(read_config(workdir))
    with mock.patch.object(Checkpoints, "restore", replaced):
        assert restore.restore_checkpoint(config, workdir).step == newest


def test_workdir_without_a_checkpoint_is_refused(workdir, capsys):
    folder = workdir / "checkpoints"
    for prepare in (lambda: shutil.rmtree(folder), folder.mkdir):
        prepare()
        assert main(["evaluate", f"--workdir={workdir}"]) == 1
        assert capsys.readouterr().err == f"error: {workdir} holds no checkpoints\n"
