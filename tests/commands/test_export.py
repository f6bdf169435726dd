"""What is exported answers as the network did, where there is nothing of this package."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

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
    """What the README's code, in a process of its own, says about images.npy by network.npz."""
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
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
    here = np.exp(Classifier(config)(restore_checkpoint(config, workdir).tree["state"], images))
    there = answers_elsewhere(tmp_path)
    np.testing.assert_allclose(there["probabilities"], here, rtol=0, atol=1e-6)
    assert there["probabilities"].dtype == np.float32
    assert there["names"].tolist() == [config.data.classes[label] for label in here.argmax(1)]
    assert tuple(there["platforms"]) == PLATFORMS


def test_mistakes_are_one_line(small_runs, tmp_path):
    config = complete(get_config())
    with pytest.raises(UserError, match="holds no checkpoints"):
        export(config, tmp_path, "safetensors", "")
    with pytest.raises(UserError, match="unknown format 'stablehl': did you mean 'stablehlo'"):
        export(config, tmp_path, "stablehl", "")
    for format in ("safetensors", "stablehlo"):
        with pytest.raises(UserError, match="cannot write"):
            export(complete(read_config(small_runs[0])), small_runs[0], format, str(small_runs[0]))
