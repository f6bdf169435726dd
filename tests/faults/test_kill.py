"""A process that is killed loses what it did since its last checkpoint, and nothing else. More kills: make soak."""

import shutil
import signal

import pytest

from benchmarks.faults.injection import WITHOUT_PICTURES, end, interrupt, run

LONG = ["--config.train.epochs=12", "--config.train.patience=0", "--config.data.feed=device"]


@pytest.mark.parametrize(("doing", "seconds"), [("training", 0.1), ("saving", 0.0)])
def test_killed_run_resumes_to_the_same_end(doing, seconds, undisturbed, tmp_path, capsys):
    assert interrupt(tmp_path, signal.SIGKILL, doing, seconds, *LONG, python=WITHOUT_PICTURES)[0] == -signal.SIGKILL
    whole = [path for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()]
    assert run(tmp_path, *LONG) == 0
    out = capsys.readouterr().out
    assert "resuming at step" in out if whole else "before its first checkpoint was saved" in out
    assert not list((tmp_path / "checkpoints").glob("*tmp*"))
    assert end(tmp_path, *LONG) == end(undisturbed(*LONG), *LONG)


def test_run_starts_without_what_a_killed_one_left_half_written(undisturbed, tmp_path):
    shutil.copytree(undisturbed(), tmp_path, dirs_exist_ok=True)
    (tmp_path / "report" / "results.json").unlink()
    leftover = tmp_path / f".metrics.csv.{2**22 + 1}.tmp"  # beyond the largest number of a process
    leftover.write_text("epoch,step")
    assert run(tmp_path) == 0
    assert not leftover.exists()
    assert end(tmp_path) == end(undisturbed())
