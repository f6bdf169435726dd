"""Exported networks give the same predictions without this package."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import safetensors.numpy

from resnet_flax.commands.export import PLATFORMS, export
from resnet_flax.config.checks import complete
from resnet_flax.config.defaults import get_config
from resnet_flax.config.stored import read_config
from resnet_flax.errors import UserError
from resnet_flax.main import main
from resnet_flax.training.classifier import Classifier
from resnet_flax.training.restore import restore_checkpoint

README = Path(__file__).parents[2] / "README.md"

ELSEWHERE = """
import sys

images = __import__("numpy").load("images.npy")
{readme}
np.savez("answers.npz", probabilities=probabilities, names=names, platforms=network.platforms)
assert network.call(images[:1]).shape == (1, 10)
assert not {{"resnet_flax", "flax", "optax", "orbax", "tensorflow", "ml_collections"}} & sys.modules.keys()
"""


def answers_elsewhere(folder: Path) -> dict[str, np.ndarray]:
    """Return the answers of README's code, in a process of its own, to images.npy by network.npz."""
    (code,) = re.findall(r"```python\n(import jax\.export.*?)```", README.read_text(), re.DOTALL)
    script = ELSEWHERE.format(readme=code.replace("runs/preact/", ""))
    subprocess.run([sys.executable, "-I", "-W", "error", "-c", script], cwd=folder, check=True)
    with np.load(folder / "answers.npz") as arrays:
        return dict(arrays)


def test_a_stablehlo_program_answers_like_the_classifier(small_runs, tmp_path):
    workdir = small_runs[0]
    images = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    assert main(["export", f"--workdir={workdir}", "--format=stablehlo", f"--output={tmp_path}/network.npz"]) == 0
    config = complete(read_config(workdir))
    here = np.exp(Classifier(config)(restore_checkpoint(config, workdir).tree["state"].variables, images))
    there = answers_elsewhere(tmp_path)
    np.testing.assert_allclose(there["probabilities"], here, rtol=0, atol=1e-6)
    assert there["probabilities"].dtype == np.float32
    assert there["names"].tolist() == [config.data.classes[label] for label in here.argmax(1)]
    assert tuple(there["platforms"]) == PLATFORMS


def test_an_onnx_model_answers_like_the_classifier(small_runs, tmp_path):
    workdir, file = small_runs[0], tmp_path / "network.onnx"
    images = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3)).astype(np.uint8)
    assert main(["export", f"--workdir={workdir}", f"--output={file}"]) == 0
    config = complete(read_config(workdir))
    here = np.exp(Classifier(config)(restore_checkpoint(config, workdir).tree["state"].variables, images))
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"images": images})[0], here, rtol=0, atol=1e-5)
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == list(config.data.classes)


def test_mistakes_are_one_line(small_runs, tmp_path):
    config = complete(get_config())
    with pytest.raises(UserError, match="holds no checkpoints"):
        export(config, tmp_path, "safetensors", "")
    with pytest.raises(UserError, match="unknown format 'stablehl': did you mean 'stablehlo'"):
        export(config, tmp_path, "stablehl", "")
    (tmp_path / "file").touch()
    for format in ("safetensors", "stablehlo"):
        with pytest.raises(UserError, match="cannot write"):
            export(complete(read_config(small_runs[0])), small_runs[0], format, f"{tmp_path}/file/")


@pytest.mark.parametrize(
    ("flags", "name", "load"),
    [
        ([], "weights.safetensors", safetensors.numpy.load_file),
        (["--output={}/x.safetensors"], "x.safetensors", safetensors.numpy.load_file),
        (["--format=safetensors", "--output={}"], "weights.safetensors", safetensors.numpy.load_file),
        (["--format=safetensors", "--output={}/new/"], "new/weights.safetensors", safetensors.numpy.load_file),
        (["--output={}/deep/x.NPZ"], "deep/x.NPZ", np.load),
        (["--format=stablehlo"], "network.npz", np.load),
    ],
)
def test_the_ending_of_the_output_decides_the_format(small_runs, tmp_path, flags, name, load):
    workdir = tmp_path / "run"
    shutil.copytree(small_runs[0], workdir)
    assert main(["export", f"--workdir={workdir}", *(flag.format(workdir) for flag in flags)]) == 0
    assert {"linear.weight", "stablehlo"} & load(workdir / name).keys()
    mask = os.umask(0o022)
    os.umask(mask)
    assert (workdir / name).stat().st_mode & 0o777 == 0o666 & ~mask
    assert not list(workdir.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("format", "output", "message"),
    [
        (
            "safetensors",
            "x.npz",
            "--output=x.npz has an extension of stablehlo, but --format is safetensors: choose one",
        ),
        ("torch", "x.safetensors", "--output=x.safetensors has an extension of safetensors, but --format is torch"),
        (
            "",
            "x.h5",
            "which format? Let --output=x.h5 end in one of .safetensors, .pt, .pth, .bin, .npz, .onnx, or give",
        ),
        ("", "x", "which format? Let --output=x end in one of .safetensors"),
        ("torch", "x", "--output=x must end in .pt or .pth or .bin, or in / for a folder"),
    ],
)
def test_an_output_that_contradicts_the_format_is_refused(tmp_path, format, output, message):
    with pytest.raises(UserError) as refusal:
        export(complete(get_config()), tmp_path, format, output)
    assert str(refusal.value).startswith(message)


def test_a_folder_for_the_hub_replaces_nothing_but_an_earlier_one(small_runs, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(small_runs[0], workdir)
    before = (workdir / "config.json").read_bytes()
    command = ["export", f"--workdir={workdir}", "--format=hub"]
    assert main([*command, f"--output={workdir}"]) == 1
    assert capsys.readouterr().err == (
        f"error: {workdir} holds other files: let --output name a new folder, or that of an earlier export\n"
    )
    assert (workdir / "config.json").read_bytes() == before
    assert main([*command, f"--output={tmp_path}/hub"]) == main([*command, f"--output={tmp_path}/hub"]) == 0
