"""A run that learns from others: what a teacher answers, which ones are refused, and that a resumed run has its own."""

import json
import shutil

import jax
import numpy as np
import pytest

from benchmarks.faults.injection import STEPS, at_step, end, run, send
from resnet_flax import api
from resnet_flax.config.checks import complete
from resnet_flax.config.defaults import changed
from resnet_flax.config.stored import read_config
from resnet_flax.data.augment.policy import Policy
from resnet_flax.errors import UserError
from resnet_flax.main import main
from resnet_flax.training.teacher import load_teacher

pytestmark = pytest.mark.usefixtures("undrawn")

SHORT = ["--config.train.epochs=2", "--config.train.patience=0"]


@pytest.fixture(scope="module")
def student(small_runs):
    """The config of a run on the data of `small_runs`, with another normalisation."""
    config = complete(read_config(small_runs[0]))
    return changed(config, {"data.policy": "normalize(cifar10)", "train.teacher_temperature": 1.0})


def taught_by(config, *paths, **fields):
    return load_teacher(changed(config, {"train.teacher": ",".join(map(str, paths)), **fields}))


def test_teacher_answers_as_its_networks_predict_however_the_images_are_normalised(small_runs, student, tmp_path):
    exported = tmp_path / "weights.safetensors"
    assert main(["export", f"--workdir={small_runs[1]}", f"--output={exported}"]) == 0
    teacher, variables = taught_by(student, small_runs[0], exported)
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    answers = teacher.probabilities(variables, Policy("normalize(cifar10)").normalize(np, images))
    expected = np.mean([api.load(path).predict(images) for path in (small_runs[0], exported)], axis=0)
    assert expected.std() > 0.05
    np.testing.assert_allclose(answers, expected, atol=1e-4)


def test_teachers_that_do_not_fit_are_refused_in_one_line(small_runs, student, tmp_path, capsys):
    program = tmp_path / "network.npz"
    assert main(["export", f"--workdir={small_runs[0]}", f"--output={program}"]) == 0
    digits = tuple("0123456789")
    refused = [
        ((tmp_path / "nothing",), {}, f"{tmp_path / 'nothing'} holds no run"),
        ((program,), {}, f"{program} holds a program, not weights"),
        (
            small_runs,
            {"data.classes": ("one", *digits[1:])},
            f"{small_runs[0]} has the classes 0, 1, 2, 3, 4, and 5 more, and config.data.classes are one, 1, 2, 3, 4, "
            "and 5 more: they must be the same",
        ),
        (
            small_runs,
            {"data.name": "folder", "data.image_size": 16},
            "takes images of 32x32 pixels, but those of config",
        ),
    ]
    for paths, fields, message in refused:
        with pytest.raises(UserError) as raised:
            taught_by(student, *paths, **fields)
        assert str(raised.value).startswith("config.train.teacher: ")
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)
    assert load_teacher(student) == (None, ())


def test_several_processes_need_their_teacher_as_a_file(small_runs, student, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match=f"several processes need {small_runs[0]} as a file: export it to a "):
        taught_by(student, small_runs[0])


def test_run_resumes_with_its_teacher_and_is_refused_without_it_or_with_another(small_runs, tmp_path, capsys):
    teacher = tmp_path / "teacher"
    shutil.copytree(small_runs[0], teacher)
    words = [*SHORT, f"--config.train.teacher={teacher}", "--config.train.teacher_weight=0.5"]
    with at_step(STEPS + 2, send(15)):
        assert run(tmp_path / "run", *words) == 143
    capsys.readouterr()
    teacher.rename(tmp_path / "away")
    assert run(tmp_path / "run", *words) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: config.train.teacher: {teacher} holds no run") and error.count("\n") == 1
    shutil.copytree(small_runs[1], teacher)
    assert run(tmp_path / "run", *words) == 1
    other = (
        f"error: {tmp_path / 'run'} holds a different run (its teacher {teacher} has other weights): undo the change"
    )
    assert capsys.readouterr().err == f"{other}, or choose another --workdir\n"
    shutil.rmtree(teacher)
    (tmp_path / "away").rename(teacher)
    assert run(tmp_path / "run", *words) == 0
    assert f"resuming at step {STEPS + 3}" in capsys.readouterr().out
    assert run(tmp_path / "undisturbed", *words) == 0
    assert end(tmp_path / "run", *words) == end(tmp_path / "undisturbed", *words)
    results = json.loads((tmp_path / "run" / "report" / "results.json").read_text())
    assert results["train_accuracy_of"] == "mixed images, by the class with the largest share"
