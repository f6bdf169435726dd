"""The folder of a run: what is removed from it, and what is not."""

import os
import subprocess
import sys

from resnet_flax.workdir.folder import remove_leftovers


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
