"""Several runs beside each other."""

import json
import re
import shutil
from pathlib import Path
from unittest import mock

import pytest

from resnet_flax.main import main


def test_several_runs_are_compared_best_first(small_runs, capsys, tmp_path):
    output = tmp_path / "comparison"
    assert main(["report", *map(str, small_runs), f"--output={output}"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(str(small_runs[0].parent))]
    assert {row[0] for row in rows} == set(map(str, small_runs))
    assert float(rows[0][1].rstrip("%")) >= float(rows[1][1].rstrip("%"))
    names = ["accuracy.png", "comparison.html", "comparison.txt", "loss.png"]
    assert sorted(path.name for path in output.iterdir()) == names
    assert str(small_runs[1]) in (output / "comparison.html").read_text()


def test_a_run_that_is_named_twice_counts_once(small_runs, capsys, tmp_path, monkeypatch):
    first, second = small_runs[:2]
    output = tmp_path / "comparison"
    monkeypatch.chdir(first.parent)
    assert main(["report", str(first), str(second), first.name, f"--output={output}"]) == 0
    rows = (output / "comparison.txt").read_text().split("\n\n")[0].splitlines()[1:]
    assert {row.split()[0] for row in rows} == {str(first), str(second)} and len(rows) == 2
    assert main(["report", str(first), first.name, f"--output={output}"]) == 1
    assert "name several runs" in capsys.readouterr().err


def test_the_difference_of_their_test_accuracies_has_an_interval(small_runs, capsys, tmp_path):
    assert main(["report", *map(str, small_runs), f"--output={tmp_path}"]) == 0
    found = re.search(r"^(\S+) minus (\S+) +(\S+) \(\S+ to \S+\)$", capsys.readouterr().out, re.MULTILINE)
    one, other = (json.loads((Path(run) / "report" / "results.json").read_text()) for run in found.groups()[:2])
    assert float(found[3]) == pytest.approx(100 * (one["test_accuracy"] - other["test_accuracy"]), abs=0.006)
    assert "points (95 % interval)" in (tmp_path / "comparison.html").read_text()
    with mock.patch("resnet_flax.report.compare.same_images", return_value=False):
        assert main(["report", *map(str, small_runs), f"--output={tmp_path}"]) == 0
    assert " minus " not in capsys.readouterr().out


def test_it_names_the_fields_and_facts_in_which_runs_differ(small_runs, capsys, tmp_path):
    runs = [shutil.copytree(run, tmp_path / run.name) for run in small_runs]
    set_fields(runs[1] / "config.json", "optimizer", learning_rate=0.07)
    set_fields(runs[1] / "config.json", "train", mixup=0.2)
    policies = [f"{'crop(4)|' * 20}flip|normalize(half){end}" for end in ("", "|cutout(8)")]
    for run, policy in zip(runs, policies, strict=True):  # a long text whose end differs
        set_fields(run / "config.json", "data", policy=policy)
    for run, commit in zip(runs, ("5ed9e26", "31af014"), strict=True):
        set_fields(
            run / "report" / "results.json", date="2026-11-21", code=commit, training_seconds=60, images_per_second=99
        )
    assert main(["report", *map(str, runs), f"--output={tmp_path / 'both'}"]) == 0
    scores, _, table = (tmp_path / "both" / "comparison.txt").read_text().split("\n\n")
    assert {line.split()[0]: "(mixed images)" in line for line in scores.splitlines()[1:]} == {
        str(runs[0]): False,
        str(runs[1]): True,
    }
    header, *lines = [line.split() for line in table.splitlines()]
    first = header.index(str(runs[0])) + 1
    assert {line[0]: (line[first], line[3 - first]) for line in lines} == {
        "seed": ("0", "1"),
        "optimizer.learning_rate": ("0.1", "0.07"),
        "train.mixup": ("0.0", "0.2"),
        "data.policy": tuple(policies),
        "commit": ("5ed9e26", "31af014"),
    }
    page = (tmp_path / "both" / "comparison.html").read_text()
    assert "What differs" in page and "optimizer.learning_rate" in page and "31af014" in page
    assert table in capsys.readouterr().out


def set_fields(path: Path, section: str = "", **fields) -> None:
    stored = json.loads(path.read_text())
    (stored[section] if section else stored).update(fields)
    path.write_text(json.dumps(stored))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output={}/elsewhere"], "--output is the folder of a comparison: name several runs, without --watch"),
        (["--output={}/elsewhere", "--watch"], "--output is the folder of a comparison: name several runs"),
        (["--port=99"], "--port needs --watch: add --watch"),
    ],
)
def test_a_flag_that_would_be_ignored_is_refused(words, message, small_runs, capsys, tmp_path):
    before = (small_runs[0] / "report" / "report.html").stat().st_mtime_ns
    assert main(["report", f"--workdir={small_runs[0]}", *(word.format(tmp_path) for word in words)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert (small_runs[0] / "report" / "report.html").stat().st_mtime_ns == before and not list(tmp_path.iterdir())
