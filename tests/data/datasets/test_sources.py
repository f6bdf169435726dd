"""Datasets: decoded once, sliced as TFDS does, refused quickly if they are missing."""

import importlib.util
import mmap
import os
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest

from benchmarks.faults.injection import largest_file
from resnet_flax.config.checks import complete
from resnet_flax.config.defaults import get_config
from resnet_flax.data.datasets import arrays, sources
from resnet_flax.data.datasets.arrays import Split, write_arrays
from resnet_flax.data.datasets.load import find_arrays, load_dataset, load_split
from resnet_flax.data.datasets.sources import CIFAR10_CLASSES, SOURCES, Source, Tfds, decode_tfds
from resnet_flax.data.datasets.splits import parse_split
from resnet_flax.errors import UserError


def is_mapped(array: np.ndarray) -> bool:
    """Return whether the memory of an array is a file."""
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(getattr(array, "obj", None), mmap.mmap)


def data_config(**changes):
    config = get_config()
    config.data.update(changes)
    return complete(config).data


def test_digits_are_real_images_in_a_fixed_split():
    data = load_dataset(data_config())
    assert (len(data.train), len(data.validation), len(data.test)) == (1293, 144, 360)
    assert data.train.images.shape == (1293, 32, 32, 3)
    assert data.train.images.dtype == np.uint8
    assert data.train.images.max() == 255
    assert data_config().classes == tuple("0123456789")
    assert is_mapped(data.train.images)
    # The same on every machine: the first labels of the split.
    assert data.train.labels[:8].tolist() == [2, 8, 2, 6, 6, 7, 1, 9]
    assert np.bincount(data.test.labels).min() >= 25


def test_train_examples_keeps_the_first():
    whole, part = load_dataset(data_config()), load_dataset(data_config(train_examples=10))
    np.testing.assert_array_equal(part.train.images, whole.train.images[:10])
    assert len(part.validation) == len(whole.validation)


SPLITS = ["train", "train[:90%]", "train[90%:]", "train[100:140]", "train[-50:]", "train[:7%]", "train[10%:-5%]"]


@pytest.mark.parametrize("text", SPLITS)
@pytest.mark.parametrize("size", [150, 1437])
def test_splits_are_sliced_as_tfds_slices(text, size, tmp_path):
    write_arrays({"train": Split(np.zeros((size, 1, 1, 3), np.uint8), np.zeros(size, np.int32))}, tmp_path)
    tfds = pytest.importorskip("tensorflow_datasets")
    infos = {"train": tfds.core.SplitInfo(name="train", shard_lengths=[size], num_bytes=0)}
    (theirs,) = tfds.core.ReadInstruction.from_spec(text).to_absolute(infos)
    name, ours = parse_split(text, tmp_path)
    assert (name, ours.start, ours.stop) == (theirs.splitname, theirs.from_ or 0, theirs.to or size)


def test_missing_dataset_fails_fast_and_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setitem(SOURCES, "cifar10", unreachable_cifar10())
    started = time.perf_counter()
    with pytest.raises(UserError) as raised:
        load_dataset(data_config(name="cifar10"))
    assert time.perf_counter() - started < 30  # no connection was waited for, which takes minutes
    assert str(tmp_path / "cifar10/3.0.2") in str(raised.value)
    assert "TFDS_DATA_DIR" in str(raised.value)
    assert "\n" not in str(raised.value)


def unreachable_cifar10() -> Source:
    # An address that no route leads to (RFC 5737): what an offline machine or a silent firewall looks like.
    return Tfds(CIFAR10_CLASSES, "cifar10/3.0.2", "http://192.0.2.1")


def prepare_toy_dataset(data_dir) -> None:
    """Write a TFDS dataset, as `tfds.load` leaves one: 40 images to train and 10 to test."""
    import tensorflow_datasets as tfds

    class Toyset(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(32, 32, 3)),
                "label": tfds.features.ClassLabel(num_classes=4),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(40), "test": self._generate_examples(10)}

        def _generate_examples(self, count):
            for i in range(count):
                yield i, {"image": np.full((32, 32, 3), i, np.uint8), "label": i % 4}

    Toyset(data_dir=str(data_dir)).download_and_prepare()


def test_prepared_tfds_dataset_is_decoded_once(tmp_path, monkeypatch):
    prepare_toy_dataset(tmp_path)
    decoded = []

    def decode(folder, original=decode_tfds):
        decoded.append(folder)
        return original(folder)

    monkeypatch.setattr(sources, "decode_tfds", decode)
    monkeypatch.setitem(SOURCES, "toyset", Tfds(tuple("abcd"), "toyset/1.0.0", ""))
    for _ in range(2):
        data = load_dataset(data_config(name="toyset", dir=str(tmp_path)))
        assert data.train.images.shape == (36, 32, 32, 3)
        assert len(data.validation) == 4
        assert data.test.labels.dtype == np.int32
        np.testing.assert_array_equal(data.train.images[:, 0, 0, 0] % 4, data.train.labels)
    assert decoded == [tmp_path / "toyset/1.0.0"]


@pytest.mark.parametrize(("name", "classes"), [("cifar100", 100), ("svhn", 10)])
def test_datasets_of_tfds_are_what_tfds_says(name, classes, tmp_path, monkeypatch):
    """Random images in the features of the real dataset: its name, version, labels and sizes are TFDS's own."""
    import tensorflow_datasets as tfds

    source = SOURCES[name]
    folder, version = source.path.split("/")
    builder = tfds.builder(folder, data_dir=str(tmp_path))
    assert str(builder.version) == version
    assert builder.info.features["label"].num_classes == classes == len(source.classes)
    assert builder.info.features["image"].shape == (32, 32, 3)
    monkeypatch.setattr(sources, "reachable", lambda host: True)
    with tfds.testing.mock_data(num_examples=20):
        data = load_dataset(data_config(name=name, dir=str(tmp_path)))
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 2, 20)
    assert data.train.images.shape == (18, 32, 32, 3)
    assert data.train.images.dtype == np.uint8
    assert data.train.labels.dtype == np.int32
    assert 0 <= data.train.labels.min() <= data.train.labels.max() < classes


def test_images_of_another_size_than_the_config_says_are_refused():
    with pytest.raises(UserError, match=r"digits has images of shape \(32, 32, 3\), but .*_size is 64: set it to 32"):
        load_dataset(data_config(image_size=64))


def test_splits_with_images_of_different_sizes_are_refused(tmp_path):
    for split, size in (("train", 32), ("test", 28)):
        np.save(tmp_path / f"{split}_images.npy", np.zeros((20, size, size, 3), np.uint8))
        np.save(tmp_path / f"{split}_labels.npy", np.arange(20) % 10)
    with pytest.raises(UserError, match=r"the same shape, not \(28, 28, 3\) in test, \(32, 32, 3\) in train"):
        load_dataset(data_config(name="cifar10", dir=str(tmp_path)))


def test_folder_of_arrays_is_a_dataset(tmp_path):
    for split, count in (("train", 20), ("test", 5)):
        np.save(tmp_path / f"{split}_images.npy", np.zeros((count, 32, 32, 3), np.uint8))
        np.save(tmp_path / f"{split}_labels.npy", np.arange(count, dtype=np.uint8) % 10)
    data = load_dataset(data_config(name="cifar10", dir=str(tmp_path)))
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 2, 5)
    assert data.train.labels.dtype == np.int32


def save_arrays(folder, labels, splits=("train",)):
    for split in splits:
        np.save(folder / f"{split}_images.npy", np.zeros((len(labels), 32, 32, 3), np.uint8))
        np.save(folder / f"{split}_labels.npy", labels)


@pytest.mark.parametrize("splits", [("train",), ("test", "train", "unlabelled"), ("test", "train", "validation")])
def test_arrays_of_any_number_of_classes_are_a_dataset_of_ones_own(tmp_path, splits):
    save_arrays(tmp_path, np.arange(30) % 3, splits)
    config = data_config(name="folder", dir=str(tmp_path))
    assert config.classes == ("0", "1", "2")
    data = load_dataset(config)
    of_splits = {1: (24, 3, 3), 3: (27, 3, 30)} if "validation" not in splits else {3: (30, 30, 30)}
    assert (len(data.train), len(data.validation), len(data.test)) == of_splits[len(splits)]
    assert data_config(name="folder", dir=str(tmp_path), classes=("a", "b", "c")).classes == ("a", "b", "c")
    with pytest.raises(UserError, match="labels from 0 to 2, but there are 2 classes"):
        load_dataset(data_config(name="folder", dir=str(tmp_path), classes=("a", "b")))


def test_arrays_of_labels_that_count_no_classes_are_refused(tmp_path):
    save_arrays(tmp_path, np.array([0, 2**40]))
    with pytest.raises(UserError, match=r"label of 1,099,511,627,776: labels must be class numbers from 0 to 9,999"):
        data_config(name="folder", dir=str(tmp_path))
    save_arrays(tmp_path, np.array([0, -1] * 10))
    with pytest.raises(UserError, match="labels from -1 to 0, but there are 2 classes"):
        load_dataset(data_config(name="folder", dir=str(tmp_path)))


@pytest.mark.parametrize("name", ["digits", "folder", "cifar10"])
def test_a_home_of_nobody_is_a_folder_that_does_not_exist(name):
    with pytest.raises(UserError, match="~nosuchuser/photos"):
        load_dataset(data_config(name=name, dir="~nosuchuser/photos"))


def test_too_few_images_for_a_split_say_what_to_choose(tmp_path):
    save_arrays(tmp_path, np.arange(4) % 2)
    with pytest.raises(UserError, match=r"split 'train\[90%:\]' holds none of the 4 examples of train"):
        load_dataset(data_config(name="folder", dir=str(tmp_path)))


@pytest.mark.parametrize(
    ("file", "array", "why"),
    [
        ("train_images", np.zeros((20, 32, 32, 3)), "must hold images .* uint8, not float64"),
        ("train_images", np.zeros((20, 3072), np.uint8), r"not uint8 \(20, 3072\)"),
        ("train_images", np.zeros((19, 32, 32, 3), np.uint8), "an integer for each image"),
        ("train_images", np.array([None]), "cannot be read: contains Python objects"),
        ("train_labels", np.zeros(20), "an integer for each image, not .* float64"),
        ("train_labels", np.full(20, 10), "labels from 10 to 10, but there are 10 classes"),
        ("train_labels", np.full(20, -1), "labels from -1 to -1"),
    ],
)
def test_untrusted_arrays_are_checked(tmp_path, file, array, why):
    for split in ("train", "test"):
        np.save(tmp_path / f"{split}_images.npy", np.zeros((20, 32, 32, 3), np.uint8))
        np.save(tmp_path / f"{split}_labels.npy", np.arange(20) % 10)
    np.save(tmp_path / f"{file}.npy", array)
    with pytest.raises(UserError, match=why):
        load_dataset(data_config(dir=str(tmp_path)))


def test_start_without_tensorflow_where_the_feed_needs_none(tmp_path):
    code = (
        "import sys\n"
        "from resnet_flax.main import main\n"
        "code = main(sys.argv[1:])\n"
        "assert not {'tensorflow', 'tensorflow_datasets'} & set(sys.modules), 'imported'\n"
        "sys.exit(code)\n"
    )
    small = ["--config.model.blocks=(1,)", "--config.model.widths=(4,)", "--config.data.train_examples=128"]
    words = ["--config=configs/quickstart.py", "--config.data.feed=device", "--config.train.epochs=2", *small]
    words += ["--config.schedule.name=constant", f"--workdir={tmp_path}"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_dataset_that_cannot_be_kept_leaves_nothing_and_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "resnet_flax" / "datasets"
    why = f"^the decoded dataset, 5.5 MB, cannot be kept in {folder}: File too large; make room there, or set XDG_CACHE"
    with largest_file(1_000_000):
        for _ in range(2):
            with pytest.raises(UserError, match=why):
                load_dataset(data_config())
            assert list(folder.iterdir()) == []
    assert len(load_dataset(data_config()).test) == 360
    assert [path.name.rpartition("-")[0] for path in folder.iterdir()] == ["digits-embedded"]


def test_decoding_that_is_interrupted_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def interrupt(path, array):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(arrays, "write_npy", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_dataset(data_config())
    assert list((tmp_path / "resnet_flax" / "datasets").iterdir()) == []


PREPARE = """
import sys, time
from pathlib import Path
from resnet_flax.config.defaults import get_config
from resnet_flax.data.datasets import load, sources

log = Path(sys.argv[1])

def slow_digits():
    with open(log, "a") as file:
        print("decoded", file=file)
    for _ in range(200):  # until the other process has looked, too
        if len(list(log.parent.glob("ready*"))) == 2:
            break
        time.sleep(0.05)
    time.sleep(0.3)
    return sources.decode_digits()

sources.SOURCES["digits"] = sources.Embedded(tuple("0123456789"), slow_digits)
config = get_config()
config.data.name = "digits"
log.with_name(f"ready{sys.argv[2]}").touch()
print(load.find_arrays(config.data))
"""


@pytest.mark.parametrize("shared", [True, False])
def test_one_process_for_each_cache_prepares_the_data_and_the_others_wait(shared, tmp_path):
    caches = [tmp_path / ("cache" if shared else f"cache{index}") for index in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PREPARE, tmp_path / "log", str(index)],
            env=os.environ | {"XDG_CACHE_HOME": str(cache)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index, cache in enumerate(caches)
    ]
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert (tmp_path / "log").read_text() == "decoded\n" * (1 if shared else 2)
    for text, cache in zip(said, caches, strict=True):
        assert text.splitlines()[-1].startswith(str(cache / "resnet_flax" / "datasets" / "digits-embedded-"))
    assert "".join(said).count("waiting for another process to prepare the dataset\n") == shared


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_written_as_numpy_writes_them(tmp_path, order):
    for array in (np.arange(24, dtype=np.uint8).reshape(2, 3, 4, order=order), np.arange(24, dtype=np.int32)[::2]):
        np.save(tmp_path / "theirs.npy", array)
        arrays.write_npy(tmp_path / "ours.npy", array)
        assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()


@pytest.mark.parametrize("damage", [os.unlink, lambda path: os.truncate(path, path.stat().st_size // 2)])
def test_a_damaged_folder_in_the_cache_is_decoded_again(damage, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for path in list(find_arrays(data_config()).glob("*.npy")):
        damage(path)
        assert len(load_dataset(data_config()).test) == 360


def test_a_folder_that_does_not_exist_is_not_ignored(tmp_path):
    with pytest.raises(
        UserError, match=f"config.data.dir '{tmp_path}/gone' is not a folder, and digits does not need it"
    ):
        load_dataset(data_config(dir=f"{tmp_path}/gone"))


def test_a_dataset_that_tfds_cannot_prepare_is_one_line(tmp_path, monkeypatch):
    folder = tmp_path / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("damaged")
    with pytest.raises(UserError, match=f"^{folder} cannot be prepared by TensorFlow Datasets: .+") as raised:
        load_dataset(data_config(name="cifar10", dir=str(tmp_path)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("valid", "unknown split 'valid': did you mean 'validation'?"),
        ("tset", "unknown split 'tset': did you mean 'test'?"),
        ("everything", "unknown split 'everything': the choices are: test, train, validation"),
        ("train[", "split 'train[' must look like"),
    ],
)
def test_an_unknown_split_suggests_the_nearest_validation_included(split, message):
    with pytest.raises(UserError) as raised:
        load_split(data_config(), split)
    assert str(raised.value).startswith(message)


def test_a_dataset_without_a_test_split_says_how_to_evaluate_all_of_it(tmp_path):
    np.save(tmp_path / "train_images.npy", np.zeros((20, 32, 32, 3), np.uint8))
    np.save(tmp_path / "train_labels.npy", np.arange(20) % 10)
    assert data_config(dir=str(tmp_path)).test == "train[90%:]"
    config = data_config(dir=str(tmp_path), test="test")
    with pytest.raises(UserError) as raised:
        load_split(config, "test")
    line = f"config.data.test is 'test', and {tmp_path} has only train: --split=train[:] is all of train"
    assert str(raised.value) == line
    assert len(load_split(config, "train[:]")[1]) == 20


def test_a_dataset_that_is_computed_is_computed_anew_when_its_code_changes(tmp_path):
    """As that of docs/extending.md is, in a user's own file."""
    versions = []
    for value in (1, 2, 1):
        (tmp_path / f"mine{len(versions)}.py").write_text(f"def make():\n    return {value}\n")
        spec = importlib.util.spec_from_file_location("mine", tmp_path / f"mine{len(versions)}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        versions.append(sources.Embedded(("a", "b"), module.make).key(get_config().data)[1])
    assert versions[0] == versions[2] != versions[1]
    assert sources.Embedded(("a", "b"), partial(int)).key(get_config().data)[1]  # without source code, always the same
