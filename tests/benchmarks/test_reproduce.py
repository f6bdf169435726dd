"""Recipes are trained as their reports say, each once, and the tables tell a short run from a reproduction."""

import itertools
import sys

import numpy as np
import pytest

from benchmarks import recipes, reproduce, runs, speed
from resnet_flax.workdir.results import read_results


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
    words = ["--recipes=resnet_443", "--epochs=1", "--train-examples=32", f"--workdir={data / 'workdirs'}", *tiny]
    monkeypatch.setattr(sys, "argv", ["reproduce", *words, f"--output={data}"])
    real, commands = reproduce.train, []

    def stopped_at_first(command):
        commands.append(command)
        return 143 if len(commands) == 1 else real(command)

    monkeypatch.setattr(reproduce, "train", stopped_at_first)
    assert [reproduce.main() for _ in range(3)] == [143, 0, 0]
    assert len(commands) == 2 and commands[0] == commands[1]
    assert f"--config={recipes.ROOT}/configs/resnet_443.py:full" in commands[0]
    [run] = runs.read(data)
    assert run.recipe == "resnet_443:full" and "--config.train.epochs=1" in run.changes
    assert run.results["train_examples"] == run.images == 32 and run.results["epochs"] == 1
    assert not any("data.dir" in word or "data.feed" in word for word in run.changes) and run.config.data.dir == ""
    printed = capsys.readouterr().out
    assert f"- [{run.path.name}]" in printed and "--config.train.epochs=1" in printed
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--again"])
    assert reproduce.main() == 0
    first, second = sorted((data / "workdirs").iterdir())
    assert second.name == f"{first.name}-2" and commands[2] == [*commands[1][:-1], f"--workdir={second}"]
    [recorded] = runs.read(data)
    assert read_results(second).items() <= recorded.results.items()


def test_after_a_crash_the_next_recipe_is_trained(tmp_path, monkeypatch, capsys):
    words = ["--recipes=preact:fast,resnet_443:fast", f"--workdir={tmp_path}", f"--output={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["reproduce", *words])
    trained = []

    def train(command):
        trained.append(command[0])
        if len(trained) == 1:
            raise RuntimeError("INTERNAL: autotuning failed")
        return 1

    monkeypatch.setattr(reproduce, "train", train)
    assert reproduce.main() == 70
    assert [word.rpartition("/")[2] for word in trained] == ["preact.py:fast", "resnet_443.py:fast"]
    assert "INTERNAL: autotuning failed" in capsys.readouterr().err


def test_recipes_are_named_with_their_words():
    assert reproduce.chosen("preact:sgd+relu") == "preact:sgd,relu"
    assert [reproduce.chosen(name) for name in ("preact", "resnet_353")] == ["preact", "resnet_353:full"]
    assert recipes.config(reproduce.chosen("preact:sgd+relu")).model.activation == "relu"


def test_the_default_is_everything_in_the_order_of_its_cost():
    assert len(set(reproduce.DEFAULT)) == 15
    chosen = [reproduce.chosen(name) for name in reproduce.DEFAULT]
    assert {recipe for recipe in recipes.REPORTED if ":" not in recipe or recipe.endswith(":full")} < set(chosen)
    assert {f"{name}:fast" for name in recipes.RECIPES} < set(chosen)
    assert {f"{name}:full" for name in speed.TARGETS.values()} < set(chosen)
    configs = [recipes.config(recipe) for recipe in chosen]
    epochs = [config.train.epochs * (2 if config.data.concat_original else 1) for config in configs]
    flops = [recipes.training_flops(config) * count for config, count in zip(configs, epochs, strict=True)]
    assert all(one <= 1.01 * other for one, other in itertools.pairwise(flops))


@pytest.mark.parametrize("epochs", [1, 2, 10])
@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_schedules_are_squeezed_into_fewer_epochs(recipe, epochs):
    recipe = reproduce.chosen(recipe)
    config = recipes.config(recipe, reproduce.squeeze(recipe, epochs))
    assert config.train.epochs == epochs
    assert (config.data.validation == "") == (recipe != "preact")


def test_reported_accuracies_are_those_of_the_readme_and_of_the_docstrings():
    text = (recipes.ROOT / "README.md").read_text()
    for recipe, reported in recipes.REPORTED.items():
        name, numbers = recipe.partition(":")[0], reported.removesuffix(" in its log").split(", ")
        docstring = (recipes.ROOT / "configs" / f"{name}.py").read_text()
        assert all(f"{number} %" in docstring for number in numbers)
        if recipe == recipes.as_reported(name):
            row = next(line for line in text.splitlines() if line.startswith(f"| [{recipe}]"))
            assert all(f"{number} %" in row for number in numbers)
