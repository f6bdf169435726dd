"""The predict verb: from anything that holds images to a CSV, with a list of what cannot be read."""

import csv
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resnet_flax as rf
from resnet_flax.commands import predict
from resnet_flax.config.checks import complete
from resnet_flax.config.stored import read_config
from resnet_flax.data.datasets.arrays import Split
from resnet_flax.data.datasets.images import IMAGES, Images, eight_bits, list_image_files
from resnet_flax.data.datasets.load import load_split
from resnet_flax.main import main
from resnet_flax.workdir import predictions

ROOT = Path(__file__).parents[2]


def examples(workdir) -> Split:
    return load_split(complete(read_config(workdir)).data, "test")[1]


def rows(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_submission_of_a_pickle_is_as_accurate_as_evaluate_says(small_runs, tmp_path, capsys):
    split = examples(small_runs[0])
    content = {b"data": np.asarray(split.images), b"ids": np.arange(len(split))[::-1] + 1000}
    (tmp_path / "test.pkl").write_bytes(pickle.dumps(content))
    output = tmp_path / "out.csv"
    words = [str(tmp_path / "test.pkl"), f"--workdir={small_runs[0]}", f"--output={output}", "--submission"]
    assert main(["predict", *words]) == 0
    assert "converted to 32 x 32" not in capsys.readouterr().out
    assert output.read_text().splitlines()[0] == "ID,Labels"
    found = rows(output)
    assert [int(row["ID"]) for row in found] == content[b"ids"].tolist()
    kept, _ = predictions.read_predictions(small_runs[0] / "report" / "predictions.npz")
    assert [int(row["Labels"]) for row in found] == kept.predicted.tolist()
    assert np.mean([int(row["Labels"]) for row in found] == split.labels) == kept.accuracy


def test_files_folders_and_arrays_agree(small_runs, tmp_path, capsys):
    images = np.asarray(examples(small_runs[0]).images[:4])
    photos = tmp_path / "photos" / "deep"
    photos.mkdir(parents=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(photos / f"{index}.png")
    np.save(tmp_path / "some.npy", images)
    np.savez(tmp_path / "some.npz", images=images, labels=np.zeros(4, np.int64))
    np.savez(tmp_path / "rows.npz", images=images.transpose(0, 3, 1, 2).reshape(4, -1), labels=np.zeros(4, np.uint8))
    np.save(tmp_path / "grey.npy", images[..., 0])
    answers = []
    for word in ("photos", "some.npy", "some.npz", "rows.npz", "grey.npy"):
        output = tmp_path / f"{word}.csv"
        assert main(["predict", str(tmp_path / word), f"--workdir={small_runs[0]}", f"--output={output}"]) == 0
        found = rows(output)
        assert list(found[0]) == ["file", "label", "name", "probability"]
        assert all(
            row["name"] == "0123456789"[int(row["label"])] and 0 < float(row["probability"]) <= 1 for row in found
        )
        answers.append([(row["label"], row["probability"]) for row in found])
    assert all(answer == answers[0] for answer in answers)
    assert rows(tmp_path / "photos.csv")[3]["file"] == str(photos / "3.png")
    assert rows(tmp_path / "some.npy.csv")[3]["file"] == f"{tmp_path}/some.npy[3]"


def test_the_most_probable_classes_and_all_probabilities_are_columns(small_runs, tmp_path, capsys):
    np.save(tmp_path / "some.npy", examples(small_runs[0]).images[:3])
    words = ["predict", str(tmp_path / "some.npy"), f"--workdir={small_runs[0]}"]
    assert main([*words, "--top=3", "--probabilities", f"--output={tmp_path}/out.csv"]) == 0
    printed, found = capsys.readouterr().out, rows(tmp_path / "out.csv")
    ranks = [f"{column}{rank}" for rank in ("", "2", "3") for column in ("label", "name", "probability")]
    assert list(found[0]) == ["file", *ranks, *(f"p({digit})" for digit in range(10))]
    for row, probabilities in zip(found, rf.load(small_runs[0]).predict(tmp_path / "some.npy"), strict=True):
        np.testing.assert_allclose([float(row[f"p({digit})"]) for digit in range(10)], probabilities, atol=1e-6)
        best = np.argsort(-probabilities)[:3]
        assert [int(row[f"label{rank}"]) for rank in ("", "2", "3")] == best.tolist()
        assert [row[f"probability{rank}"] for rank in ("", "2", "3")] == [row[f"p({label})"] for label in best]
        assert " ".join(f"{label} {probabilities[label]:.1%}" for label in best) in " ".join(printed.split())


def test_predictions_as_json_are_those_of_the_csv(small_runs, tmp_path):
    name = os.fsdecode(b"\xff=.png")
    Image.new("RGB", (32, 32), "red").save(tmp_path / name)
    Image.new("RGB", (32, 32), "blue").save(tmp_path / "b.png")
    words = ["predict", str(tmp_path), f"--workdir={small_runs[0]}", "--top=10", "--probabilities"]
    assert main([*words, f"--output={tmp_path}/out.json"]) == main([*words, f"--output={tmp_path}/out.csv"]) == 0
    assert main([*words, "--json"]) == 0
    written = (tmp_path / "out.json").read_bytes()
    assert written == (small_runs[0] / "predictions.json").read_bytes()
    found = json.loads(written.decode("ascii"))
    assert [Path(one["file"]).name for one in found] == ["b.png", name]
    for one, row in zip(found, rows(tmp_path / "out.csv"), strict=True):
        ranked = [tuple(entry.values()) for entry in one["predictions"]]
        assert list(one["predictions"][0]) == ["label", "name", "probability"]
        assert ranked[0] == (int(row["label"]), row["name"], float(row["probability"]))
        assert sorted(ranked) == [(digit, str(digit), one["probabilities"][digit]) for digit in range(10)]
        assert [one["probabilities"][digit] for digit in range(10)] == [float(row[f"p({d})"]) for d in range(10)]


def test_features_are_those_of_the_network(small_runs, tmp_path, capsys):
    images = examples(small_runs[0]).images[:3]
    np.save(tmp_path / "some.npy", images)
    words = ["predict", str(tmp_path / "some.npy"), f"--workdir={small_runs[0]}"]
    assert main([*words, f"--output={tmp_path}/features.npy"]) == 0
    assert f"features of 3 images, (3, 16) float32, in {tmp_path}/features.npy\n" == capsys.readouterr().out
    features = np.load(tmp_path / "features.npy")
    np.testing.assert_array_equal(features, rf.load(small_runs[0]).features(images))


def test_a_contact_sheet_has_a_tile_for_each_of_the_first_images(small_runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(predict, "MAX_TILES", 6)
    np.save(tmp_path / "some.npy", examples(small_runs[0]).images[:7])
    words = ["predict", str(tmp_path / "some.npy"), f"--workdir={small_runs[0]}", f"--output={tmp_path}/out.png"]
    assert main([*words, "--top=3"]) == 0
    assert capsys.readouterr().out.endswith(f"the first 6 images in {tmp_path}/out.png\n")
    drawn = (tmp_path / "out.png").read_bytes()
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.format == "PNG" and picture.width == 960
    assert main([*words, "--top=3"]) == 0
    assert (tmp_path / "out.png").read_bytes() == drawn


def huge_png() -> bytes:
    """Return a few bytes whose header says 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_what_cannot_be_read_is_listed_and_the_rest_is_written(small_runs, tmp_path, capsys):
    Image.new("RGB", (50, 40), "red").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"not a picture")
    (tmp_path / "c.png").write_bytes(huge_png())
    (tmp_path / "d.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    np.save(tmp_path / "e.npy", np.zeros((2, 32, 32, 3)))
    np.save(tmp_path / "f.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "g.pkl").write_bytes(b"cposix\nsystem\n(S'touch pwned'\ntR.")
    Image.new("L", (9, 9)).save(tmp_path / "h.gif")
    files = sorted(map(str, tmp_path.iterdir()))
    output = tmp_path / "out.csv"
    assert main(["predict", *files, f"--workdir={small_runs[0]}", f"--output={output}"]) == 1
    assert [Path(row["file"]).name for row in rows(output)] == ["a.png", "h.gif"]
    captured = capsys.readouterr()
    assert captured.out.count("images converted to 32 x 32 RGB; the first") == 1
    assert "a.png, was 50 x 40, RGB" in captured.out
    for why in (
        "b.png: is not an image, or not one of PNG, JPEG",
        "c.png: has more than 89,478,485 pixels",
        "d.png: ",
        "e.npy: holds float64",
    ):
        assert why in captured.err
    assert "g.pkl: tries to import posix.system" in captured.err
    assert "f.npy: contains Python objects" in captured.err
    assert captured.err.startswith("error: 6 files cannot be read and are left out:\n")
    assert not list(tmp_path.glob("*.tmp"))
    assert not Path("pwned").exists()


def test_batches_of_cifar_and_arrays_are_numbered(small_runs, tmp_path):
    images = np.asarray(examples(small_runs[0]).images[:3])
    planes = images.transpose(0, 3, 1, 2).reshape(3, 3072)
    batch = tmp_path / "data_batch_1"
    batch.write_bytes(pickle.dumps({b"data": planes, b"labels": [0, 1, 2], b"batch_label": b"training batch 1"}, 2))
    np.save(tmp_path / "some.npy", images)
    output, labels = tmp_path / "out.csv", []
    for file in (batch, tmp_path / "some.npy"):
        words = ["predict", str(file), f"--workdir={small_runs[0]}", f"--output={output}"]
        assert main(words) == 0
        assert [row["file"] for row in rows(output)] == [f"{file}[{index}]" for index in range(3)]
        assert main([*words, "--submission"]) == 0
        assert [row["ID"] for row in rows(output)] == ["0", "1", "2"]
        labels.append([row["Labels"] for row in rows(output)])
    assert labels[0] == labels[1]


def test_names_of_files_and_ids_are_data(small_runs, tmp_path, capsys, monkeypatch):
    """Any file name is in the CSV as it is, unless it is a formula, and is escaped on the terminal."""
    monkeypatch.chdir(tmp_path)
    names = ["=cmd|'x'!A1.png", "-1+2.png", "@SUM(A1).png", 'a,b\n"c".png', "\x1b[2J\u202e.png", "\U0001f408.png"]
    for name in names:
        Image.new("RGB", (32, 32)).save(name, "png")
    Path(os.fsdecode(b"\xff.png")).write_bytes(Path(names[0]).read_bytes())
    Path("\x1b[2J\nfake.png").write_bytes(b"damaged")
    assert main(["predict", ".", f"--workdir={small_runs[0]}", "--output=out.csv"]) == 1
    escaped = ["'" + name if name[0] in "=-@" else name for name in names]
    assert sorted(row["file"] for row in rows(Path("out.csv"))) == sorted([*escaped, "\\udcff.png"])
    captured = capsys.readouterr()
    assert "\n  \\x1b[2J\\nfake.png: is not an image" in captured.err
    assert "\x1b" not in captured.out + captured.err
    ids = ["=1+1", "-12", "+3.5", "7"]
    Path("ids.pkl").write_bytes(pickle.dumps({"data": np.zeros((4, 32, 32, 3), np.uint8), "ids": ids}))
    assert main(["predict", "ids.pkl", "--submission", f"--workdir={small_runs[0]}", "--output=out.csv"]) == 0
    assert [row["ID"] for row in rows(Path("out.csv"))] == ["'=1+1", "-12", "+3.5", "7"]


def test_formats_that_start_programs_are_refused(tmp_path):
    """Pillow passes EPS to Ghostscript, whatever the extension of the file."""
    path = tmp_path / "image.png"
    Image.new("RGB", (8, 8)).save(path, "eps")
    images = Images([path, tmp_path], (32, 32))
    assert list(images) == []
    assert "is not an image" in images.unreadable[str(path)]
    assert images.unreadable[str(tmp_path)] == "is not a file"


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.pkl", "data_batch_1", "a.npz"])
def test_a_file_beyond_the_limit_is_refused_before_it_is_read(tmp_path, name):
    path = tmp_path / name
    with open(path, "wb") as file:
        file.write(b"\x80")
        file.truncate(3 * 2**30)
    images = Images([path], (32, 32))
    tracemalloc.start()
    assert list(images) == []
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    limit = "268,435,456" if path.suffix in IMAGES else "536,870,912: write it as .npy"
    assert images.unreadable == {str(path): f"has 3,221,225,472 bytes, more than {limit}"}


def test_what_is_transparent_is_white_in_files_and_arrays(tmp_path):
    """Whatever its hidden colour; what is half transparent is mixed with white."""
    hidden = np.zeros((32, 32, 4), np.uint8)
    hidden[..., 0] = 200
    hidden[:16, :, 3] = 255
    hidden[16:24, :, 3] = 128
    Image.fromarray(hidden).save(tmp_path / "rgba.png")
    Image.fromarray(hidden).save(tmp_path / "rgba.webp", lossless=True, exact=True)
    np.save(tmp_path / "rgba.npy", hidden[None])
    files = [tmp_path / name for name in ("rgba.png", "rgba.webp", "rgba.npy")]
    images = Images(files, (32, 32))
    for image in images:
        assert [image.pixels[row, 0].tolist() for row in (0, 20, 31)] == [[200, 0, 0], [227, 127, 127], [255, 255, 255]]
    assert images.changes().endswith("was 32 x 32, RGBA; 3 with transparency put on white")
    key = Image.new("RGB", (32, 32), "red")
    key.save(tmp_path / "key.png", transparency=(255, 0, 0))  # red stands for nothing
    assert next(iter(Images([tmp_path / "key.png"], (32, 32)))).pixels.min() == 255


def test_pixels_of_32_bits_are_refused(tmp_path):
    """Pillow would clip them, to nearly white."""
    for name, dtype in (("integer.tif", np.int32), ("float.tif", np.float32)):
        Image.fromarray(np.full((8, 8), 1000, dtype)).save(tmp_path / name)
        images = Images([tmp_path / name], (8, 8))
        assert list(images) == []
        assert images.unreadable[str(tmp_path / name)] == "has pixels of 32 bits: convert it to 8 or 16"


def test_more_than_eight_bits_are_scaled_to_eight(tmp_path):
    white = np.full((8, 8), 4095, np.uint16)
    (tmp_path / "twelve.pgm").write_bytes(b"P5 8 8 4095\n" + white.astype(">u2").tobytes())
    Image.fromarray(white << 4).save(tmp_path / "sixteen.tif")
    twelve = Image.fromarray(white)
    twelve.save(tmp_path / "twelve.tif", tiffinfo={258: 12})
    with Image.open(tmp_path / "twelve.tif") as image:
        assert image.tag_v2[258] == (16,)  # Pillow writes no other, so its tag is replaced
    for image in Images([tmp_path / "twelve.pgm", tmp_path / "sixteen.tif"], (8, 8)):
        assert image.pixels.min() == 255
    twelve.tag_v2 = {258: (12,)}
    assert np.asarray(eight_bits(twelve)).min() == 255


def test_pixels_are_read_beside_damaged_exif_data(tmp_path):
    red = Image.new("RGB", (8, 8), "red")
    red.save(tmp_path / "red.png", exif=b"Exif\0\0garbage!")
    images = Images([tmp_path / "red.png"], (8, 8))
    assert [image.pixels[0, 0].tolist() for image in images] == [[255, 0, 0]] and not images.unreadable


def test_photos_are_upright_animations_their_first_frame_and_endings_of_any_case(tmp_path):
    left = Image.new("RGB", (16, 8), "black")
    left.paste("white", (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: what is left goes up
    left.save(tmp_path / "PHOTO.JPG", exif=exif)
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "Moving.GIF", save_all=True, append_images=frames[1:])
    moving, photo = Images(list_image_files([str(tmp_path)]), (16, 8))
    assert moving.pixels[0, 0].tolist() == [255, 0, 0]
    assert photo.pixels[:6].min() > 200
    assert photo.pixels[10:].max() < 50


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_any_mode_and_size_becomes_rgb(tmp_path, mode):
    wide = Image.new("L", (70, 40), 255)
    image = Image.fromarray(np.full((40, 70), 65535, np.uint16)) if mode == "I;16" else wide.convert(mode)
    path = tmp_path / ("image.tif" if mode in ("CMYK", "YCbCr", "LA") else "image.png")
    image.save(path)
    images = Images([path], (32, 32))
    ((name, _, pixels),) = images
    assert (name, pixels.shape, pixels.dtype) == (str(path), (32, 32, 3), np.uint8)
    assert pixels.min() >= 250
    assert (images.unreadable, len(images.changed)) == ({}, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which images? Name files, folders"),
        (["nowhere"], "there is no file or folder 'nowhere'"),
        (["."], "there are no images in ."),
        (["--checkpoint=99"], "which images?"),
        ([".", "--top=0"], "--top must be from 1 to 10, the number of classes, not 0"),
        ([".", "--top=11"], "--top must be from 1 to 10, the number of classes, not 11"),
        ([".", "--top=all"], "--top must be a whole number, not 'all'"),
        ([".", "--output=out.jpg"], "--output=out.jpg must end in one of .csv, .json, .npy, .png"),
        (
            [".", "--json", "--output=out.csv"],
            "--json writes a .json file, and --output=out.csv does not: leave one of them out",
        ),
        ([".", "--json", "--submission"], "--json writes a .json file, and --submission does not"),
        ([".", "--submission", "--top=2"], "--submission writes only ID and Labels, as .csv: leave out --top"),
        ([".", "--submission", "--output=out.json"], "only ID and Labels, as .csv: let --output end in that"),
        ([".", "--probabilities", "--output=out.png"], "--probabilities are written to a .csv or .json file"),
        ([".", "--top=2", "--output=out.npy"], "--top does not apply to features"),
    ],
)
def test_mistakes(small_runs, tmp_path, monkeypatch, words, message, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", f"--workdir={small_runs[0]}", *words]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_count_moves_on_a_terminal_and_nowhere_else(small_runs, tmp_path):
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    np.save(tmp_path / "some.npy", examples(small_runs[0]).images)
    words = [str(tmp_path / "some.npy"), f"--workdir={small_runs[0]}", f"--output={tmp_path}/out.csv"]
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (24, 80))
    command = [sys.executable, "-m", "resnet_flax.main", "predict", *words]
    subprocess.run(command, cwd=ROOT, stdout=writer, check=True)
    screen = os.read(reader, 65536)
    assert re.search(rb"\r(0|360) images \[", screen)
    plain = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True).stdout
    assert plain == f"360 images in {tmp_path}/out.csv\n"


def test_an_empty_word_is_no_path(capsys):
    """pathlib takes it for the current folder; a shell gives it for a variable that is not set."""
    assert main(["predict", ""]) == 1
    assert capsys.readouterr().err == "error: an image must be a path, not ''\n"
