"""The evaluate verb: one run, several and their ensemble, other views, warnings and mistakes."""

import json
import re
import shutil
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict, FrozenConfigDict
from PIL import Image

from resnet_flax.commands.evaluate import (
    AUGMENTATIONS,
    View,
    augmentation_notes,
    flip,
    over_views,
    shift,
    training_note,
)
from resnet_flax.config.checks import complete
from resnet_flax.config.stored import read_config
from resnet_flax.data.datasets.fingerprint import fingerprint
from resnet_flax.data.datasets.load import find_arrays, load_split
from resnet_flax.main import main
from resnet_flax.training.classifier import Classifier, largest_batch
from resnet_flax.training.restore import restore_checkpoint
from resnet_flax.workdir import predictions
from resnet_flax.workdir.folder import Job


def results(workdir) -> dict:
    return json.loads((workdir / "report" / "results.json").read_text())


def answers(workdir, split: str = "test") -> predictions.Predictions:
    config = complete(read_config(workdir))
    _, examples = load_split(config.data, split)
    state = restore_checkpoint(config, workdir).tree["state"]
    return Classifier(config, 360).evaluate(state.variables, examples)


def test_evaluate_gives_what_training_found(small_runs, capsys):
    found = results(small_runs[0])
    assert main(["evaluate", f"--workdir={small_runs[0]}"]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"{small_runs[0]} +{found['test_accuracy']:.2%} .* {found['test_loss']:.4f} ", out)
    assert re.search(r"^9 +\S+ +[\d.]+% +[\d.]+% +\d+$", out, re.MULTILINE)
    assert main(["evaluate", str(small_runs[0]), "--split=validation"]) == 0
    assert f"{found['val_accuracy']:.2%}" in capsys.readouterr().out


def test_networks_that_are_evaluated_on_different_images_are_no_ensemble(small_runs, capsys):
    """Though their labels are the same, as in two folders with as many photos of each class."""
    with mock.patch("resnet_flax.commands.evaluate.same_images", lambda one, other: one is other):
        assert main(["evaluate", *map(str, small_runs)]) == 1
    assert f"{small_runs[1]} has different classes or images from {small_runs[0]}" in capsys.readouterr().err


def test_ensemble_is_the_mean_of_probabilities(small_runs, capsys):
    assert main(["evaluate", *map(str, small_runs)]) == 0
    out = capsys.readouterr().out
    members = [answers(workdir) for workdir in small_runs]
    mean = np.mean([member.probabilities for member in members], 0)
    accuracy = np.mean(mean.argmax(1) == members[0].labels)
    assert re.search(rf"^ensemble of 2 +{accuracy:.2%} ", out, re.MULTILINE)
    for member, workdir in zip(members, small_runs, strict=True):
        assert re.search(rf"^{workdir} +{member.accuracy:.2%} ", out, re.MULTILINE)
    points = 100 * (members[1].accuracy - members[0].accuracy)
    difference = re.escape(f"{points:+.2f}") + r" \([+-][\d.]+ to [+-][\d.]+\)"
    assert re.search(rf"^{small_runs[1]} .*  {difference}$", out, re.MULTILINE)


def test_scores_over_views_are_printed_beside_the_plain_ones(small_runs, capsys):
    assert main(["evaluate", *map(str, small_runs), "--tta=flip,shift"]) == 0
    out = capsys.readouterr().out
    for row in (small_runs[0], f"{small_runs[0]}, 6 views", "ensemble of 2", "ensemble of 2, 6 views"):
        assert re.search(rf"^{row} +\d", out, re.MULTILINE), row
    assert f"{results(small_runs[0])['test_accuracy']:.2%}" in out


def test_views():
    images = np.random.default_rng(0).integers(1, 256, (2, 8, 8, 3), np.uint8)
    as_it_is, mirrored = flip([View(images)])
    np.testing.assert_array_equal(as_it_is.images, images)
    np.testing.assert_array_equal(mirrored.images[:, :, 0], images[:, :, 7])
    as_it_is, up, down = (view.images for view in shift([View(images)]))
    np.testing.assert_array_equal(as_it_is, images)
    np.testing.assert_array_equal(up[:, :-1, :-1], images[:, 1:, 1:])
    np.testing.assert_array_equal(up[:, -1, :-1], images[:, 6, 1:])  # the border is a mirror
    np.testing.assert_array_equal(down[:, 1:, 1:], images[:, :-1, :-1])
    np.testing.assert_array_equal(down[:, 1:, 0], images[:, :-1, 1])
    six = flip(shift([View(images)]))
    assert [view.weight for view in six] == [1 / 4, 1 / 4, *[1 / 8] * 4]
    np.testing.assert_array_equal(six[3].images, up[:, :, ::-1])


def test_views_count_by_their_weights():
    logits = np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32)
    answers = [
        predictions.Predictions(np.asarray(jax.nn.log_softmax(each)), np.arange(2, dtype=np.int32)) for each in logits
    ]
    mean = over_views(answers, [0.5, 0.25, 0.25])
    expected = jax.nn.log_softmax(logits[0] / 2 + logits[1] / 4 + logits[2] / 4)
    np.testing.assert_allclose(mean.log_probabilities, expected, rtol=1e-5)
    assert mean.log_probabilities.dtype == np.float32 and mean.labels is answers[0].labels


def test_padding_changes_no_prediction(small_runs):
    config = complete(read_config(small_runs[0]))
    state = restore_checkpoint(config, small_runs[0]).tree["state"]
    images = load_split(config.data, "test[:11]")[1].images
    whole, padded = (Classifier(config, size)(state.variables, images) for size in (11, 8))
    assert padded.shape == (11, 10)
    np.testing.assert_allclose(padded, whole, rtol=1e-5, atol=1e-5)


def test_larger_images_are_evaluated_in_smaller_batches():
    assert [largest_batch(size, size) for size in (16, 32, 64, 224, 1024)] == [500, 500, 125, 10, 1]


def test_checkpoints_by_name_and_step(small_runs, capsys):
    newest = max(int(path.name) for path in (small_runs[0] / "checkpoints").iterdir() if path.name.isdigit())
    for which in ("newest", str(newest)):
        assert main(["evaluate", str(small_runs[0]), f"--checkpoint={which}"]) == 0
        assert f"checkpoint {which} (step {newest})" in capsys.readouterr().out
    assert main(["evaluate", str(small_runs[0]), "--checkpoint=nwest"]) == 1
    assert capsys.readouterr().err == "error: unknown checkpoint 'nwest': did you mean 'newest'?\n"


def test_reading_leaves_a_damaged_checkpoint_where_it_is(small_runs, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(small_runs[0], workdir)
    for step in (workdir / "checkpoints").iterdir():
        file = max(step.glob("tree/**/d/*"), key=lambda path: path.stat().st_size)
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    before = sorted(workdir.rglob("*"))
    assert main(["evaluate", str(workdir)]) == 1
    assert "is intact" in capsys.readouterr().err
    assert sorted(workdir.rglob("*")) == before


def test_a_note_says_that_a_split_was_trained_on(small_runs, capsys):
    for split, told in (("train", True), ("train[:9]", True), ("train[95%:]", False), ("test", False)):
        assert main(["evaluate", str(small_runs[0]), f"--split={split}"]) == 0
        assert ("was trained on the first 512 of train[:90%] of these data" in capsys.readouterr().out) == told


@pytest.fixture
def elsewhere(small_runs, tmp_path) -> Path:
    """Copies of the arrays that the runs were trained on, in a folder of their own."""
    return Path(shutil.copytree(find_arrays(complete(read_config(small_runs[0])).data), tmp_path / "arrays"))


def write_noise(folder: Path) -> None:
    for split in ("train", "test"):
        np.save(folder / f"{split}_images.npy", np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), np.uint8))
        np.save(folder / f"{split}_labels.npy", np.arange(50) % 10)


def test_other_data_are_not_taken_for_those_of_the_training(small_runs, elsewhere, capsys):
    """Their splits have the same names, and another place or digest."""
    write_noise(elsewhere)
    assert main(["evaluate", str(small_runs[0]), "--split=train", f"--config.data.dir={elsewhere}"]) == 0
    out = capsys.readouterr().out
    assert f"train[:90%] of digits in {elsewhere}, checkpoint best" in out
    assert "note" not in out


def test_data_of_the_training_are_known_wherever_they_lie(small_runs, elsewhere, tmp_path, capsys):
    config = complete(read_config(small_runs[0]))
    trained = fingerprint(config.data)["train"]

    def note(data, split, trained=trained):
        changed = ConfigDict(config)
        changed.data.dir = str(data)
        return training_note(Job(FrozenConfigDict(changed), small_runs[0]), split, trained)

    data = "the first 512 of train[:90%] of these data"
    said = f"{small_runs[0]} was trained on {data}, so this says little about new images"
    assert note(elsewhere, "train[:20]") == note("", "train[:20]") == said
    assert note(elsewhere, "train[90%:]") == note(elsewhere, "test") == ""
    assert note(elsewhere, "train[:20]", None) == ""  # an older checkpoint does not tell
    changed = trained | {"digest": "0" * 16}
    assert note("", "train[:20]", changed).startswith(f"digits has changed since {small_runs[0]} was trained on")
    assert note("", "test", changed) == ""


def test_views_that_the_training_did_not_prepare_are_warned_of(small_runs, capsys):
    """The policy of the runs is crop(4)|normalize(half): a mirrored 2 is no digit."""
    assert main(["evaluate", str(small_runs[0]), "--tta=flip,shift"]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
    assert notes == [f"note: {small_runs[0]} was trained without flip: --tta=flip may lower its accuracy"]
    config = ConfigDict(complete(read_config(small_runs[0])))
    config.data.policy = "flip|normalize(half)"
    job = Job(FrozenConfigDict(config), small_runs[0])
    assert augmentation_notes(job, AUGMENTATIONS) == [
        f"{small_runs[0]} was trained without crop or translate or affine: --tta=shift may lower its accuracy"
    ]


def test_a_flat_folder_of_labelled_images_says_how_it_is_evaluated(small_runs, tmp_path, capsys):
    for name in "0123456789":
        (tmp_path / "flat" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "flat" / name / "a.png")
    words = ["evaluate", str(small_runs[0]), "--config.data.name=folder", f"--config.data.dir={tmp_path}/flat"]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error == (
        f"error: config.data.test is 'test', and {tmp_path}/flat has only train: --split=train[:] is all of train\n"
    )
    assert main([*words, "--split=train[:]"]) == 0
    assert "/ 10\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split=tset"], "unknown split 'tset': did you mean 'test'?"),
        (["--split=valid"], "unknown split 'valid': did you mean 'validation'?"),
        (["--split=test[:1"], "must look like train, train[:90%]"),
        (["--tta=flop"], "unknown view for --tta 'flop': did you mean 'flip'?"),
        (["--config.data.classes=('a','b')"], "config.data.classes must be 10 names"),
    ],
)
def test_mistakes(small_runs, words, message, capsys):
    assert main(["evaluate", str(small_runs[0]), *words]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_one_dispatch_over_images_on_the_device_gives_the_same(small_runs):
    config = complete(read_config(small_runs[0]))
    _, examples = load_split(config.data, "test")
    variables = restore_checkpoint(config, small_runs[0]).tree["state"].variables
    classifier = Classifier(config, 50)  # the last of 360 images is in a batch with padding
    for _ in range(2):  # the second time the images are on the device
        np.testing.assert_allclose(
            classifier.in_one_dispatch(variables, examples.images), classifier(variables, examples.images), atol=1e-5
        )
