"""Reports: every file of them, a page that needs nothing else and fits its screen, several runs beside each other."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_flax.config.checks import complete
from resnet_flax.config.defaults import get_config
from resnet_flax.config.stored import read_config
from resnet_flax.main import main
from resnet_flax.report import figures, html
from resnet_flax.report.report import write_figure
from resnet_flax.training.restore import read_history
from resnet_flax.workdir import predictions

PICTURES = ["loss", "accuracy", "learning_rate", "epochs", "summary", "confusion", "reliability", "mistakes"]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Tags(HTMLParser):
    """Checks that tags are closed in order; collects what is loaded and what is written."""

    EMPTY = ("meta", "img")

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.loaded += [value for name, value in attributes if name in ("src", "href", "srcset")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def copy(workdir: Path, to: Path, finished: bool) -> Path:
    """The run in another place; as it is while it trains, if not `finished`."""
    shutil.copytree(workdir, to)
    if not finished:
        shutil.rmtree(to / "report")
    return to


def test_a_finished_run_has_every_file(small_runs):
    folder = small_runs[0] / "report"
    for name in PICTURES:
        assert (folder / f"{name}.png").stat().st_size > 3000, name
    results = json.loads((folder / "results.json").read_text())
    found, about = predictions.read_predictions(folder / "predictions.npz")
    assert (about["role"], about["split"], len(found)) == ("test", "test", 360)
    assert (found.accuracy, found.loss) == (results["test_accuracy"], results["test_loss"])
    text = Tags((folder / "report.html").read_text()).text
    for words in (
        f"{results['test_accuracy']:.2%}",
        "expected calibration error",
        "stage1_block1",
        "On the test split",
    ):
        assert words.lower() in text.lower()


def test_the_page_needs_nothing_else(small_runs):
    tags = Tags((small_runs[0] / "report" / "report.html").read_text())
    assert len(tags.loaded) == 6
    for source in tags.loaded:
        kind, data = source.split(",", 1)
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
    assert "url(" not in html.STYLE
    assert "@import" not in html.STYLE


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
    found, about = predictions.read_predictions(workdir / "report" / "predictions.npz")
    assert (about["role"], about["split"], len(found)) == ("validation", "train[90%:]", 144)
    config = complete(read_config(workdir))
    best = max(row["val_accuracy"] for row in read_history(config, workdir))
    assert found.accuracy == pytest.approx(best)
    text = Tags((workdir / "report" / "report.html").read_text()).text
    assert "On the validation split" in text
    assert "after 4 of at most 4 epochs" in text
    assert "test accuracy" not in text


def test_with_nothing_held_out_it_waits_for_the_end(small_runs, tmp_path):
    workdir = copy(small_runs[0], tmp_path / "run", finished=False)
    stored = json.loads((workdir / "config.json").read_text())
    stored["data"]["validation"] = ""
    (workdir / "config.json").write_text(json.dumps(stored))
    assert main(["report", f"--workdir={workdir}"]) == 0
    assert not (workdir / "report" / "predictions.npz").exists()
    assert "Calibration" not in (workdir / "report" / "report.html").read_text()


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
        stored = json.loads((workdir / "config.json").read_text())
        stored["data"]["classes"] = HOSTILE
        (workdir / "config.json").write_text(json.dumps(stored))
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
    text = Tags(Path(run, "report/report.html").read_text()).text
    assert "<script>alert('3')</script>" in text
    assert "_<b>&'\"$run\\x1b[2J" in text
    assert {path.name for path in tmp_path.iterdir()} == {run, "_2", "black.png", "compared", "out.csv"}


def test_a_class_is_drawn_as_it_is_called(tmp_path):
    """What Matplotlib would take for a formula, leave out of a legend or shrink everything else for."""
    found = predictions.Predictions(np.log(np.full((10, 10), 0.1, np.float32)), np.arange(10))
    drawn = {
        "confusion": figures.confusion_matrix(found, HOSTILE),
        "mistakes": figures.mistakes(found, np.zeros((10, 32, 32, 3), np.uint8), HOSTILE),
    }
    for name, figure in drawn.items():
        write_figure(tmp_path, name, figure)
        assert figure.axes[0].get_window_extent().width > 0.1 * figure.bbox.width
    assert r"$\frac$" in [label.get_text() for label in drawn["confusion"].axes[0].get_yticklabels()]
    assert "_x_\nas <script>alert(\u2026, 10.0%" in [axes.get_title() for axes in drawn["mistakes"].axes]
    rows = [{"epoch": 1, "train_loss": 1.0, "val_loss": 1.0}]
    legend = figures.compared_curves({"_first_": rows, "$second$": rows}, "loss").axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [" _first_", "$second$"]
    write_figure(tmp_path, "text", figures.text_figure("a row\n" * 10_000))


def test_several_runs_are_compared_best_first(small_runs, capsys, tmp_path):
    output = tmp_path / "comparison"
    assert main(["report", *map(str, small_runs), f"--output={output}"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(str(small_runs[0].parent))]
    assert {row[0] for row in rows} == set(map(str, small_runs))
    assert float(rows[0][1].rstrip("%")) >= float(rows[1][1].rstrip("%"))
    assert sorted(path.name for path in output.iterdir()) == [
        "accuracy.png",
        "comparison.html",
        "comparison.txt",
        "loss.png",
    ]
    assert str(small_runs[1]) in Tags((output / "comparison.html").read_text()).text


def test_before_the_first_epoch_there_is_nothing_to_report(tmp_path, small_runs, capsys):
    shutil.copy(small_runs[0] / "config.json", tmp_path)
    header = (small_runs[0] / "metrics.csv").read_text().splitlines()[0]
    (tmp_path / "metrics.csv").write_text(header + "\n")
    assert main(["report", f"--workdir={tmp_path}"]) == 1
    assert "has no finished epoch to report on yet" in capsys.readouterr().err


def test_a_hundred_classes_and_no_mistake_can_be_drawn(tmp_path):
    labels = np.arange(200) % 100
    certain = predictions.Predictions(np.log(np.eye(100, dtype=np.float32)[labels] * 0.98 + 1e-4), labels)
    names = [f"class {number}" for number in range(100)]
    for figure in (
        figures.confusion_matrix(certain, names),
        figures.mistakes(certain, np.zeros((200, 32, 32, 3), np.uint8), names),
        figures.reliability(certain.calibration()),
    ):
        write_figure(tmp_path, "picture", figure)
    assert get_config().data.classes is None


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium to look with")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_its_screen(small_runs, tmp_path, width):
    """In a frame of that width: the page is no wider, every picture is drawn, and a dark screen gets a dark page."""
    page = (small_runs[0] / "report" / "report.html").read_text().replace("&", "&amp;").replace('"', "&quot;")
    look = """onload = () => { const page = frames[0].document, back = getComputedStyle(page.body).backgroundColor;
        const drawn = [...page.images].every(image => image.complete && image.naturalWidth > 100);
        const fits = page.documentElement.scrollWidth <= frames[0].innerWidth;
        document.title = [fits, drawn, back].join(" "); }"""
    frame = f'<iframe width="{width}" height="3000" style="border:0" srcdoc="{page}"></iframe>'
    (tmp_path / "frame.html").write_text(f"<title>-</title><script>{look}</script><body style='margin:0'>{frame}")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    for scheme, background in ((1, "rgb(255, 255, 255)"), (0, "rgb(21, 24, 28)")):
        extra = [f"--blink-settings=preferredColorScheme={scheme}", "--window-size=1400,3000", "--dump-dom"]
        done = subprocess.run(
            [*command, *extra, f"file://{tmp_path}/frame.html"], capture_output=True, text=True, timeout=120
        )
        assert f"<title>true true {background}</title>" in done.stdout, re.findall("<title>.*", done.stdout)
    shot = tmp_path / "page.png"
    extra = [f"--screenshot={shot}", "--window-size=1400,3000", f"file://{tmp_path}/frame.html"]
    subprocess.run([*command, *extra], capture_output=True, timeout=120, check=True)
    assert shot.stat().st_size > 50_000
