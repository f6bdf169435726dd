"""summary: the layers, memory and data of a config, and the checkpoints of a run, without reading data."""

import re
import shutil
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

from resnet_flax.commands import summary
from resnet_flax.main import main
from resnet_flax.models.resnet import ResNet
from resnet_flax.training.step import Totals, init_state, train_step

ROOT = Path(__file__).parents[2]
SHAPE = (16, 16, 3)


def xla_bytes(model: ResNet, batch: int) -> int:
    """Return the bytes that a training step needs besides its arguments and results, as compiled for this machine."""
    sgd = optax.sgd(0.1, momentum=0.9)
    step = partial(train_step, model=model, optimizer=sgd, seed=0)
    images = jax.ShapeDtypeStruct((batch, *SHAPE), jnp.float32)
    arguments = (
        jax.eval_shape(partial(init_state, model, sgd, 0, SHAPE)),
        jax.eval_shape(Totals.zero),
        {"image": images, "label": jax.ShapeDtypeStruct((batch,), jnp.int32)},
    )
    quick = {"xla_backend_optimization_level": 0}
    compiled = jax.jit(step, donate_argnums=0, compiler_options=quick).lower(*arguments).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("block", ["basic", "preact"])
def test_activations_are_about_what_xla_allocates(block):
    model = ResNet((1, 1), (8, 16), block=block, block_dropout=0.1)
    assert 1 / 1.5 < 64 * summary.activation_bytes(model, SHAPE) / xla_bytes(model, 64) < 1.5


def test_activations_grow_with_the_pixels_and_halve_in_bfloat16_but_for_batch_norm():
    per_pixel = summary.activation_bytes(ResNet((1,), (8,)), (16, 16, 3)) / 16**2
    double = summary.activation_bytes(ResNet((1,), (8,)), (32, 32, 3)) / 32**2
    assert per_pixel == pytest.approx(double, rel=0.02)
    half = summary.activation_bytes(ResNet((1,), (8,), dtype=jnp.bfloat16), (32, 32, 3)) / 32**2
    assert 0.5 * double < half < 0.9 * double  # BatchNorm computes in float32


def printed(capsys, *words: str) -> str:
    capsys.readouterr()
    assert main(["summary", *words]) == 0
    return capsys.readouterr().out


def test_summary_of_a_config(capsys):
    fields = ["--config.optimizer.name=adam", "--config.train.ema_decay=0.9", "--config.train.sam_radius=0.05"]
    out = printed(capsys, f"--config={ROOT}/configs/quickstart.py", *fields)
    for line in (
        r"parameters +0\.3",
        r"gradients +0\.3",
        r"parameters perturbed by SAM +0\.3",
        r"optimizer +0\.6",
        r"average of the weights +0\.3",
        r"activations of 32 images, float32 +[\d.]+",
        r"data: digits; train train\[:90%\], validation train\[90%:\], test test",
        r"images: 32 x 32, RGB, normalised by mean 0\.5, 0\.5, 0\.5 and standard deviation 0\.5, 0\.5, 0\.5",
        r"10 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
    ):
        assert re.search(f"^{line}$", out, re.MULTILINE), line
    rows = re.search(r"^training memory.*?\n\n", out, re.MULTILINE | re.DOTALL)[0].splitlines()[1:]
    *parts, total = (float(row.split()[-1]) for row in rows if row)
    assert total == pytest.approx(sum(parts), abs=0.3)
    assert "checkpoint" not in out


def test_statistics_that_are_not_known_yet_are_announced(capsys):
    out = printed(capsys, f"--config={ROOT}/configs/quickstart.py", "--config.data.policy=normalize(auto)")
    assert "normalised by the mean and standard deviation of the training images, computed when training starts" in out


def test_summary_of_a_run_lists_checkpoints_and_marks_the_best(small_runs, capsys):
    out = printed(capsys, f"--workdir={small_runs[0]}")
    steps = sorted((int(p.name) for p in (small_runs[0] / "checkpoints").iterdir() if p.name.isdigit()), reverse=True)
    assert re.findall(r"^step (\d+) ", out, re.MULTILINE) == list(map(str, steps))
    assert len(re.findall(r"^step .* best val_accuracy$", out, re.MULTILINE)) == 1
    assert re.search(r"^test accuracy [\d.]+%$", out, re.MULTILINE)
    other = printed(capsys, f"--config={ROOT}/configs/quickstart.py", f"--workdir={small_runs[0]}")
    assert "checkpoint" not in other  # of another config


def test_a_recipe_that_normalises_by_its_images_knows_its_run(small_runs, tmp_path, capsys):
    run = shutil.copytree(small_runs[0], tmp_path / "run")
    config = (run / "config.json").read_text()
    (run / "config.json").write_text(config.replace("normalize(half)", "normalize(0.1,0.2,0.3,0.4,0.5,0.6)"))
    small = ["--config.model.blocks=1,1", "--config.model.widths=8,16", "--config.data.train_examples=512"]
    same = ["--config=quickstart", *small, "--config.train.epochs=4", f"--workdir={run}"]
    assert "best val_accuracy" in printed(capsys, *same, "--config.data.policy=crop(4)|normalize(auto)")
    assert "best val_accuracy" not in printed(capsys, *same)


@pytest.mark.parametrize("table", [None, "epoch,step\n"], ids=["imported", "stopped"])
def test_a_run_without_a_finished_epoch_has_checkpoints_too(small_runs, tmp_path, capsys, table):
    run = tmp_path / "run"
    (run / "checkpoints" / "7").mkdir(parents=True)
    shutil.copy(small_runs[0] / "config.json", run)
    if table:
        (run / "metrics.csv").write_text(table)
    out = printed(capsys, f"--workdir={run}")
    assert re.search(r"^step 7 +- +- +-$", out, re.MULTILINE)


def test_the_network_is_drawn_into_a_picture_of_its_ending(tmp_path, capsys):
    for name, start in (("new/tiny.png", b"\x89PNG"), ("tiny.SVG", b"<?xml")):
        out = printed(capsys, "--config=quickstart", "--picture", f"--output={tmp_path}/{name}")
        assert out.startswith(f"network written to {tmp_path}/{name}\n")
        assert (tmp_path / name).read_bytes().startswith(start)
    drawn = (tmp_path / "tiny.SVG").read_text()
    assert "78,042 parameters" in drawn and "var(--" not in drawn
    printed(capsys, "--config=quickstart", "--picture", f"--workdir={tmp_path}/run")
    assert (tmp_path / "run" / "network.png").read_bytes() == (tmp_path / "new" / "tiny.png").read_bytes()
    assert main(["summary", "--config=quickstart", f"--output={tmp_path}/tiny.png"]) == 1
    assert capsys.readouterr().err == "error: --output is the file of --picture: add --picture, too\n"
    assert main(["summary", "--config=quickstart", "--picture", f"--output={tmp_path}/tiny.jpg"]) == 1
    error = capsys.readouterr().err
    assert error == f"error: --output={tmp_path}/tiny.jpg must end in one of .png, .svg\n"
    (tmp_path / "file").touch()
    assert main(["summary", "--config=quickstart", "--picture", f"--output={tmp_path}/file/tiny.png"]) == 1
    assert "cannot write" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"new", "run", "tiny.SVG", "file"}
