"""Trained networks are found by name, and what the package records of its own is what was measured."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import resnet_flax as rf
from benchmarks import runs
from resnet_flax.config.checks import complete
from resnet_flax.config.stored import read_config, read_weights_config
from resnet_flax.errors import Damaged, UserError
from resnet_flax.files import MAX_TEXT_BYTES
from resnet_flax.main import main
from resnet_flax.workdir import trained
from resnet_flax.workdir.predictions import wilson_interval
from resnet_flax.workdir.trained import find_trained, pretrained_files, pretrained_names

NAMES = pretrained_names()
MAX_PACKAGE_BYTES = 6_000_000


@pytest.mark.parametrize("weights", pretrained_files(), ids=lambda path: path.parent.name)
def test_a_pretrained_network_is_the_recorded_run_that_it_says(weights):
    results = json.loads((weights.parent / "results.json").read_text())
    run = runs.read_one(runs.RESULTS / runs.RUNS / results["run"])
    assert results["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    config = complete(read_config(run.path))
    assert complete(read_weights_config(weights)) == complete(read_config(weights.parent)) == config
    assert results["run_test_accuracy"] == run.results["test_accuracy"]
    assert abs(results["test_accuracy"] - run.results["test_accuracy"]) < 0.001  # rounding may change a few images
    for field in ("seed", "code", "date", "epochs", "parameters", "train_examples", "test_examples"):
        assert results[field] == run.results[field]
    assert results["recipe"] == " ".join([run.recipe, *run.changes]) and results["command"] == run.command()
    correct = round(results["test_accuracy"] * results["test_examples"])
    np.testing.assert_allclose(results["test_interval"], wilson_interval(correct, results["test_examples"]), atol=1e-5)


@pytest.mark.parametrize("weights", pretrained_files(), ids=lambda path: path.parent.name)
def test_the_card_of_a_pretrained_network_has_its_accuracy_and_checksums(weights):
    card, results = (
        (weights.parent / "README.md").read_text(),
        json.loads((weights.parent / "results.json").read_text()),
    )
    assert f"| test accuracy | {results['test_accuracy']:.2%} |" in card and f"| commit | {results['code']} |" in card
    for name in ("model.safetensors", "config.json", "results.json"):
        assert hashlib.sha256((weights.parent / name).read_bytes()).hexdigest() in card


def test_the_pretrained_networks_are_part_of_the_package_and_small():
    assert NAMES and sum(path.stat().st_size for path in pretrained_files()) < MAX_PACKAGE_BYTES
    for weights in pretrained_files():
        for name, tensor in safetensors.numpy.load_file(weights).items():
            assert tensor.dtype == (np.float16 if tensor.ndim > 1 else np.float32), name


def test_a_pretrained_network_has_a_name_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = find_trained(NAMES[0])
    assert weights == find_trained(f"pretrained:{NAMES[0]}") and weights in pretrained_files()
    assert find_trained(Path(NAMES[0])) == Path(NAMES[0])
    with pytest.raises(rf.UserError, match="there is no network 'preakt': did you mean 'preact'"):
        find_trained("preakt")
    with pytest.raises(rf.UserError, match="there is no pretrained network 'preakt': did you mean 'preact'"):
        find_trained("pretrained:preakt")


def test_a_name_that_is_also_a_run_in_the_current_folder_is_refused(tmp_path, monkeypatch):
    name = NAMES[0]
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_trained(name) in pretrained_files()  # an empty folder is no network
    (tmp_path / name / "config.json").write_text("{}")
    with pytest.raises(rf.UserError, match=f"{name} is a pretrained network, and a network in this folder: write pre"):
        find_trained(name)
    assert find_trained(f"./{name}") == find_trained(Path(name)) == Path(name)
    assert find_trained(f"pretrained:{name}") in pretrained_files()


@pytest.fixture
def damaged(tmp_path, monkeypatch) -> Path:
    """Return a copy of a pretrained network, the only one that there is now, which a test may damage."""
    original = find_trained(f"pretrained:{NAMES[0]}").parent
    monkeypatch.setattr(trained, "PRETRAINED_FOLDER", tmp_path)
    return shutil.copytree(original, tmp_path / "own")


def test_weights_that_are_not_those_of_the_results_are_refused(damaged):
    content = bytearray((damaged / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(content)
    for name in ("own", damaged, damaged / "model.safetensors"):
        with pytest.raises(Damaged, match=r"model\.safetensors does not match its checksum in results\.json"):
            rf.load(name)
    (damaged / "results.json").write_text('{"chosen_epoch": 1}')
    with pytest.raises(Damaged, match=r"results\.json is damaged \('sha256'\)"):
        rf.load("own")


def test_a_config_that_does_not_say_how_images_were_normalised_is_refused(tmp_path):
    tensors = safetensors.numpy.load_file(find_trained("preact"))
    safetensors.numpy.save_file(tensors, tmp_path / "w.safetensors")  # without the config in its metadata
    (tmp_path / "config.json").write_text('{"model": {"name": "preact"}, "data": {"name": "cifar10"}}')
    with pytest.raises(UserError, match=r"w.safetensors does not say how its images were normalised: replace norm"):
        rf.load(tmp_path / "w.safetensors")


def test_metadata_that_is_too_long_is_refused(tmp_path):
    metadata = {"config": "[" + " " * MAX_TEXT_BYTES + "]"}
    safetensors.numpy.save_file({"a": np.zeros(1, np.float32)}, tmp_path / "a.safetensors", metadata)
    with pytest.raises(Damaged, match=r"has damaged metadata \(has more than 8,388,608 characters\)"):
        rf.load(tmp_path / "a.safetensors")


def test_weights_of_another_shape_are_refused(damaged):
    weights = damaged / "model.safetensors"
    tensors = safetensors.numpy.load_file(weights)
    with safetensors.safe_open(weights, "numpy") as opened:
        metadata = opened.metadata()
    safetensors.numpy.save_file(tensors | {"linear.weight": tensors["linear.weight"][:, :8]}, weights, metadata)
    (damaged / "results.json").unlink()
    with pytest.raises(rf.UserError, match=r"of another shape: linear\.weight \(10, 8\) instead of \(10, 256\)$"):
        rf.load(weights)


def test_predict_needs_no_workdir_and_says_which_network_predicts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", np.zeros((1, 32, 32, 3), np.uint8))
    assert main(["predict", "images.npy"]) == 0
    net = rf.load(NAMES[0])
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"network: pretrained:{NAMES[0]}, test accuracy {net.results['test_accuracy']:.2%}"
    assert out[-1] == "1 image in predictions.csv"
    probabilities = net.predict(np.zeros((1, 32, 32, 3), np.uint8))[0]
    assert (tmp_path / "predictions.csv").read_text().splitlines()[1].endswith(f"{probabilities.max():.6f}")
    assert main(["predict", "images.npy", f"--workdir={NAMES[0]}", "--checkpoint=3"]) == 1
    assert capsys.readouterr().err == f"error: pretrained:{NAMES[0]} has no checkpoint '3': it holds only weights\n"
    assert main(["report", NAMES[0]]) == 1
    assert capsys.readouterr().err.startswith(f"error: {NAMES[0]} holds no run")
    assert main(["export", f"--workdir={NAMES[0]}", "--format=hub"]) == 1
    assert "holds only weights, but a model card needs a run: give its workdir" in capsys.readouterr().err
    assert main(["export", f"--workdir={NAMES[0]}"]) == 0
    assert rf.load("weights.safetensors").config == net.config
