"""A user's own images: folders become classes and splits, are decoded again when they change, and are trained on."""

import contextlib
import csv
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_flax.config.checks import complete
from resnet_flax.config.defaults import get_config
from resnet_flax.config.stored import read_config
from resnet_flax.data.datasets.folders import Tree
from resnet_flax.data.datasets.load import find_arrays, load_dataset, load_split
from resnet_flax.errors import UserError
from resnet_flax.main import main

ROOT = Path(__file__).parents[3]
COLORS = {"blue": (20, 40, 220), "green $1_a$": (30, 200, 60), "red": (220, 30, 40)}


def paint(folder: Path, count: int, size: tuple[int, int] = (20, 24), first: int = 0) -> Path:
    """Write `count` images into a folder for each of COLORS, all nearly of that colour and all different."""
    for name, color in COLORS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(first, first + count):
            noise = np.random.default_rng(index).integers(-20, 20, (size[1], size[0], 3))
            Image.fromarray((np.array(color) + noise).astype(np.uint8)).save(folder / name / f"{index}.png")
    return folder


def data_config(directory: Path, **changes):
    config = get_config()
    config.data.update(name="folder", dir=str(directory), **changes)
    return complete(config).data


def test_without_split_folders_every_stretch_has_its_share_of_each_class(tmp_path):
    config = data_config(paint(tmp_path / "photos", 20))
    assert (config.train, config.validation, config.test) == ("train[:80%]", "train[80%:90%]", "train[90%:]")
    assert config.classes == tuple(COLORS)
    data = load_dataset(config)
    for split, count in ((data.train, 16), (data.validation, 2), (data.test, 2)):
        assert np.bincount(split.labels).tolist() == [count] * 3
        assert split.images.shape == (3 * count, 32, 32, 3)
        for image, label in zip(split.images, split.labels, strict=True):
            assert np.abs(image.mean((0, 1)) - list(COLORS.values())[label]).max() < 5
    assert not data.train.images.flags.owndata  # mapped


def test_the_order_depends_on_names_alone(tmp_path):
    one, other = (Tree.find(str(paint(tmp_path / name, 12))).files()["train"] for name in ("one", "another"))
    assert [(path.parent.name, path.name) for path, _ in one] == [(path.parent.name, path.name) for path, _ in other]
    assert [path.stem for path, label in one if label == 0] != sorted(map(str, range(12)))


def test_an_image_nearly_keeps_its_place_when_others_are_added(tmp_path):
    """Of the training images only a few, near the border, are in the test split of a larger folder."""
    before = Tree.find(str(paint(tmp_path, 100, size=(8, 8)))).files()["train"]
    after = Tree.find(str(paint(tmp_path, 20, size=(8, 8), first=100))).files()["train"]
    trained_on, tested = set(before[: len(before) * 9 // 10]), set(after[len(after) * 9 // 10 :])
    assert len(after) == 360
    assert len(trained_on & tested) <= 5


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (["train", "val", "test"], ("train", "validation", "test")),
        (["train", "valid", "test"], ("train", "validation", "test")),
        (["train", "validation"], ("train[:90%]", "validation", "train[90%:]")),
        (["train", "test"], ("train[:90%]", "train[90%:]", "test")),
        (["train"], ("train[:80%]", "train[80%:90%]", "train[90%:]")),
    ],
)
def test_split_folders_are_splits(tmp_path, splits, expected):
    for index, split in enumerate(splits):
        paint(tmp_path / split, 5 if index else 10, first=10 * index)
    config = data_config(tmp_path)
    assert (config.train, config.validation, config.test) == expected
    data = load_dataset(config)
    assert len(data.train) + len(data.validation) + len(data.test) == 15 * (len(splits) + 1)


def test_files_that_are_no_images_by_their_names_are_named(tmp_path, capsys):
    paint(tmp_path, 10)
    (tmp_path / "red" / "0.png").rename(tmp_path / "red" / "0.heic")
    load_dataset(data_config(tmp_path))
    assert capsys.readouterr().out.endswith(f".pgm: {tmp_path}/red/0.heic\n")


def test_arrays_in_place_of_a_dataset_have_its_classes_and_their_own_splits(tmp_path):
    for split in ("train", "validation", "test"):
        np.save(tmp_path / f"{split}_images.npy", np.zeros((10, 32, 32, 3), np.uint8))
        np.save(tmp_path / f"{split}_labels.npy", np.arange(10, dtype=np.int32))
    config = get_config()
    config.data.update(name="cifar10", dir=str(tmp_path))
    data = complete(config).data
    assert (data.train, data.validation, data.test, len(data.classes)) == ("train", "validation", "test", 10)


def test_splits_that_the_config_names_are_kept(tmp_path):
    paint(tmp_path, 10)
    whole = data_config(tmp_path, train="train", validation="")
    assert (whole.train, whole.validation, whole.test) == ("train", "", "")
    chosen = data_config(tmp_path, test="")
    assert (chosen.train, chosen.validation, chosen.test) == ("train[:90%]", "train[90%:]", "")
    nothing_held_out = data_config(tmp_path, validation="")
    assert (nothing_held_out.train, nothing_held_out.test) == ("train[:90%]", "train[90%:]")


def test_folders_of_splits_may_be_capitalised(tmp_path):
    for split in ("Train", "Test"):
        paint(tmp_path / split, 2)
    tree = Tree.find(str(tmp_path))
    assert set(tree.splits) == {"train", "test"} and "red" in tree.classes


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "train"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "a.png")
    tree = Tree.find(str(tmp_path))
    assert (tree.classes, list(tree.splits)) == (("bus", "train"), ["train"])


def test_hidden_files_and_other_files_than_images_are_ignored(tmp_path):
    paint(tmp_path, 2)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "red" / "._0.png").write_bytes(b"Mac")
    (tmp_path / "red" / "notes.txt").write_text("all red")
    (tmp_path / "red" / "more").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red" / "more" / "0.png")
    assert np.bincount([label for _, label in Tree.find(str(tmp_path)).files()["train"]]).tolist() == [2, 2, 3]


def test_images_are_decoded_again_when_the_folder_changed_and_only_then(tmp_path, capsys):
    paint(tmp_path, 10)
    config = data_config(tmp_path)
    kept = find_arrays(config)
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}: 30 images of 3 classes",
        "30 images converted to 32 x 32 RGB; the first, "
        f"{Tree.find(str(tmp_path)).files()['train'][0][0]}, was 20 x 24, RGB",
    ]
    assert find_arrays(config) == kept
    assert capsys.readouterr().out == ""
    (tmp_path / "red" / "new.png").write_bytes((tmp_path / "red" / "0.png").read_bytes())
    added = find_arrays(config)
    assert len(np.load(added / "train_labels.npy")) == 31
    os.utime(tmp_path / "red" / "new.png", ns=(0, 0))
    assert find_arrays(config) != added
    larger = find_arrays(data_config(tmp_path, image_size=48))
    assert np.load(larger / "train_images.npy").shape == (31, 48, 48, 3)
    assert [path.is_dir() for path in (kept, added, larger, find_arrays(config))] == [False, False, True, True]


def test_what_cannot_be_read_is_left_out_by_name(tmp_path, capsys):
    paint(tmp_path, 4, size=(32, 32))
    (tmp_path / "red" / "broken.png").write_bytes(b"not a picture")
    (tmp_path / "blue" / "cut.png").write_bytes((tmp_path / "blue" / "0.png").read_bytes()[:60])
    assert len(load_split(data_config(tmp_path), "train[:]")[1]) == 12
    first, second, *failures = capsys.readouterr().out.splitlines()
    assert (first, second) == (f"{tmp_path}: 12 images of 3 classes", "2 files cannot be read and are left out:")
    assert sorted(line.split(":")[0] for line in failures) == [
        f"  {tmp_path}/blue/cut.png",
        f"  {tmp_path}/red/broken.png",
    ]


def test_transparent_images_are_decoded_as_predict_reads_them(tmp_path, capsys):
    for name in COLORS:
        (tmp_path / name).mkdir()
        Image.new("RGBA", (32, 32), (9, 9, 9, 0)).save(tmp_path / name / "a.png")
    assert load_split(data_config(tmp_path), "train[:]")[1].images.min() == 255
    assert capsys.readouterr().out.endswith("was 32 x 32, RGBA; 3 with transparency put on white\n")


def folder(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name)


MISTAKES = [
    ([], "", "which images? Give --config.data.dir=PATH"),
    (["photos/a/0.png"], "fotos", "there is no folder {root}/fotos: did you mean '{root}/photos'?"),
    (["photos/0.png"], "photos", "photos has no folders in it: there must be a folder of images for each class"),
    (["photos/a/0.png"], "photos", "photos has one folder, a, in it: there must be a folder of images for each class"),
    (["photos/train/a/0.png"], "photos", "photos/train has one folder, a, in it"),
    (
        ["a/train/x/0.png", "a/train/y/0.png", "a/test/x/0.png"],
        "a",
        "a/test lacks folders for classes of {root}/a/train:",
    ),
    (
        ["a/train/x/0.png", "a/train/y/0.png", *[f"a/val/{c}/0.png" for c in "xyz"]],
        "a",
        "has folders that are not in {root}/a/train: z",
    ),
    (
        [f"a/{split}/{name}/0.png" for split in ("train", "val", "validation") for name in "xy"],
        "a",
        "are both the split 'validation': keep one",
    ),
    (
        ["a/x/0.png", "a/x\x1b[2J/0.png"],
        "a",
        "folder x\\x1b[2J in {root}/a has unprintable characters in its name: rename it",
    ),
    (
        ["a/x/0.png", "a/y/z/0.text.png", "a/.z/0.png", "a/q/.0.png"],
        "a",
        "there are no images in {root}/a/q: looked for ",
    ),
    (["a/x/0.png", "a/y/0.png", "a/__MACOSX/.0.png"], "a", ".pgm; remove the folder if it is not a class"),
]


@pytest.mark.parametrize(("files", "directory", "message"), MISTAKES)
def test_mistakes_are_one_line(tmp_path, capsys, files, directory, message):
    folder(tmp_path, *files)
    where = f"--config.data.dir={tmp_path / directory if directory else ''}"
    assert main([f"--config={ROOT}/configs/folder.py", where, f"--workdir={tmp_path}/run"]) == 1
    error = capsys.readouterr().err
    assert message.format(root=tmp_path) in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_folder_without_permission_is_one_line(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UserError, match=f"^cannot look into {tmp_path}: Permission denied$"):
        Tree.find(str(tmp_path))


def test_a_class_of_which_nothing_can_be_read_is_refused(tmp_path):
    paint(tmp_path, 2)
    for path in (tmp_path / "red").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=f"no image in {tmp_path}/red can be read"):
        load_dataset(data_config(tmp_path))


def test_another_folder_must_have_the_classes_of_the_run(tmp_path):
    config = get_config()
    config.data.update(name="folder", dir=str(paint(tmp_path, 2)), classes=("blue", "red"))
    with pytest.raises(UserError, match=r"has the classes blue, green \$1_a\$, red, not blue, red"):
        load_dataset(complete(config).data)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, Path]:
    """Return (images, workdir) of README's run, on images of 40 x 40 that any network can tell apart."""
    photos = paint(tmp_path_factory.mktemp("own") / "photos", 30)
    small = ["--config.model.blocks=(1,)", "--config.model.widths=(4,)", "--config.data.image_size=40"]
    words = [*readme_commands()[0], *small, "--config.train.epochs=6", "--config.train.batch_size=8"]
    with contextlib.chdir(photos.parent):
        assert main(words) == 0
        assert main(words) == 0  # the same config again
    return photos, photos.parent / "runs" / "folder"


def readme_commands() -> list[list[str]]:
    section = re.search("^## Your own images\n(.*?)^## ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    commands = re.findall(r"^python -m resnet_flax\.main (.*?)(?: +#.*)?$", section[1], re.MULTILINE)
    return [command.replace("configs/", f"{ROOT}/configs/").split() for command in commands]


def test_readme_commands_do_what_they_say(finished, monkeypatch, capsys):
    root = finished[0].parent
    folder(root, "new/one.png", "new/two.png")
    monkeypatch.chdir(root)
    for command in readme_commands()[1:]:
        assert main(command) == 0, command
    out = capsys.readouterr().out
    for words in ("preview: runs/folder/preview.png", "3 classes: blue", "best val_accuracy", "9 / 9", "2 images in"):
        assert words in out


def test_a_run_on_own_images(finished, monkeypatch):
    monkeypatch.chdir(finished[0].parent)
    stored = json.loads((finished[1] / "config.json").read_text())["data"]
    results = json.loads((finished[1] / "report" / "results.json").read_text())
    assert stored["classes"] == list(COLORS)
    assert (stored["train"], stored["test"], results["test_examples"]) == ("train[:80%]", "train[90%:]", 9)
    assert results["test_accuracy"] == 1
    train = load_dataset(complete(read_config(finished[1])).data).train.images / 255
    numbers = ",".join(f"{value:.4f}".rstrip("0") for value in [*train.mean((0, 1, 2)), *train.std((0, 1, 2))])
    assert stored["policy"] == f"crop(4)|flip|normalize({numbers})"


def test_classes_are_named_everywhere(finished, capsys, monkeypatch):
    _, workdir = finished
    monkeypatch.chdir(finished[0].parent)
    assert main(["evaluate", str(workdir), "--split=validation"]) == 0
    assert "green $1_a$  " in capsys.readouterr().out
    assert "<td>green $1_a$</td>" in (workdir / "report" / "report.html").read_text()


def test_a_finished_run_predicts_and_exports_without_its_images(finished, tmp_path):
    photos, workdir = finished
    hidden = photos.rename(photos.parent / "gone")
    try:
        for name, color in COLORS.items():
            Image.new("RGB", (90, 70), color).save(tmp_path / f"{name}.png")
        output = tmp_path / "out.csv"
        assert main(["predict", str(tmp_path), f"--workdir={workdir}", f"--output={output}"]) == 0
        with open(output, newline="") as file:
            assert [row["name"] for row in csv.DictReader(file)] == list(COLORS)
        for verb in (["export"], ["export", "--format=stablehlo"], ["report"], ["summary"]):
            assert main([*verb, f"--workdir={workdir}"]) == 0
    finally:
        hidden.rename(photos)
