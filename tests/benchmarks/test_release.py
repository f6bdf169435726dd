"""A release can be checked, read, and used without this project."""

import hashlib
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

import resnet_flax as rf
from benchmarks import release, runs
from resnet_flax.errors import UserError
from resnet_flax.workdir.results import read_results


def test_a_release_has_the_weights_of_every_run_their_accuracy_and_checksums(small_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["release", *map(str, small_runs), f"--output={tmp_path / 'weights'}"])
    assert release.main() == 0
    table = (tmp_path / "weights" / "README.md").read_text()
    weights = sorted((tmp_path / "weights").glob("*.safetensors"))
    for path, workdir in zip(weights, small_runs, strict=True):
        results = read_results(workdir)
        tensors = load_file(path)
        assert sum(array.size for name, array in tensors.items() if "running" not in name) >= results["parameters"]
        assert path.with_suffix(".json").exists()
        row = next(line for line in table.splitlines() if line.startswith(f"| {path.stem} | quickstart, changed | "))
        assert f"| {results['test_accuracy']:.2%} | 360 | 4 |" in row and row.endswith("| Apache-2.0 |")
    sums = dict(line.split("  ")[::-1] for line in (tmp_path / "weights" / "SHA256SUMS").read_text().splitlines())
    assert len(sums) == 5
    for name, digest in sums.items():
        assert hashlib.sha256((tmp_path / "weights" / name).read_bytes()).hexdigest() == digest


def test_a_run_that_is_not_finished_is_not_released(small_runs, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_bytes((small_runs[0] / "config.json").read_bytes())
    monkeypatch.setattr(sys, "argv", ["release", str(tmp_path), f"--output={tmp_path / 'weights'}"])
    with pytest.raises(UserError, match="is not finished or has no test split"):
        release.main()


def test_a_recorded_run_becomes_a_pretrained_network_in_half_precision(small_runs, tmp_path):
    with pytest.raises(UserError, match=r"is not the finished run quickstart-changed-.* record it first"):
        release.pack_pretrained(small_runs[0], tmp_path / "pretrained", tmp_path)
    runs.record(small_runs[0], tmp_path)
    folder = release.pack_pretrained(small_runs[0], tmp_path / "pretrained", tmp_path)
    net, run = rf.load(folder), rf.load(small_runs[0])
    assert folder.name == "tiny" and net.config == run.config
    assert net.results["run_test_accuracy"] == run.results["test_accuracy"] and net.results["seeds"] == 1
    assert net.results["test_accuracy"] == net.evaluate("test").accuracy
    kernels = [tensor for tensor in load_file(folder / "model.safetensors").values() if tensor.ndim > 1]
    assert kernels and all(tensor.dtype == np.float16 for tensor in kernels)
    runs.record(small_runs[1], tmp_path)
    before = (folder / "model.safetensors").read_bytes()
    assert release.pack_pretrained(folder, tmp_path / "pretrained", tmp_path) == folder
    again = rf.load(folder).results
    assert (folder / "model.safetensors").read_bytes() == before
    accuracies = [rf.load(workdir).results["test_accuracy"] for workdir in small_runs]
    assert (again["seeds"], again["seeds_test_accuracy"]["mean"]) == (2, pytest.approx(sum(accuracies) / 2))
    assert again["test_accuracy"] == net.results["test_accuracy"]
    card = (folder / "README.md").read_text()
    assert 'license: "apache-2.0"' in card and f"| test accuracy | {net.results['test_accuracy']:.2%} |" in card


@pytest.mark.parametrize("name", rf.list_pretrained())
def test_the_card_of_a_pretrained_network_counts_all_seeds_that_are_recorded(name):
    """If not: python -m benchmarks.release resnet_flax/pretrained/NAME --pretrained."""
    results = rf.load(name).results
    recorded = [run for run in runs.read() if run.results and not run.changes and run.recipe == results["recipe"]]
    assert results["seeds"] == len(recorded)


def test_weights_too_large_for_half_precision_are_refused():
    with pytest.raises(UserError, match=r"too large for float16: weight$"):
        release.half_precision({"weight": np.full((2, 2), 1e5, np.float32), "bias": np.full(2, 1e5, np.float32)})
