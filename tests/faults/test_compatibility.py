"""Runs of an older version are read, or refused with the name of what changed."""

import json
import shutil
from pathlib import Path

import pytest

from resnet_flax.commands import train
from resnet_flax.config.checks import complete
from resnet_flax.config.stored import read_config
from resnet_flax.main import main
from resnet_flax.training.restore import restore_checkpoint
from resnet_flax.workdir.results import read_results

# Written in November 2026, and never written again: a change of the format is one that still reads this.
STOPPED = Path(__file__).parents[1] / "fixtures" / "stopped_run"


@pytest.fixture
def workdir(tmp_path):
    shutil.copytree(STOPPED, tmp_path, dirs_exist_ok=True)
    return tmp_path


def change(workdir, **sections):
    """Replace fields of the config; None takes one away."""
    path = workdir / "config.json"
    config = json.loads(path.read_text())
    for name, fields in sections.items():
        kept = {field: value for field, value in (config[name] | fields).items() if value is not None}
        config[name] = kept
    path.write_text(json.dumps(config))


def test_stopped_run_of_an_older_version_resumes_to_the_end_that_it_had(workdir, monkeypatch, capsys):
    monkeypatch.setattr(train, "ensure_report", lambda workdir: None)
    config = complete(read_config(workdir))
    found = restore_checkpoint(config, workdir, "newest")
    assert (found.step, len(found.history)) == (3, 1)
    assert main([f"--workdir={workdir}"]) == 0
    assert "resuming at step 3 (1 of 2 epochs finished)" in capsys.readouterr().out
    then = json.loads(STOPPED.with_suffix(".json").read_text())
    now = read_results(workdir)
    for name in ("train_loss", "val_loss", "test_loss", "unaveraged_test_loss"):
        assert now[name] == pytest.approx(then[name], rel=1e-4), name  # another jax may round another way
    assert now["chosen_epoch"] == then["chosen_epoch"]


def test_config_without_a_newer_field_has_its_default(workdir):
    whole = read_config(workdir)
    change(workdir, train={"patience": None}, optimizer={"nesterov": None})
    assert read_config(workdir) == whole


def test_config_with_a_renamed_field_names_the_nearest(workdir, capsys):
    change(workdir, train={"ema_decay": None, "ema_decai": 0.9})
    assert main(["evaluate", f"--workdir={workdir}"]) == 1
    error = capsys.readouterr().err
    assert f"{workdir / 'config.json'} is not a config that this version can read: " in error
    assert "config.train.ema_decai: did you mean 'train.ema_decay'?" in error
    assert error.count("\n") == 1


def test_changed_config_is_refused_with_every_field_that_differs(workdir, capsys):
    change(workdir, train={"ema_decay": 0.5}, optimizer={"momentum": 0.8})
    changed = ["--config.train.ema_decay=0.9", "--config.optimizer.momentum=0.9"]
    assert main([f"--workdir={workdir}", *changed]) == 1
    error = capsys.readouterr().err
    assert "config.optimizer.momentum: 0.8 -> 0.9; config.train.ema_decay: 0.5 -> 0.9" in error
