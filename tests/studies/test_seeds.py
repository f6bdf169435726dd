"""Several seeds: their statistics, and that none is trained twice."""

import json
import math
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
from matplotlib.collections import LineCollection

from resnet_flax.command_line import parse
from resnet_flax.commands import train as command
from resnet_flax.errors import Interrupted, NotFinite
from resnet_flax.main import main
from resnet_flax.studies import figures, seeds

ROOT = Path(__file__).parents[2]
RECIPE = [  # of small_runs, whose seeds are 0 and 1
    f"--config={ROOT}/configs/quickstart.py",
    "--config.model.blocks=(1,1)",
    "--config.model.widths=(8,16)",
    "--config.data.train_examples=512",
    "--config.train.epochs=4",
]


@pytest.fixture
def copied(small_runs, tmp_path) -> Path:
    """A workdir in which the runs of seed 0 and 1 are finished."""
    for seed, run in enumerate(small_runs):
        shutil.copytree(run, tmp_path / f"seed{seed}")
    return tmp_path


@pytest.fixture
def trained(monkeypatch, small_runs) -> list[int]:
    """The seeds that training was called with, instead of which the first of small_runs is copied."""
    called: list[int] = []

    def train(config, workdir, trackers=()):
        called.append(config.seed)
        shutil.copytree(small_runs[0], workdir, dirs_exist_ok=True)
        return json.loads((workdir / "report" / "results.json").read_text())

    monkeypatch.setattr(seeds, "train", train)
    monkeypatch.setattr(command, "train_once", train)
    return called


def test_statistics_of_runs_that_are_finished(copied, small_runs, capsys):
    """They are the runs that the same recipe with --config.seed=0 and 1 is, and are not trained again."""
    assert main([*RECIPE, "--seeds=2", f"--workdir={copied}"]) == 0
    out = capsys.readouterr().out
    assert out.count("is finished") == 2 and "epoch 1/4" not in out
    found = json.loads((copied / "seeds.json").read_text())
    values = [json.loads((run / "report" / "results.json").read_text())["test_accuracy"] for run in small_runs]
    mean, spread = found["statistics"]["test_accuracy"]["mean"], found["statistics"]["test_accuracy"]
    assert mean == pytest.approx(sum(values) / 2)
    assert spread["std"] == pytest.approx(abs(values[0] - values[1]) / math.sqrt(2))
    assert spread["high"] - mean == pytest.approx(12.7062 * spread["std"] / math.sqrt(2), rel=1e-5)
    assert [found["results"][seed]["test_accuracy"] for seed in "01"] == values
    page = (copied / "seeds.html").read_text()
    assert f"{mean:.2%} ± {spread['std']:.2%}" in page
    for name in ("seeds_accuracy.png", "seeds_loss.png"):
        assert (copied / name).stat().st_size > 10_000


def test_the_report_is_written_whole_or_not_at_all(copied, capsys):
    command = [*RECIPE, "--seeds=2", f"--workdir={copied}"]
    assert main(command) == 0
    before = (copied / "seeds.html").read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))  # much like a full disk
    try:
        assert main(command) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "error: File too large" in capsys.readouterr().err
    assert (copied / "seeds.html").read_bytes() == before
    assert not list(copied.glob(".*.tmp"))


def test_one_epoch_is_drawn_as_points_with_their_deviation():
    rows = [[{"epoch": 1, "train_loss": loss, "val_loss": loss + 1}] for loss in (1.0, 2.0)]
    axes = figures.seed_curves(rows, "loss").axes[0]
    assert [line.get_marker() for line in axes.get_lines()[:2]] == [".", "."]
    bars = [bar.get_segments()[0].tolist() for bar in axes.collections if isinstance(bar, LineCollection)]
    half = 0.5**0.5
    assert bars == [
        [[1, pytest.approx(1.5 - half)], [1, pytest.approx(1.5 + half)]],
        [[1, pytest.approx(2.5 - half)], [1, pytest.approx(2.5 + half)]],
    ]


def test_the_interval_is_students():
    """Fisher's iris data, the first five sepal lengths; t for 4 degrees of freedom is 2.7764 in every table."""
    spread = seeds.Spread.of([5.1, 4.9, 4.7, 4.6, 5.0])
    assert (spread.mean, spread.std) == pytest.approx((4.86, 0.20736), rel=1e-4)
    assert spread.high - spread.mean == pytest.approx(2.7764 * 0.20736 / 5**0.5, rel=1e-4)
    assert spread.mean - spread.low == pytest.approx(spread.high - spread.mean)


def test_an_interval_ends_where_no_accuracy_and_no_loss_can_be():
    results = {seed: {"test_accuracy": 0.7 + 0.1 * seed, "test_loss": 0.1 + seed} for seed in range(2)}
    found = seeds.spreads(results)
    assert seeds.interval("test_accuracy", found["test_accuracy"]) == "11.47% to 100.00%"
    assert (found["test_loss"].low, round(found["test_loss"].high, 2)) == (0, 6.95)


def test_more_seeds_go_on_from_those_there_are(copied, trained):
    assert main([*RECIPE, "--seeds=2,5,3,2", f"--workdir={copied}"]) == 0
    assert trained == [2, 5, 3]
    assert list(json.loads((copied / "seeds.json").read_text())["results"]) == ["2", "5", "3"]


def test_a_signal_stops_it_and_the_same_command_goes_on(tmp_path, trained, monkeypatch, capsys):
    train = seeds.train

    def stopped(config, workdir, trackers=()):
        if config.seed == 2:
            raise Interrupted(signal.SIGTERM)
        if config.seed == 0:  # when this run is done and the next has not begun
            os.kill(os.getpid(), signal.SIGTERM)
        return train(config, workdir)

    monkeypatch.setattr(seeds, "train", stopped)
    assert [main([*RECIPE, "--seeds=1,0,2", f"--workdir={tmp_path}"])] == [143]
    assert trained == [1, 0]
    assert len(json.loads((tmp_path / "seeds.json").read_text())["results"]) == 2
    assert "the same command resumes from here" in capsys.readouterr().err
    assert main([*RECIPE, "--seeds=1,2", f"--workdir={tmp_path}"]) == 143


def test_a_seed_that_diverges_is_named_and_left_out_of_every_mean(tmp_path, trained, monkeypatch, capsys):
    train = seeds.train

    def diverging(config, workdir, trackers=()):
        if config.seed == 1:
            raise NotFinite("the loss is not finite")
        return train(config, workdir)

    monkeypatch.setattr(seeds, "train", diverging)
    assert main([*RECIPE, "--seeds=4", f"--workdir={tmp_path}"]) == 4
    captured = capsys.readouterr()
    assert "seed 1 diverged: the loss is not finite" in captured.out
    assert "of 4 seeds these diverged and are left out of all means: 1" in captured.err
    found = json.loads((tmp_path / "seeds.json").read_text())
    assert (list(found["results"]), found["diverged"]) == (["0", "2", "3"], [1])
    assert found["statistics"]["test_accuracy"]["seeds"] == 3
    assert "Diverged and left out: 1." in (tmp_path / "seeds.html").read_text()


def test_without_seeds_it_is_one_run_of_its_own(tmp_path, trained):
    assert main([*RECIPE, "--config.seed=7", f"--workdir={tmp_path}"]) == 0
    assert trained == [7]
    assert (tmp_path / "report").is_dir() and not (tmp_path / "seeds.json").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("five", "--seeds must be a number of seeds, such as 5, or a list, such as 0,1,2: not 'five'"),
        ("0,-1", "not '0,-1'"),
        ("1", "--seeds needs two or more: one run has no spread. For another seed set --config.seed"),
        ("3,3", "--seeds needs two or more"),
        ("9999999999", "--seeds takes at most 1,000"),
        ("9" * 5000, "--seeds must be a number of seeds"),
        ("1,4294967296", "config.seed must be an integer from 0 to 2**31 - 1"),
    ],
)
def test_mistakes(value, message, tmp_path, capsys, trained):
    assert main([*RECIPE, f"--seeds={value}", f"--workdir={tmp_path}"]) == 1
    assert message in capsys.readouterr().err
    assert trained == [] and not list(tmp_path.iterdir())


def test_a_seed_of_the_config_beside_seeds_is_refused(tmp_path, capsys, trained):
    assert main([*RECIPE, "--config.seed=7", "--seeds=3", f"--workdir={tmp_path}"]) == 1
    assert capsys.readouterr().err == "error: --seeds=3 replaces config.seed 7: leave out one of them\n"
    assert trained == [] and not list(tmp_path.iterdir())


def test_each_seed_is_the_recipe_with_that_seed():
    _, [(config, _)], _ = parse(RECIPE)
    _, [(other, _)], _ = parse([*RECIPE, "--config.seed=3"])
    assert seeds.with_seed(config, 3) == other
