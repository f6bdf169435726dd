"""README's picture: drawn from a finished run, small enough for a page, with a caption from the same run."""

import json
import sys

import pytest
from PIL import Image

from benchmarks import networks, pictures, readme, runs
from resnet_flax.errors import UserError


def test_picture_and_caption_are_of_the_run(small_runs, tmp_path, monkeypatch):
    picture = tmp_path / "run.png"
    words = ["pictures", f"--workdir={small_runs[0]}", f"--output={picture}", f"--results={tmp_path}"]
    monkeypatch.setattr(sys, "argv", words)
    assert pictures.main() == 0
    image = Image.open(picture)
    width, height = image.size
    assert width == 1600 and 0.5 < height / width < 1
    assert len(image.convert("RGB").getcolors(1 << 20)) > 50
    results = json.loads((small_runs[0] / "report" / "results.json").read_text())
    assert image.text["Run"] == runs.name_of(runs.read(tmp_path)[0].config)
    monkeypatch.setattr(readme, "PICTURE", picture)
    text = readme.caption(tmp_path)
    assert f"{results['test_accuracy']:.2%} of 360 test images" in text and "4 epochs of SGD on 512 images" in text


def test_a_run_that_is_not_finished_has_no_picture(small_runs, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_bytes((small_runs[0] / "config.json").read_bytes())
    monkeypatch.setattr(sys, "argv", ["pictures", f"--workdir={tmp_path}", f"--output={tmp_path / 'run.png'}"])
    with pytest.raises(UserError, match="is not finished or has no test split: train it to the end first"):
        pictures.main()


@pytest.mark.parametrize("name", networks.SHOWN)
def test_a_drawing_is_of_the_network_as_it_is(name):
    path = pictures.PICTURE.parent / f"{name}.png"
    assert path.stat().st_size < 50_000
    with Image.open(path) as picture:
        assert picture.text["Text"] == networks.draw(name)[1]
