"""The Python API: what its functions return, and one clear error for every mistake."""

import io
import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from safetensors.numpy import load_file

import resnet_flax as rf
from resnet_flax import models
from resnet_flax.api import read_images
from resnet_flax.config.checks import complete
from resnet_flax.config.defaults import get_config
from resnet_flax.config.recipes import recipe_names
from resnet_flax.errors import Damaged
from resnet_flax.main import main
from resnet_flax.models.weight_files import encode_safetensors
from resnet_flax.training.classifier import Classifier
from resnet_flax.training.step import Totals, TrainState, eval_step, feature_step, train_step
from resnet_flax.workdir.predictions import read_predictions

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def net(small_runs) -> rf.Network:
    return rf.load(small_runs[0])


def test_the_import_takes_no_time_and_names_everything():
    code = "import sys, resnet_flax as rf; assert 'jax' not in sys.modules and set(rf.__all__) <= set(dir(rf))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert all(getattr(rf, name).__doc__ for name in rf.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        rf.trian  # noqa: B018


def test_a_run_predicts_as_its_report_says(net, small_runs):
    found = net.evaluate("test")
    stored, _ = read_predictions(small_runs[0] / "report" / "predictions.npz")
    np.testing.assert_allclose(found.log_probabilities, stored.log_probabilities, rtol=0, atol=1e-5)
    assert found.accuracy == net.results["test_accuracy"]
    assert net.classes == tuple("0123456789")


def test_predictions_are_probabilities_of_the_module_in_plain_flax(net):
    probabilities = net.predict(IMAGES)
    assert probabilities.shape == (5, 10) and probabilities.dtype == np.float32
    logits = net.model.apply(net.variables, net.normalize(IMAGES), train=False)
    np.testing.assert_allclose(probabilities, jax.nn.softmax(logits), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(net.predict(IMAGES[:1]).argmax(1), probabilities[:1].argmax(1))


def test_variables_may_be_replaced(net):
    other = rf.Network(net.config, net.variables, {})
    other.variables = jax.tree.map(jnp.zeros_like, net.variables)
    np.testing.assert_allclose(other.predict(IMAGES), 0.1, rtol=1e-6)


def test_features_times_the_last_layer_are_the_logits(net):
    features, head = net.features(IMAGES), net.variables["params"]["head"]
    assert features.shape == (5, 16) and features.dtype == np.float32
    logits = features @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(jax.nn.softmax(logits), net.predict(IMAGES), rtol=0, atol=1e-5)


def test_no_image_gives_no_row(net):
    assert net.predict(IMAGES[:0]).shape == (0, 10)
    assert net.features(IMAGES[:0]).shape == (0, 16)


def test_files_folders_and_pictures_are_resized_as_the_verb_does(net, small_runs, tmp_path):
    (tmp_path / "more").mkdir()
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    Image.fromarray(IMAGES[1]).resize((50, 40)).save(tmp_path / "more" / "b.png")
    Image.new("RGBA", (20, 30), (200, 0, 0, 9)).save(tmp_path / "more" / "c.png")
    with Image.open(tmp_path / "more" / "c.png") as picture:
        probabilities = net.predict([str(tmp_path / "a.png"), tmp_path / "more", picture])
    assert probabilities.shape == (4, 10)
    np.testing.assert_array_equal(probabilities[2], probabilities[3])
    np.testing.assert_allclose(net.predict(tmp_path / "a.png"), net.predict(IMAGES[:1]), rtol=0, atol=1e-6)
    assert main(["predict", str(tmp_path), f"--workdir={small_runs[0]}", f"--output={tmp_path}/found.csv"]) == 0
    lines = (tmp_path / "found.csv").read_text().splitlines()[1:]
    assert [int(line.split(",")[1]) for line in lines] == probabilities[:3].argmax(1).tolist()


@pytest.mark.parametrize(
    ("name", "orientation"),
    [("grey.png", 1), ("grey.png", 6), ("grey.tif", 1), ("grey.pgm", 1), ("photo.jpg", 1), ("photo.jpg", 6)],
)
def test_a_picture_is_read_as_its_file_is(net, tmp_path, name, orientation):
    grey = Image.fromarray(np.linspace(0, 65535, 48 * 32).reshape(48, 32).astype(np.uint16))
    picture = grey if name.startswith("grey") else Image.fromarray(IMAGES[0]).resize((48, 32))
    if name == "grey.pgm":
        (tmp_path / name).write_bytes(b"P5 32 48 65535\n" + np.asarray(grey).astype(">u2").tobytes())
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture.save(tmp_path / name, exif=exif)
    with Image.open(tmp_path / name) as opened:
        [pixels] = read_images([opened], (32, 32, 3))
        np.testing.assert_array_equal(pixels, read_images([tmp_path / name], (32, 32, 3))[0])


def test_a_picture_that_cannot_be_read_is_refused_as_a_file_is(net, tmp_path):
    for mode in ("I", "F"):
        with pytest.raises(
            rf.UserError, match=r"^cannot read the PIL image: has pixels of 32 bits: convert it to 8 or 16$"
        ):
            net.predict(Image.new(mode, (32, 32)))
    whole, part = io.BytesIO(), tmp_path / "part.png"
    Image.fromarray(IMAGES[0]).save(whole, "PNG")
    part.write_bytes(whole.getvalue()[:1000])
    with Image.open(part) as picture, pytest.raises(rf.UserError, match=f"^cannot read {part}: .*truncated"):
        net.predict([picture])


WRONG_IMAGES = {
    "float32 of shape (5, 32, 32, 3)": IMAGES.astype(np.float32),
    "float32 of shape (5, 32, 32, 3) ": IMAGES / np.float32(255),
    "uint8 of shape (5, 28, 28, 3)": IMAGES[:, :28, :28],
    "uint8 of shape (5, 32, 32, 1)": IMAGES[..., :1],
    "uint8 of shape (5, 3, 32, 32)": IMAGES.transpose(0, 3, 1, 2),
    "uint8 of shape (32, 32, 3): put a single image into a batch with images[None]": IMAGES[0],
    "int64 of shape ()": 5,
    "object of shape ()": None,
}


@pytest.mark.parametrize("described", WRONG_IMAGES)
def test_images_of_another_shape_or_dtype_are_refused(net, described):
    for function in (net.predict, net.features):
        with pytest.raises(rf.UserError) as refusal:
            function(WRONG_IMAGES[described])
        expected = f"images must be uint8 (0 to 255) of shape (n, 32, 32, 3), not {described.strip()}"
        assert str(refusal.value) == expected


def test_the_classifier_and_normalize_refuse_them_too(net):
    for wrong in (IMAGES[:, :28, :28], IMAGES / np.float32(255)):
        for function in (lambda images: Classifier(net.config)(net.variables, images), net.normalize):
            with pytest.raises(rf.UserError, match="images must be uint8"):
                function(wrong)


def test_images_that_are_not_normalised_are_refused_by_the_network_and_normalised_ones_by_the_step(net):
    with pytest.raises(rf.UserError, match="takes normalised images of a float dtype, not uint8"):
        net.model.apply(net.variables, IMAGES, train=False)
    for step in (eval_step, feature_step):
        for wrong in (net.normalize(IMAGES), IMAGES[0], IMAGES[..., :1]):
            with pytest.raises(rf.UserError, match=r"uint8 \(0 to 255\) of shape \(batch, height, width, 3\)"):
                step(net.variables, {"image": wrong}, model=net.model, normalize=net.normalize)


def test_the_network_refuses_a_single_image_grey_ones_and_those_in_the_order_of_torch(net):
    images = net.normalize(IMAGES)
    for wrong in (images[0], images[..., :1], images.transpose(0, 3, 1, 2)):
        with pytest.raises(rf.UserError, match=r"takes images of shape \(batch, height, width, 3\), not \("):
            net.model.apply(net.variables, wrong, train=False)


@pytest.mark.parametrize("labels", [np.zeros(5, np.float32), np.zeros((5, 10), np.int32), np.zeros(4, np.int32)])
def test_the_training_step_takes_one_integer_for_each_image(net, labels):
    step = partial(train_step, model=net.model, optimizer=optax.identity(), seed=0)
    state = TrainState.start(**net.variables, optimizer=optax.identity(), averaged=False)
    with pytest.raises(rf.UserError, match=r"labels must be integers of shape \(5,\), not "):
        step(state, Totals.zero(), {"image": net.normalize(IMAGES), "label": labels})


def test_files_that_cannot_be_read_are_named(net, tmp_path):
    (tmp_path / "b.png").write_text("text")
    with pytest.raises(rf.UserError, match=r"there is no file or folder 'nothing\.png'"):
        net.predict(["nothing.png"])
    with pytest.raises(rf.UserError, match=r"cannot read .*b\.png: is not an image"):
        net.predict(tmp_path)
    with pytest.raises(rf.UserError, match="must be one of these, not ndarray"):
        net.predict([IMAGES[0], "b.png"])
    with pytest.raises(rf.UserError, match="must have the same shape"):
        net.predict([IMAGES[0], IMAGES[0, :28]])


def test_a_checkpoint_may_be_named_by_its_step(small_runs):
    step = read_predictions(small_runs[0] / "report" / "predictions.npz")[1]["step"]
    np.testing.assert_array_equal(rf.load(small_runs[0], step).predict(IMAGES), rf.load(small_runs[0]).predict(IMAGES))


def test_an_unknown_split_or_checkpoint_is_refused(net, small_runs):
    with pytest.raises(rf.UserError, match="unknown split 'tset': did you mean 'test'"):
        net.evaluate("tset")
    with pytest.raises(rf.UserError, match="unknown checkpoint 'newst': did you mean 'newest'"):
        rf.load(small_runs[0], checkpoint="newst")


def test_exported_weights_know_their_network(net, small_runs, tmp_path):
    assert main(["export", f"--workdir={small_runs[0]}", f"--output={tmp_path}/weights.safetensors"]) == 0
    for path in (tmp_path, tmp_path / "weights.safetensors"):
        same = rf.load(path)
        np.testing.assert_array_equal(same.predict(IMAGES), net.predict(IMAGES))
        assert (same.config, same.classes, same.results) == (net.config, net.classes, {})


def test_weights_without_metadata_need_the_config_of_their_run(net, small_runs, tmp_path):
    path = tmp_path / "weights.safetensors"
    assert main(["export", f"--workdir={small_runs[0]}", f"--output={path}"]) == 0
    weights = load_file(path)
    path.write_bytes(encode_safetensors(weights, {}))
    with pytest.raises(rf.UserError, match=r"does not say what network it is for: put the config\.json of its run"):
        rf.load(path)
    shutil.copy(small_runs[0] / "config.json", tmp_path)
    np.testing.assert_array_equal(rf.load(path).predict(IMAGES), net.predict(IMAGES))
    path.write_bytes(encode_safetensors(weights, {"config": "{"}))
    with pytest.raises(Damaged, match="damaged metadata"):
        rf.load(path)
    other = json.loads((small_runs[0] / "config.json").read_text())
    other["model"]["widths"] = [8, 8]
    path.write_bytes(encode_safetensors(weights, {"config": json.dumps(other)}))
    with pytest.raises(rf.UserError, match=r"does not fit config\.model 'tiny'"):
        rf.load(path)


def test_what_is_neither_a_run_nor_weights_is_refused(small_runs, tmp_path):
    with pytest.raises(rf.UserError, match=r"holds no run: did you mean '.*first'"):
        rf.load(small_runs[0].parent / "frist")
    for name in ("network.npz", "network.onnx"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(rf.UserError, match="holds a program, not weights"):
            rf.load(tmp_path / name)
    (tmp_path / "weights.txt").write_bytes(b"")
    with pytest.raises(rf.UserError, match=r"unknown extension of a weights file '\.txt'"):
        rf.load(tmp_path / "weights.txt")


def test_a_number_of_classes_may_be_one_of_numpy():
    assert type(rf.create("tiny", np.int64(7)).num_classes) is int


def test_a_network_by_name_is_the_one_of_the_config_and_takes_overrides():
    model = rf.create("resnet_443", num_classes=100, widths=[8, 16, 32], activation="gelu", compute_dtype="bfloat16")
    assert (model.num_classes, model.blocks, model.widths) == (100, (4, 4, 3), (8, 16, 32))
    assert (model.activation, model.dtype) == ("gelu", jnp.bfloat16)
    assert models.count_parameters(rf.create("resnet_443"), (32, 32, 3)) == 4_697_162
    assert all(rf.create(name).num_classes == 10 for name in rf.list_networks())


MISTAKES = {
    "unknown model 'resnet_433': did you mean 'resnet_443'?": dict(name="resnet_433"),
    "unknown field config.model.width: did you mean 'model.widths'?": dict(name="tiny", width=(8, 8, 8)),
    "unknown block 'basik': did you mean 'basic'?": dict(name="tiny", block="basik"),
    "config.model.widths must be a tuple, not 8": dict(name="tiny", widths=8),
    "must have the same length, with one entry per stage": dict(name="tiny", widths=(8, 8)),
    "num_classes must be a positive whole number, not 0": dict(name="tiny", num_classes=0),
    "has 78,042 parameters, more than config.model.max_params 100": dict(name="tiny", max_params=100),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_in_a_network_is_one_line(message):
    with pytest.raises(rf.UserError, match=re.escape(message)):
        rf.create(**MISTAKES[message])


@pytest.mark.parametrize("given", [("tiny", 10), (get_config(),), (complete(get_config()).model,), ({},)])
def test_build_refuses_a_name_or_an_incomplete_config_and_says_what_takes_it(given):
    with pytest.raises(
        rf.UserError, match=r"takes a complete config, .*: resnet_flax\.create builds a network by name"
    ):
        models.build(*given)


TRAINING_MISTAKES = {
    "there is no recipe 'preakt': did you mean 'preact'?": (["preakt"], {}),
    "recipe must be str, not None": ([None], {}),
    "fields must be Mapping, not ['epochs=1']": (["quickstart", ["epochs=1"]], {}),
    "the name of a field must be str, not 1": (["quickstart", {1: 2}], {}),
    "workdir must be str or PathLike, not None": (["quickstart"], {"workdir": None}),
    "unknown config argument 'sdg': did you mean 'sgd'?": (["preact:sdg"], {}),
    "config.train.epochs must be a whole number, not 'five'": (["quickstart"], {"epochs": "five"}),
    "config.train.epochs must be positive, not -1": (["quickstart"], {"epochs": -1}),
    "unknown field config.lr: did you mean 'optimizer.learning_rate'?": (["quickstart"], {"lr": 0.1}),
    "unknown field config.name: did you mean 'data.name' or 'model.name' or": (["quickstart"], {"name": "sgd"}),
    "unknown field config.optimizer.nam: did you mean 'optimizer.name'?": (["quickstart", {"optimizer.nam": "a"}], {}),
    "config.train.epochs is given twice, as a keyword and in the dict of fields: leave one out": (
        ["quickstart", {"train.epochs": 1}],
        {"epochs": 2},
    ),
    "workdir must be a path in UTF-8": (["quickstart"], {"workdir": "\udcff"}),
    "workdir must be a path in UTF-8, not": (["quickstart"], {"workdir": "a\0b"}),
}


@pytest.mark.parametrize("message", TRAINING_MISTAKES)
def test_a_mistake_in_a_training_is_one_line_and_leaves_nothing(message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, keywords = TRAINING_MISTAKES[message]
    with pytest.raises(rf.UserError, match=re.escape(message)):
        rf.train(*words, **keywords)
    assert not list(tmp_path.iterdir())


def test_an_argument_of_a_wrong_type_is_one_line(net):
    for call, message in {
        lambda: rf.load(None): "name must be str or PathLike, not None",
        lambda: net.evaluate(5): "split must be str, not 5",
        lambda: net.normalize("cat.jpg"): "images must be ndarray or Array, not 'cat.jpg'",
    }.items():
        with pytest.raises(rf.UserError, match=re.escape(message)):
            call()


def test_training_is_that_of_the_command_line(small_runs, capsys):
    """The same fields in the same workdir: a finished run, which is not trained again."""
    fields = {"model.blocks": [1, 1]}
    again = rf.train("quickstart", fields, widths=(8, 16), train_examples=512, epochs=4, seed=1, workdir=small_runs[1])
    assert capsys.readouterr().out.startswith(f"{small_runs[1]} is finished: ")
    assert again.results["seed"] == 1 and again.results["epochs"] == 4
    with pytest.raises(rf.UserError, match="holds a different run"):
        rf.train("quickstart", fields, widths=(8, 16), epochs=5, workdir=small_runs[1])


def test_recipes_are_listed_as_the_program_does(capsys, small_runs, monkeypatch, tmp_path):
    (tmp_path / "runs" / "broken").mkdir(parents=True)
    (tmp_path / "runs" / "broken" / "config.json").write_text("{")
    shutil.copytree(small_runs[0], tmp_path / "runs" / "seeds" / "seed0")
    exported = tmp_path / "runs" / "seeds" / "seed0" / "hub"
    exported.mkdir()
    shutil.copy(exported.parent / "config.json", exported)
    monkeypatch.chdir(tmp_path)
    assert rf.list_recipes() == recipe_names() and {"preact", "quickstart", "speed94"} <= set(rf.list_recipes())
    assert main(["list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {line[0] for line in lines if line} >= {*rf.list_recipes(), *rf.list_networks()}
    assert ["preact", "preact", "2,796,202", "Report", "002:"] in [line[:5] for line in lines]
    (run,) = (line for line in lines if line[:1] == ["runs/seeds/seed0"])
    assert run[1:3] == ["tiny", "4"] and run[4] == f"{rf.load(small_runs[0]).results['test_accuracy']:.2%}"
    for name in rf.list_pretrained():
        accuracy = rf.load(name).results["test_accuracy"]
        assert any(line[:2] == [name, name] and line[3] == f"{accuracy:.2%}" for line in lines)
    (broken,) = (line for line in lines if line[:1] == ["runs/broken"])
    assert broken[1:5] == ["-"] * 4 and "damaged" in broken
    assert not any(line and line[0].endswith("/hub") for line in lines)  # an exported folder is no run


def test_a_stop_while_it_compiles_ends_a_program_but_not_a_process_that_has_more_to_do(tmp_path):
    """Python handles Ctrl-C when the program is compiled; tests/faults/test_resume.py stops the command."""
    fields = {"model.blocks": (3, 5, 3), "model.widths": (8, 16, 32), "train.epochs": 1, "data.train_examples": 64}
    code = f"""
import os, signal, threading
import resnet_flax as rf
from resnet_flax.errors import Interrupted
from resnet_flax.training.run import Run

advance = Run.advance
def interrupt(run, step):
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    return advance(run, step)

Run.advance = interrupt
try:
    rf.train("quickstart", {fields}, workdir="{tmp_path}")
except Interrupted:
    print("saved")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["saved"]), done.stderr


def test_a_thread_trains_without_signals(tmp_path):
    """Such as those in which web interfaces call a function."""
    fields = {"model.blocks": (1,), "model.widths": (4,), "train.epochs": 1, "data.train_examples": 64}
    with ThreadPoolExecutor(1) as pool:
        net = pool.submit(rf.train, "quickstart", fields, workdir=tmp_path / "run").result()
    assert net.results["epochs"] == 1
