"""The report of a run: its files, what it says before and after the end of training, and that it is always whole."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.faults.injection import largest_file
from resnet_flax.commands import train as command
from resnet_flax.config.checks import complete
from resnet_flax.config.stored import read_config
from resnet_flax.data.datasets.arrays import Split
from resnet_flax.data.datasets.fingerprint import examples_of
from resnet_flax.data.datasets.load import load_split
from resnet_flax.main import main
from resnet_flax.report import ensure, facts
from resnet_flax.report import report as report_module
from resnet_flax.report.files import Files
from resnet_flax.training.classifier import Classifier
from resnet_flax.training.restore import read_history
from resnet_flax.workdir import predictions
from resnet_flax.workdir.results import read_results

PICTURES = ["network", "loss", "accuracy", "learning_rate", "epochs", "summary", "confusion", "reliability", "mistakes"]


def copy(workdir: Path, to: Path, finished: bool) -> Path:
    """The run in another place; as it is while it trains, if not `finished`."""
    shutil.copytree(workdir, to)
    if not finished:
        shutil.rmtree(to / "report")
    return to


def page_of(workdir: Path) -> str:
    return (workdir / "report" / "report.html").read_text()


def change_config(workdir: Path, section: str, **fields) -> None:
    stored = json.loads((workdir / "config.json").read_text())
    stored[section] |= fields
    (workdir / "config.json").write_text(json.dumps(stored))


def test_a_finished_run_has_every_file(small_runs):
    folder = small_runs[0] / "report"
    for name in PICTURES:
        assert (folder / f"{name}.png").stat().st_size > 3000, name
    results = json.loads((folder / "results.json").read_text())
    found, about = predictions.read_predictions(folder / "predictions.npz")
    assert (about["role"], about["split"], len(found)) == ("test", "test", 360)
    assert (found.accuracy, found.loss) == (results["test_accuracy"], results["test_loss"])
    page = page_of(small_runs[0])
    for words in (
        f"{results['test_accuracy']:.2%}",
        "expected calibration error",
        "stage1_block1",
        "On the test split",
    ):
        assert words in page
    assert len(page) < 1_500_000
    assert not list(folder.glob("*.tmp"))


def test_a_report_drawn_twice_has_the_same_bytes(small_runs, tmp_path):
    workdir = copy(small_runs[0], tmp_path / "first", finished=True)
    before = {path.name: path.read_bytes() for path in (workdir / "report").iterdir()}
    assert main(["report", f"--workdir={workdir}"]) == 0
    assert {path.name: path.read_bytes() for path in (workdir / "report").iterdir()} == before


def test_report_verb_looks_at_the_test_split_no_second_time(small_runs, tmp_path, monkeypatch):
    workdir = copy(small_runs[0], tmp_path / "run", finished=True)
    (workdir / "report" / "report.html").unlink()
    before = (workdir / "report" / "predictions.npz").read_bytes()
    monkeypatch.setattr("resnet_flax.report.report.Classifier", None)
    assert main(["report", f"--workdir={workdir}"]) == 0
    assert (workdir / "report" / "report.html").exists()
    assert (workdir / "report" / "predictions.npz").read_bytes() == before


def test_while_it_trains_it_is_about_validation(small_runs, tmp_path):
    workdir = copy(small_runs[0], tmp_path / "run", finished=False)
    assert main(["report", f"--workdir={workdir}"]) == 0
    config = complete(read_config(workdir))
    best = max(row["val_accuracy"] for row in read_history(config, workdir))
    found = report_module.predictions_to_report(config, workdir, finished=False)
    assert (found.role, found.text, len(found.predictions)) == ("validation", "train[90%:]", 144)
    assert found.predictions.accuracy == pytest.approx(best)
    page = page_of(workdir)
    assert "On the validation split" in page
    assert "after 4 epochs of at most 4" in page
    assert "validation top-3 accuracy" in page
    assert "test accuracy" not in page


def test_predictions_of_an_unfinished_run_are_not_saved(small_runs, tmp_path):
    """predictions.npz is written once, by training."""
    workdir = copy(small_runs[0], tmp_path / "run", finished=False)
    assert main(["report", f"--workdir={workdir}"]) == 0
    assert sorted(path.suffix for path in (workdir / "report").iterdir()) == [".html", *[".png"] * 9, ".txt"]


@pytest.mark.parametrize("moment", ["is drawn", "is written"])
def test_run_that_ends_while_its_report_is_made_keeps_what_it_left(moment, small_runs, tmp_path, monkeypatch):
    workdir = copy(small_runs[0], tmp_path / "run", finished=False)
    left = small_runs[0] / "report"

    def end_of_training() -> None:
        monkeypatch.undo()
        shutil.copytree(left, workdir / "report", dirs_exist_ok=True)

    class EndsDuringEvaluation(Classifier):
        def evaluate(self, *arguments):
            end_of_training()
            return super().evaluate(*arguments)

    write = Files.write

    def end_before_the_last_file(files: Files, folder: Path) -> None:
        page = files.contents.pop("report.html")
        write(files, folder)
        end_of_training()
        write(Files({"report.html": page}), folder)

    if moment == "is drawn":
        monkeypatch.setattr(report_module, "Classifier", EndsDuringEvaluation)
    else:
        monkeypatch.setattr(Files, "write", end_before_the_last_file)
    assert main(["report", f"--workdir={workdir}"]) == 0
    for path in left.iterdir():
        if path.name != "report.html":  # its title is the name of its workdir
            assert (workdir / "report" / path.name).read_bytes() == path.read_bytes(), path.name
    assert "On the test split" in page_of(workdir)
    assert ensure.is_current(workdir)


def test_with_nothing_held_out_it_waits_for_the_end(small_runs, tmp_path):
    workdir = copy(small_runs[0], tmp_path / "run", finished=False)
    change_config(workdir, "data", validation="")
    assert main(["report", f"--workdir={workdir}"]) == 0
    assert "Calibration" not in page_of(workdir)


def test_its_numbers_are_those_of_the_chosen_epoch(small_runs, tmp_path):
    """Which need not be the last one, nor that with the highest accuracy."""
    workdir = copy(small_runs[0], tmp_path / "run", finished=True)
    rows = (workdir / "metrics.csv").read_text().splitlines()
    header = rows[0].split(",")
    cells = [row.split(",") for row in rows[1:]]
    for epoch, (loss, train, val) in enumerate([(3, 0.5, 0.9), (1, 0.75, 0.625), (2, 1, 0.7), (2, 1, 0.7)]):
        for name, value in (("val_loss", loss), ("train_accuracy", train), ("val_accuracy", val)):
            cells[epoch][header.index(name)] = str(value)
    (workdir / "metrics.csv").write_text("\n".join([rows[0], *map(",".join, cells)]) + "\n")
    change_config(workdir, "train", monitor="val_loss", mixup=0.2, teacher="runs/<b>")
    assert main(["report", f"--workdir={workdir}"]) == 0
    tiles = re.sub("<[^>]+>", " ", page_of(workdir).partition('class="tiles"')[2].partition("Training</h2>")[0])
    assert re.search(r"validation accuracy +62\.50% +epoch 2 ", tiles)
    assert re.search(
        r"training accuracy +75\.00% +epoch 2, of mixed images, by the class with the largest share", tiles
    )
    assert "MixUp, Beta(0.2, 0.2), with probability 1" in page_of(workdir)
    assert "runs/&lt;b&gt;, 0.9 of the loss, temperature 4" in page_of(workdir)
    assert "the weights are those of epoch 2, chosen by val_loss" in page_of(workdir)


def test_it_says_when_where_and_how_fast_a_run_was_trained(small_runs, tmp_path):
    workdir = copy(small_runs[0], tmp_path / "run", finished=True)
    path = workdir / "report" / "results.json"
    told = {
        "training_seconds": 3723.4,
        "images_per_second": 1234.5,
        "date": "2026-11-21",
        "code": "5ed9e26",
        "device": "2 x <b>",
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | told))
    assert main(["report", f"--workdir={workdir}"]) == 0
    page = page_of(workdir)
    for name, value in (
        ("seed", "0"),
        ("training time", "1:02:03"),
        ("images per second", "1,234"),
        ("date", "2026-11-21"),
        ("commit", "5ed9e26"),
        ("device", "2 x &lt;b&gt;"),
    ):
        assert f"<tr><th>{name}</th><td>{value}</td></tr>" in page


def test_every_fact_that_training_writes_is_told(small_runs):
    told = facts.run_facts(complete(read_config(small_runs[0])), read_results(small_runs[0]))
    names = ["seed", "date", "device", "training time", "images per second", "commit", "jax", "python"]
    assert list(told) == names


@pytest.mark.parametrize("value", [None, [], {}, "x" * 10**6, -1, 1e300, float("nan"), True, "\x1b[2J"])
def test_strange_facts_in_results_are_left_out_or_shown_harmless(value, small_runs):
    config = complete(read_config(small_runs[0]))
    strange = dict.fromkeys(("training_seconds", "images_per_second", "date", "code", "device", "jax"), value)
    found = facts.run_facts(config, strange)
    assert all(text.isprintable() and len(text) <= facts.MAX_VALUE_CHARS for text in found.values())


@pytest.mark.parametrize("size", [1_000, 30_000, 90_000])
def test_on_a_full_disk_no_file_is_cut_off_and_the_next_start_draws_it(size, small_runs, tmp_path, capsys):
    workdir = copy(small_runs[0], tmp_path / "first", finished=True)
    whole = {path.name: path.read_bytes() for path in (workdir / "report").iterdir()}
    (workdir / "report" / "report.html").unlink()
    again = [f"--config={workdir.parent}/recipe.py", f"--workdir={workdir}"]
    (workdir.parent / "recipe.py").write_text(RECIPE.format(path=str(workdir / "config.json")))
    with largest_file(size):
        assert main(again) == 1
    assert re.fullmatch(rf"error: File too large: {workdir}/report/.*\n", capsys.readouterr().err)
    left = {path.name: path.read_bytes() for path in (workdir / "report").iterdir()}
    assert left == {name: content for name, content in whole.items() if name != "report.html"}
    assert main(again) == 0
    assert {path.name: path.read_bytes() for path in (workdir / "report").iterdir()} == whole


RECIPE = """
import json
from pathlib import Path
from resnet_flax.config.stored import read_config

def get_config():
    return read_config(Path({path!r}).parent)
"""


def test_a_comparison_is_written_whole_or_not_at_all(small_runs, tmp_path, capsys):
    with largest_file(10_000):
        assert main(["report", *map(str, small_runs), f"--output={tmp_path}"]) == 1
    assert "error: File too large" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["comparison.txt"]


def test_a_page_cut_off_is_drawn_again_at_the_next_start(small_runs, tmp_path):
    workdir = copy(small_runs[0], tmp_path / "first", finished=True)
    path = workdir / "report" / "report.html"
    whole = path.read_bytes()
    for length in (0, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert not ensure.is_current(workdir)
    command.ensure_report(workdir)
    assert path.read_bytes() == whole


def test_whether_a_report_is_current_does_not_depend_on_the_clock(small_runs, tmp_path, monkeypatch):
    workdir = copy(small_runs[0], tmp_path / "first", finished=True)
    page, results = (workdir / "report" / name for name in ("report.html", "results.json"))
    drawn = []
    monkeypatch.setattr(ensure, "write_report_of", drawn.append)
    os.utime(page, (0, 0))  # as if written long before the results
    ensure.ensure_report(workdir)
    assert drawn == []
    results.write_text(results.read_text().replace("}", ', "more": 1}'))
    os.utime(results, (0, 0))
    ensure.ensure_report(workdir)
    assert drawn == [workdir]


HOSTILE = [
    "<script>alert('3')</script>",
    "\x1b[2J\x1b]0;title\x07",
    "x" * 10_000,
    "\U0001f408\u200d\u2b1b\u732b",
    "gpj.\u202eexe",
    "../../etc/passwd",
    r"$\frac$",
    "_x_",
    "=1+1\n",
    "\ud800\0",
]


def test_names_of_classes_and_runs_are_data_everywhere(small_runs, tmp_path, capsys, monkeypatch):
    """In tables, pictures, CSV files and pages they are text: nothing in them is obeyed, drawn over or too long."""
    monkeypatch.chdir(tmp_path)
    run = "_<b>&'\"$run\x1b[2J"
    workdirs = [copy(workdir, Path(name), finished=True) for workdir, name in zip(small_runs, (run, "_2"), strict=True)]
    for workdir in workdirs:
        change_config(workdir, "data", classes=HOSTILE)
    Image.new("RGB", (32, 32)).save("black.png")
    names = [f"--workdir={run}"]
    assert main(["report", *names]) == 0
    assert main(["report", run, "_2", "--output=compared"]) == 0
    assert main(["evaluate", run, "_2"]) == 0
    assert main(["predict", "black.png", *names, "--output=out.csv"]) == 0
    printed = capsys.readouterr()
    for text in (printed.out, printed.err, Path("compared/comparison.txt").read_text()):
        assert all(line.isprintable() or "\u200d" in line for line in text.split("\n"))
        assert max(map(len, text.split("\n"))) < 300
    assert r"\x1b[2J\x1b]0;title\x07" in printed.out
    for page in (Path(run, "report/report.html"), Path("compared/comparison.html")):
        html = page.read_text()
        assert "<script" not in html
        assert "<b>&" not in html
        assert "\x1b" not in html
        assert "default-src 'none'" in html
    assert "&lt;script&gt;alert(" in page_of(Path(run))
    assert "_&lt;b&gt;&amp;&#x27;&quot;$run\\x1b[2J" in page_of(Path(run))
    assert {path.name for path in tmp_path.iterdir()} == {run, "_2", "black.png", "compared", "out.csv"}


def test_before_the_first_epoch_there_is_nothing_to_report(tmp_path, small_runs, capsys):
    shutil.copy(small_runs[0] / "config.json", tmp_path)
    header = (small_runs[0] / "metrics.csv").read_text().splitlines()[0]
    (tmp_path / "metrics.csv").write_text(header + "\n")
    assert main(["report", f"--workdir={tmp_path}"]) == 1
    assert "has no finished epoch to report on yet" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_predictions_about_other_images_are_refused(small_runs, tmp_path, capsys):
    workdir = copy(small_runs[0], tmp_path / "run", finished=True)
    fewer = predictions.Predictions(np.log(np.full((7, 10), 0.1, np.float32)), np.arange(7, dtype=np.int32))
    path = workdir / "report" / "predictions.npz"
    predictions.write_predictions(fewer, path, role="test", split="test", step=1)
    assert main(["report", f"--workdir={workdir}"]) == 1
    message = f"{path} is damaged (it is about 7 images, and the results about 360)"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("changed", ["load_split", "examples_of"])
def test_after_a_change_of_the_test_split_no_other_images_are_shown(changed, small_runs, tmp_path, capsys, monkeypatch):
    workdir = copy(small_runs[0], tmp_path / "run", finished=True)

    def reversed_split(config, split):
        text, found = load_split(config, split)
        return text, Split(found.images[::-1], found.labels[::-1])

    def replaced(config, folder, split):
        return examples_of(config, folder, split) | {"digest": "of others"}

    change = {"load_split": reversed_split, "examples_of": replaced}[changed]
    monkeypatch.setattr(f"resnet_flax.report.report.{changed}", change)
    assert main(["report", f"--workdir={workdir}"]) == 0
    assert "mistakes are not shown: the test split has changed since it was evaluated" in capsys.readouterr().out
    assert "Most confident mistakes" not in (workdir / "report" / "report.html").read_text()
