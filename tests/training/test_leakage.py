"""Leakage is noted: held-out images on which another network of the run was trained."""

from pathlib import Path

import pytest
from ml_collections import FrozenConfigDict

from resnet_flax.config.checks import complete
from resnet_flax.config.defaults import get_config
from resnet_flax.config.stored import config_to_json
from resnet_flax.main import main
from resnet_flax.training.leakage import leakage_notes, place


def notes(field: str, name: str, validation: str) -> list[str]:
    config = get_config()
    config.data.update(train="train[:5%]", validation=validation)
    config.train[field] = name
    return list(leakage_notes(complete(config), ["validation", "test"]))


@pytest.mark.parametrize("field", ["init_from", "teacher"])
def test_validation_on_images_that_the_source_was_trained_on_is_noted(field, small_runs):
    assert notes(field, str(small_runs[0]), "train[90%:]") == []  # it was trained on 512 images
    (note,) = notes(field, str(small_runs[0]), "train[5%:40%]")
    trained = "the first 512 of train[:90%]"
    assert note == f"{small_runs[0]} was trained on {trained}, so accuracy on validation says little about new images"


def test_what_the_source_itself_started_from_counts_too(small_runs, tmp_path):
    store(tmp_path, "train[:5%]", init_from=str(small_runs[0]))
    (note,) = notes("teacher", str(tmp_path), "train[5%:40%]")
    assert note.startswith(f"{small_runs[0]} was trained on ")


def test_a_source_whose_images_are_gone_is_not_noted(tmp_path):
    store(tmp_path, "train[:5000]")  # there are fewer
    assert notes("teacher", str(tmp_path), "train[5%:40%]") == []


def store(folder: Path, trained: str, init_from: str = "") -> None:
    """Write the config of a run into `folder`."""
    config = get_config()
    config.data.update(train=trained, validation="", policy="normalize(half)")
    config.train.init_from = init_from
    (folder / "config.json").write_text(config_to_json(FrozenConfigDict(config)))


def test_the_same_folder_is_known_by_any_of_its_names_and_own_arrays_are_not_those_of_a_dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = get_config().data
    data.name, data.dir = "folder", "photos"
    there = place(data)
    for name in ("./photos", str(tmp_path / "photos"), "../" + tmp_path.name + "/photos"):
        data.dir = name
        assert place(data) == there
    data.name, data.dir = "cifar10", "photos"
    assert place(data) == ("cifar10", "", 32)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "train_images.npy").touch()
    assert place(data) == ("cifar10", str(tmp_path / "photos"), 32)


def test_a_network_of_other_or_unknown_data_is_not_noted(tmp_path):
    assert notes("init_from", "preact", "train[60%:]") == []  # CIFAR-10
    assert notes("init_from", str(tmp_path / "absent"), "train[60%:]") == []


def test_training_and_evaluation_print_the_note(undrawn, small_runs, tmp_path, capsys):
    words = ["--config=quickstart", f"--config.train.teacher={small_runs[0]}", "--config.train.epochs=1"]
    words += [
        "--config.data.train=train[:10%]",
        "--config.data.validation=train[10%:20%]",
        "--config.model.blocks=(1,)",
    ]
    words += ["--config.model.widths=(4,)", f"--workdir={tmp_path}"]
    assert main(words) == 0
    note = "so accuracy on validation says little about new images"
    assert note in capsys.readouterr().out
    assert main(["evaluate", f"--workdir={tmp_path}", "--split=validation"]) == 0
    assert note in capsys.readouterr().out


def test_networks_that_a_downloaded_config_names_are_not_downloaded(monkeypatch, tmp_path):
    store(tmp_path, "train[:5%]", init_from="hf:someone/else")
    monkeypatch.setattr("resnet_flax.training.leakage.find_trained", {"hf:me/net": tmp_path}.__getitem__)
    assert len(notes("teacher", "hf:me/net", "train[:10%]")) == 1
