"""Recipes are trained as their reports say, each once, and the table tells a short run from a reproduction."""

import json
import sys

import numpy as np
import pytest

from benchmarks import recipes, reproduce


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in {"train": 40, "test": 10}.items():
        np.save(tmp_path / f"{split}_images.npy", rng.integers(0, 256, (count, 32, 32, 3), np.uint8))
        np.save(tmp_path / f"{split}_labels.npy", rng.integers(0, 10, count))
    return tmp_path


def test_a_run_is_done_once_and_goes_on_after_a_stop(data, monkeypatch, capsys):
    tiny = ["--config.model.blocks=(1,)", "--config.model.widths=(4,)", "--config.data.policy=normalize(half)"]
    tiny += ["--config.train.batch_size=8", "--config.data.feed=device", f"--config.data.dir={data}"]
    words = ["--recipes=resnet_443", "--epochs=1", "--train-examples=32", f"--workdir={data / 'runs'}", *tiny]
    monkeypatch.setattr(sys, "argv", ["reproduce", *words, f"--output={data}"])
    real, commands = reproduce.train, []

    def stopped_at_first(command):
        commands.append(command)
        return 143 if len(commands) == 1 else real(command)

    monkeypatch.setattr(reproduce, "train", stopped_at_first)
    assert [reproduce.main() for _ in range(3)] == [143, 0, 0]
    assert len(commands) == 2 and commands[0] == commands[1]
    assert f"--config={recipes.ROOT}/configs/resnet_443.py:full" in commands[0]
    [line] = [json.loads(line) for line in (data / "reproduce.jsonl").read_text().splitlines()]
    assert line["case"]["train_examples"] == 32
    assert 0 <= line["found"]["test_accuracy"] <= 1 and line["found"]["epochs"] == 1
    assert not any("data.dir" in word or "data.feed" in word for word in line["case"]["changes"])
    table = (data / "reproduce.md").read_text()
    assert "| resnet_443, not a reproduction: train.epochs=1 schedule.milestones=() schedule.name=constant " in table
    assert table in capsys.readouterr().out


def test_table_of_seeds():
    def line(seed: int, accuracy: float) -> dict:
        case = {"recipe": "preact", "seed": seed, "batch": 32, "train_examples": 40_000, "changes": []}
        found = {"test_accuracy": accuracy, "parameters": 2_796_202, "epochs": 40 + seed, "seconds_per_epoch": 1.5}
        return {"case": case, "found": found, "made": {"device": "1 x somewhat"}}

    table = reproduce.table([line(0, 0.905), line(1, 0.915)])
    assert table.startswith("On 1 x somewhat:\n")
    assert "| preact | 90.76 | 91.00 ± 0.71 (n = 2) | 2,796,202 | 40,000 | 40 to 41 | 32 | 1.50 |" in table
    assert "| 90.50 (n = 1) |" in reproduce.table([line(0, 0.905)])


@pytest.mark.parametrize("epochs", [1, 2, 10])
@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_schedules_are_squeezed_into_fewer_epochs(recipe, epochs):
    config = recipes.config(recipe, reproduce.squeeze(recipe, epochs), reproduce.argument(recipe))
    assert config.train.epochs == epochs
    assert (config.data.validation == "") == (recipe != "preact")


def test_reported_accuracies_are_those_of_the_readme():
    text = (recipes.ROOT / "README.md").read_text()
    for recipe, reported in reproduce.REPORTED.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| [{recipe}]"))
        assert all(f"{number} %" in row for number in reported.removesuffix(" in its log").split(", "))
