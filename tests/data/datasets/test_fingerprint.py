"""The fingerprint of data: the same wherever they lie, another whenever an image or a label changes."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_flax.config.checks import complete
from resnet_flax.config.defaults import get_config
from resnet_flax.data.datasets import fingerprint as module
from resnet_flax.data.datasets.fingerprint import CHECKSUMS, EvaluatedSplit, fingerprint, same_images
from resnet_flax.data.datasets.load import find_arrays


def data_config(**changes):
    config = get_config()
    config.data.update(changes)
    return complete(config).data


def write_arrays(folder: Path, seed: int = 0) -> Path:
    folder.mkdir()
    draw = np.random.default_rng(seed)
    for split, count in (("train", 20), ("test", 5)):
        np.save(folder / f"{split}_images.npy", draw.integers(0, 256, (count, 32, 32, 3), np.uint8))
        np.save(folder / f"{split}_labels.npy", draw.integers(0, 10, count))
    return folder


def write_photos(folder: Path) -> Path:
    for label, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for index in range(5):
            Image.new("RGB", (32, 32), (label, index, 0)).save(folder / name / f"{index}.png")
    return folder


def test_a_fingerprint_counts_the_examples_of_each_split_and_is_json():
    found = fingerprint(data_config())
    assert {role: (split["examples"], split["start"]) for role, split in found.items()} == {
        "train": (1293, 0),
        "validation": (144, 1293),
        "test": (360, 0),
    }
    assert json.loads(json.dumps(found)) == found
    assert fingerprint(data_config(train_examples=100))["train"]["examples"] == 100
    assert list(fingerprint(data_config(test=""))) == ["train", "validation"]


def test_the_same_arrays_elsewhere_have_the_same_fingerprint(tmp_path):
    folder = write_arrays(tmp_path / "one")
    before = fingerprint(data_config(dir=str(folder)))
    shutil.copytree(folder, tmp_path / "two")
    os.utime(folder / "train_images.npy", ns=(0, 0))
    assert before == fingerprint(data_config(dir=str(folder))) == fingerprint(data_config(dir=str(tmp_path / "two")))
    assert not (folder / CHECKSUMS).exists()  # nothing is left in a user's folder


@pytest.mark.parametrize("file", ["train_images", "train_labels", "test_images", "test_labels"])
def test_one_other_pixel_or_label_is_another_fingerprint(tmp_path, file):
    folder = write_arrays(tmp_path / "arrays")
    before = fingerprint(data_config(dir=str(folder)))
    array = np.load(folder / f"{file}.npy")
    array[3] = (array[3] + 1) % 10
    np.save(folder / f"{file}.npy", array)
    after = fingerprint(data_config(dir=str(folder)))
    changed = file.split("_")[0]
    assert after[changed] != before[changed]
    assert {name: split for name, split in after.items() if split != before[name]}.keys() <= {changed, "validation"}


def test_photos_added_removed_or_replaced_are_another_fingerprint(tmp_path):
    photos = write_photos(tmp_path / "photos")

    def now():
        return fingerprint(data_config(name="folder", dir=str(photos)))

    found = [now()]
    Image.new("RGB", (32, 32), "red").save(photos / "cat" / "1.png")  # as many as before
    found.append(now())
    Image.new("RGB", (32, 32), "blue").save(photos / "cat" / "new.png")
    found.append(now())
    (photos / "cat" / "0.png").unlink()
    found.append(now())
    (photos / "cat" / "2.png").rename(photos / "dog" / "moved.png")
    found.append(now())
    assert len({json.dumps(split) for split in found}) == 5
    os.utime(photos / "dog" / "3.png", ns=(0, 0))  # decoded again, to the same pixels
    assert now() == found[-1]


def test_a_second_start_reads_no_image(monkeypatch):
    config = data_config()
    first = fingerprint(config)
    assert (find_arrays(config) / CHECKSUMS).is_file()
    monkeypatch.setattr(module, "crc32", lambda *file: pytest.fail("was read again"))
    assert fingerprint(config) == first


@pytest.mark.parametrize("kept", ["{}", "[", '{"train_images.npy": 3}', '{"train_images.npy": [1, 2, 3]}', None])
def test_checksums_that_do_not_belong_to_the_arrays_are_computed_again(tmp_path, monkeypatch, kept):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = data_config()
    first = fingerprint(config)
    folder = find_arrays(config)
    if kept is not None:
        (folder / CHECKSUMS).write_text(kept)
        assert fingerprint(config) == first
    labels = np.load(folder / "train_labels.npy")
    np.save(folder / "train_labels.npy", labels[::-1])
    assert fingerprint(config)["train"] != first["train"]


def test_splits_are_the_same_images_if_their_fingerprints_are_and_at_other_sizes_if_their_places_are(tmp_path):
    """Folders with as many photos of each class have the same labels, whatever is in the photos."""
    folders = [write_photos(tmp_path / "one"), write_photos(tmp_path / "two")]
    Image.new("RGB", (32, 32), (9, 9, 9)).save(folders[1] / "cat" / "0.png")

    def split(folder, size=32):
        data = data_config(name="folder", dir=str(folder), image_size=size)
        return EvaluatedSplit(data, fingerprint(data)["train"])

    one, two = map(split, folders)
    assert same_images(one, one) and not same_images(one, two)
    assert same_images(one, split(folders[0], 16)) and not same_images(one, split(folders[1], 16))
    assert same_images(one, EvaluatedSplit(two.data, None))  # of an older version, which did not record it
