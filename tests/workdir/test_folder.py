"""The folder of a run: what is removed from it, and what is not."""

import os
import subprocess
import sys

from resnet_flax.config.checks import complete
from resnet_flax.config.defaults import changed, get_config
from resnet_flax.config.stored import read_config
from resnet_flax.errors import UserError
from resnet_flax.workdir.folder import check_config, remove_leftovers
from resnet_flax.workdir.history import write_history


def test_a_config_may_be_mended_until_the_first_epoch_or_checkpoint(tmp_path):
    config, metrics, checkpoint = complete(get_config()), tmp_path / "metrics.csv", tmp_path / "checkpoints" / "5"

    def allowed(field: str) -> bool:
        other = changed(config, {field: 1})
        try:
            check_config(tmp_path, config)
            check_config(tmp_path, other)
        except UserError as error:
            assert f"holds a run with another config (config.{field}" in str(error)
            return False
        return complete(read_config(tmp_path)) == other

    assert allowed("seed")
    write_history([], metrics)  # before the first step
    assert allowed("train.batch_size") and allowed("train.epochs")
    check_config(tmp_path, config)
    row = {"epoch": 1, "step": 3, "learning_rate": 0.1, "train_loss": 2.0, "train_accuracy": 0.1}
    write_history([row], metrics)
    assert not allowed("optimizer.learning_rate")
    metrics.unlink()
    checkpoint.mkdir(parents=True)
    assert not allowed("optimizer.learning_rate")


def test_files_half_written_by_a_dead_process_are_removed_and_no_others(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    record = tmp_path / "checkpoints" / "8" / "record"
    for folder in (record, tmp_path / "report"):
        folder.mkdir(parents=True)
    leftovers = [tmp_path / f".metrics.csv.{dead.pid}.tmp", record / f".metadata.{dead.pid}.tmp"]
    leftovers += [tmp_path / "report" / f".results.json.{os.getpid()}.tmp"]  # of a container, where numbers are reused
    others = [tmp_path / f".config.json.{os.getppid()}.tmp", tmp_path / ".notes.tmp", tmp_path / f"mine.{dead.pid}.tmp"]
    others += [record / "metadata", tmp_path / f".x.{10**30}.tmp.txt"]
    for path in leftovers + others:
        path.write_text("")
    remove_leftovers(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(others)
