"""A run is recorded as what it is: a recipe or a changed one, finished or in progress."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict, FrozenConfigDict

from benchmarks import accuracy, recipes, runs, speed
from resnet_flax.config.checks import complete
from resnet_flax.config.stored import config_to_json, read_config
from resnet_flax.errors import UserError
from resnet_flax.main import main as train

COLUMNS = "epoch,step,learning_rate,momentum,train_loss,train_accuracy,val_loss,val_accuracy"


def made(folder: Path, recipe: str, accuracy: float | None = None, device: str = "1 x cpu", **changes) -> Path:
    """A workdir of a recipe with changes of its fields, in progress or finished with an accuracy."""
    config = ConfigDict(recipes.config(recipe, [f"--config.{field}={value}" for field, value in changes.items()]))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config_to_json(FrozenConfigDict(config)))
    (folder / "metrics.csv").write_text(f"{COLUMNS}\n1,195,0.1,0.9,2,0.25,,\n")
    if accuracy is not None:
        results = {"test_accuracy": accuracy, "test_loss": 0.5, "test_examples": 10_000, "chosen_epoch": 1, "epochs": 1}
        results |= {"parameters": 2_796_202, "images_per_second": 100.0, "training_seconds": 3000, "device": device}
        results |= {"train_examples": 50_000, "code": "5ed9e26", "date": "2026-11-21"}
        (folder / "report").mkdir()
        (folder / "report" / "results.json").write_text(json.dumps(results))
    return folder


@pytest.mark.parametrize("recipe", recipes.variants())
def test_a_config_is_the_recipe_that_it_came_from(recipe):
    config = recipes.config(recipe, ["--config.seed=3", "--config.data.feed=tfdata", "--config.data.dir=/data"])
    assert runs.training_fields(recipes.config(runs.identify(config)[0])) == runs.training_fields(config)
    assert runs.identify(config)[1] == ()
    assert runs.name_of(config).endswith("-seed3") and "changed" not in runs.name_of(config)


def test_no_two_recipes_train_the_same():
    trainings = list(runs.trainings().values())
    assert all(trainings.count(one) == 1 for one in trainings)


def test_a_changed_recipe_is_called_changed_and_its_command_trains_the_same():
    changes = ["--config.optimizer.name=sgd", "--config.data.policy=crop(4)|normalize(half)", "--config.seed=2"]
    config = recipes.config("preact:fast", changes)
    recipe, changed = runs.identify(config)
    assert recipe == "preact:fast" and sorted(changed) == sorted(changes[:2])
    assert runs.name_of(config).startswith("preact-fast-changed-") and runs.name_of(config).endswith("-seed2")
    assert runs.training_fields(recipes.config(recipe, changed)) == runs.training_fields(config)


def test_recorded_is_what_a_finished_run_has_and_nothing_else(small_runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["runs", *map(str, small_runs), f"--output={tmp_path}"])
    monkeypatch.setenv("COMMIT", "5ed9e26")
    assert runs.main() == 0
    found = runs.read(tmp_path)
    assert [str(run.path) for run in found] == capsys.readouterr().out.splitlines()
    for run, workdir in zip(found, small_runs, strict=True):
        assert sorted(path.name for path in run.path.iterdir()) == ["config.json", "metrics.csv", "results.json"]
        assert (run.path / "metrics.csv").read_bytes() == (workdir / "metrics.csv").read_bytes()
        assert run.config == complete(read_config(workdir)) and run.recipe == "quickstart"
        assert run.results == json.loads((workdir / "report" / "results.json").read_text()) | {"code": "5ed9e26"}
        assert {"date", "device", "seed", "training_seconds", "jax", "python", "train_examples"} < run.results.keys()
        assert run.images == 4 * 512


def test_a_run_of_a_recipe_for_speed_is_also_recorded_with_the_views_of_the_records(
    small_runs, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(speed, "TARGETS", {"94": "tiny"})
    recorded = [runs.read_one(runs.record(workdir, tmp_path)) for workdir in small_runs]
    capsys.readouterr()
    for run, workdir in zip(recorded, small_runs, strict=True):
        assert train(["evaluate", f"--workdir={workdir}", "--tta=flip,shift"]) == 0
        [line] = [line for line in capsys.readouterr().out.splitlines() if " 6 views" in line]
        assert f"{run.results['tta_accuracy']:.2%}" in line


def test_a_run_of_an_older_version_is_completed(small_runs, tmp_path):
    workdir = tmp_path / "old"
    shutil.copytree(small_runs[0], workdir, ignore=shutil.ignore_patterns("checkpoints"))
    path = workdir / "report" / "results.json"
    new = json.loads(path.read_text())
    later = ("seed", "date", "code", "training_seconds", "train_examples")
    path.write_text(json.dumps({name: value for name, value in new.items() if name not in later}))
    old = runs.read_one(runs.record(workdir, tmp_path)).results
    assert (old["seed"], old["code"], old["train_examples"]) == (0, "unknown", 512)
    assert old["training_seconds"] == round(2048 / new["images_per_second"])
    assert old["date"][:10] == new["date"][:10]


def test_a_finished_run_takes_the_place_of_its_progress_and_is_not_lost_to_another_in_progress(tmp_path):
    assert runs.record(made(tmp_path / "a", "preact:fast"), tmp_path).name == "preact-fast-seed0"
    assert [run.results for run in runs.read(tmp_path)] == [{}]
    gpu = runs.record(made(tmp_path / "b", "preact:fast", 0.92, "1 x NVIDIA H200"), tmp_path)
    assert [run.path for run in runs.read(tmp_path)] == [gpu] and gpu.name == "preact-fast-seed0-nvidia-h200"
    cpu = runs.record(made(tmp_path / "c", "preact:fast", 0.91), tmp_path)
    with pytest.raises(UserError, match=r"is in progress, and .*preact-fast-seed0 is a finished run of the same"):
        runs.record(made(tmp_path / "d", "preact:fast"), tmp_path)
    assert {run.path for run in runs.read(tmp_path)} == {cpu, gpu}


def test_recipes_changed_runs_and_runs_in_progress_are_listed_apart(tmp_path):
    for seed, share in enumerate((0.91, 0.92)):
        runs.record(made(tmp_path / f"w{seed}", "preact:fast", share, seed=seed), tmp_path)
    runs.record(made(tmp_path / "c", "preact:fast", 0.5, **{"train.epochs": 1}), tmp_path)
    runs.record(made(tmp_path / "p", "resnet_443:full", seed=1), tmp_path)
    found = runs.read(tmp_path)
    row = "| preact:fast | 90.76 | 91.50 ± 0.71 | 2 | 1 | 50,000 | 50 min | an unnamed CPU | 5ed9e26 |"
    assert accuracy.trained(found).splitlines()[2:] == [row]
    changed = accuracy.changed(found)
    assert "50.00% of 10,000 test images after 1 epoch on 50,000 images in 50 min on an unnamed CPU" in changed
    assert "`python -m resnet_flax.main --config=configs/preact.py:fast --config.train.epochs=1`" in changed
    assert accuracy.unfinished(found) == (
        "- [resnet_443-full-seed1](../benchmarks/results/runs/resnet_443-full-seed1): epoch 1 of 75, training accuracy "
        "25.00%.\n  `python -m resnet_flax.main --config=configs/resnet_443.py:full --config.seed=1`\n"
    )
    assert accuracy.statement("preact", found) == "This project: preact:fast 91.50 ± 0.71 % (n = 2, an unnamed CPU)."
    assert accuracy.statement("resnet_443", found) == "This project: not yet measured."


def test_both_accuracies_are_stated_where_all_runs_have_both(tmp_path):
    for seed in range(2):
        runs.record(made(tmp_path / f"{seed}", "preact:fast", 0.93, seed=seed), tmp_path)
    one, other = runs.read(tmp_path)
    one.results["tta_accuracy"] = 0.94
    [group] = accuracy.groups([one, other])
    assert group.accuracies() == "93.00 ± 0.00 % (n = 2)"
    other.results["tta_accuracy"] = 0.95
    assert group.accuracies() == "93.00 ± 0.00 %, 94.50 ± 0.71 % with six views (n = 2)"
    assert "| 93.00 ± 0.00 | 94.50 ± 0.71 | 2 |" in accuracy.trained([one, other])


def test_every_recorded_run_is_as_its_folder_says():
    found = runs.read()
    assert found
    for run in found:
        assert run.path.name == runs.name_of(run.config, run.results.get("device", ""))
        assert sum(path.stat().st_size for path in run.path.iterdir()) < 100_000
