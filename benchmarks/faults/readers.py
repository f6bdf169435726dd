"""Everything that reads untrusted files or text, with valid inputs to damage, and bombs."""

import contextlib
import csv
import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from resnet_flax import models
from resnet_flax.command_line import parse
from resnet_flax.config.checks import complete
from resnet_flax.config.defaults import get_config
from resnet_flax.config.stored import CONFIG_KEY, config_to_json, read_config, read_weights_config
from resnet_flax.data.augment.policy import Policy
from resnet_flax.data.datasets import images, pickles
from resnet_flax.data.datasets.load import load_dataset
from resnet_flax.data.datasets.splits import parse_split
from resnet_flax.errors import STORAGE, UserError
from resnet_flax.models.torch_weights import from_torch, to_torch
from resnet_flax.models.weight_files import encode_safetensors, read_weights
from resnet_flax.report import figures
from resnet_flax.report.compare import comparison_row
from resnet_flax.report.facts import chosen_row
from resnet_flax.report.report import epoch_rows, headline, predictions_to_report
from resnet_flax.report.tables import class_rows
from resnet_flax.studies.space import Space
from resnet_flax.training.restore import read_history
from resnet_flax.workdir import predictions
from resnet_flax.workdir.predictions import Predictions
from resnet_flax.workdir.results import read_results

NUMBERS = [b"0", b"-1", b"1e999", b"nan", b"NaN", b"-inf", b"9" * 400, b"9" * 5000, b"2147483648"]
NUMBERS += [b"1e-46", b"True", b"None"]
WORDS = [
    b"",
    b"\0",
    b"\n",
    b"\r",
    b"'",
    b'"',
    b"\\",
    b"\x1b[2J",
    "\u202e".encode(),
    b"\xff",
    b"\xed\xa0\x80",
    b"../" * 9,
]
SIGNS = [b"(", b")", b"[", b"]", b"{", b"}", b",", b"=", b"|", b":", b"%", b"..", b"(" * 500, b"[" * 500]
SIZES = [struct.pack(kind, value) for kind in ("<I", ">I", "<Q", "<H") for value in (0, 1, 255, 2**15, 2**16 - 1)] + [
    struct.pack(kind, value) for kind in ("<I", ">I", "<Q", ">Q") for value in (2**20, 2**31 - 1, 2**31, 2**32 - 1)
]
TEXT = NUMBERS + WORDS + SIGNS


class Figures(list):
    """The figures to draw from a value, as functions that return one."""

    def draw(self, path: Path) -> None:
        for figure in self:
            figures.write_png(figure(), path)


@dataclass
class Reader:
    """A function that reads bytes, valid inputs, `tokens` to put into them, and `bombs`, which are used as they are.

    `refusals` are the errors that it may raise. `pack` wraps damaged content into a file with the right checksums, so
    that more than the checksums is tested.
    """

    read: Callable[[bytes], Any]
    valid: list[bytes]
    tokens: list[bytes] = field(default_factory=list)
    refusals: tuple[type[Exception], ...] = (UserError,)
    pack: Callable[[bytes], bytes] = bytes
    bombs: list[bytes] = field(default_factory=list)


def saved(save: Callable, *arguments: Any, **named: Any) -> bytes:
    file = io.BytesIO()
    save(file, *arguments, **named)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    return saved(np.save, array)


def zipped(members: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def huge_png(side: int, rows: int) -> bytes:
    """Return a small PNG whose header claims `side` x `side` pixels, with only `rows` rows of them in it."""
    header = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    pixels = zlib.compress(bytes(4 * side + 1) * rows)
    chunks = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", pixels), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def with_checksums(content: bytes) -> bytes:
    """Return a damaged PNG with the right checksum in each of its chunks."""
    parts, at = [content[:8]], 8
    while at + 12 <= len(content):
        length = min(int.from_bytes(content[at : at + 4], "big"), len(content) - at - 12)
        body = content[at + 4 : at + 8 + length]
        parts.append(content[at : at + 4] + body + struct.pack(">I", zlib.crc32(body)))
        at += 12 + length
    return b"".join(parts)


def lying_zip(size: int) -> bytes:
    """Return an archive whose member claims to have `size` bytes."""
    content = bytearray(zipped({"a.npy": bytes(10**6)}, zipfile.ZIP_DEFLATED))
    for signature, at in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        struct.pack_into("<I", content, content.index(signature) + at, size)
    return bytes(content)


PICKLED: list[dict] = [
    {b"data": np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072), b"labels": [3, 4], b"batch_label": b"one"},
    {"data": np.zeros((2, 4, 4, 3), np.uint8), "ids": np.array([7, 9]), "more": ["a", (1.5, None, True), 10**30]},
]
PICKLE_BOMBS = [
    b"]r\xff\xff\xff\x7f.",  # a memo of 16 GB
    b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.",  # bytes that are not there
    b"(]q\x00" + b"".join(b"](" + b"h%c" % n * 8 + b"eq%c" % (n + 1) for n in range(40)) + b"l.",  # 8**40 lists
    b"}N" + b"".join(b"q%ch%c\x86" % (n, n) for n in range(60)) + b"Ns.",  # a key that takes 2**60 steps to hash
    b"]" * 10**5 + b"a" * (10**5 - 1) + b".",  # a list in a list, and so on
    b"]q\x00h\x00a.",  # in itself
    b"I" + b"9" * 10**6 + b"\n.",
    b"(c_codecs\nencode\nq\x00X\0\0\x10\0%bq\x01](%bel." % (b"x" * 2**20, b"h\x00h\x01\x85R" * 10**5),
    b"c_codecs\nencode\n}U\x0c__setstate__K\x01sb.",
    b"cposix\nsystem\n(S'exit 1'\ntR.",
    b"](tR.",
    b"0.",
    b"",
    *(pickle.dumps({"data": np.zeros((10**6, 0, 0, 3), np.uint8)}, protocol) for protocol in (2, 5)),
    pickle.dumps(np.zeros(7, np.uint8), 2).replace(b"K\x07", b"\x8a\x07\0\0\0\0\0\0\x03"),  # 10**15 bytes
]
IMAGE = Image.fromarray(np.random.RandomState(0).randint(0, 256, (12, 10, 3), np.uint8))
DEEP_JSON = b'{"model":' * 30_000 + b"1" + b"}" * 30_000
HEADER = npy(np.zeros((2, 8, 8, 3), np.uint8))
NPY_BOMBS = [
    HEADER.replace(b"(2, 8, 8, 3), }" + b" " * 8, b"(1000000000000000,), }"),
    HEADER.replace(b"(2, 8, 8, 3), }" + b" " * 12, b"(10**15, 0, 0, 3), }".ljust(27)),
    npy(np.zeros((10**6, 0, 0, 3), np.uint8)).replace(b"1000000, 0", b"99999999999, 0"),
    HEADER.replace(b"(2, 8, 8, 3)", b"(" * 12),
]


def all_readers(folder: Path) -> dict[str, Reader]:
    """Return every reader by name; the files that they read are written into `folder`."""

    def of_file(name: str, read: Callable[[Path], Any]) -> Callable[[bytes], Any]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)

        def read_bytes(content: bytes) -> Any:
            path.write_bytes(content)
            return read(path)

        return read_bytes

    for split, count in (("train", 1437), ("test", 360)):
        np.save(folder / f"{split}_images.npy", np.zeros((count, 8, 8, 3), np.uint8))
        np.save(folder / f"{split}_labels.npy", np.zeros(count, np.int32))

    def of_text(read: Callable[[str], Any]) -> Callable[[bytes], Any]:
        return lambda content: read(content.decode("utf-8", "surrogateescape"))

    return (
        {
            "policy": Reader(of_text(Policy), POLICIES, TEXT + POLICIES, bombs=[b"(" * 10**6, b"crop(" + b"9" * 900]),
            "split": Reader(
                of_text(lambda text: parse_split(text, folder)),
                SPLITS,
                TEXT,
                bombs=[b"train[:%s%%]" % (b"9" * digits) for digits in (18, 400, 5000)],
            ),
            "command": Reader(of_text(run_command), COMMANDS, TEXT + COMMANDS, bombs=COMMAND_BOMBS),
            "config.json": Reader(
                of_file("config/config.json", lambda path: complete(read_config(path.parent))),
                CONFIGS,
                TEXT,
                bombs=[DEEP_JSON, b"[" * 10**6, b'{"seed":' + b"9" * 10**6 + b"}", b'"' + b"x" * 2**24 + b'"'],
            ),
            "pickle": Reader(
                of_file("some.pkl", pickles.read_pickle),
                [pickle.dumps(content, protocol) for content in PICKLED for protocol in range(6)],
                SIZES,
                (pickles.Refused, ValueError),
                bombs=PICKLE_BOMBS,
            ),
        }
        | array_readers(folder, of_file)
        | image_readers(of_file)
        | run_readers(folder, of_file)
        | weight_readers(of_file)
    )


POLICIES = [
    b"crop(4)|flip|normalize(cifar10)",
    b"rotate(10)|color_jitter(0.1,0.1,0.1)|flip|sharpness(2,0.2)|crop(4)|normalize(0.4914,0.4822,0.4465,0.247,0.243,0.261)"
    b"|random_erasing(0.2,0.02,0.1,value=1)",
    b"affine(10,translate=0.1,scale_low=0.9,interpolation=bilinear)|rand_augment(n=2,m=9)|cutout(8)",
]
SPLITS = [b"train", b"train[:90%]", b"train[90%:]", b"train[100:200]", b"test[-50:]", b"train[10%:-5%]"]
COMMANDS = [
    b"--config=configs/quickstart.py --config.optimizer.learning_rate=0.05 --config.train.epochs=3 --workdir=runs/x",
    b"summary --config=configs/preact.py:sgd,relu --config.model.blocks=(1,1,1,1) --noconfig.model.final_norm",
    b"preview --config=configs/resnet_353.py --images=3 --versions 4 --config.data.policy=crop(4)|flip",
    b"evaluate --workdir=a b --split=test[:5] --checkpoint=best --tta=flip --config.data.dir=/tmp --config.seed=1",
    b"sweep --config=configs/quickstart.py optimizer.learning_rate=1e-3..1:log train.batch_size=32,64 --trials=5",
    b"predict x.png --submission --workdir=a --config.schedule.milestones=(3,5) --config.data.classes=('a','b')",
]
COMMAND_BOMBS = [
    b"--config=" + b"x" * 10_000,
    b"--config=configs/quickstart.py:" + b"x" * 10_000,
    b"--workdir=" + b"x" * 10_000,
    b"--config=configs/quickstart.py --config.model.blocks=" + b"(" * 10_000,
    b"--config=configs/quickstart.py --config.model.blocks=" + b"[" * 10_000,
    b"--config=configs/quickstart.py --config.model.blocks=" + b"-" * 100_000 + b"1",
    b"--config=configs/quickstart.py --config.seed=" + b"9" * 100_000,
    b"x" * 100_000,
]
CONFIGS = [config_to_json(complete(get_config())).encode(), b'{"model": {"blocks": [1, 1, 1]}}']


def run_command(text: str) -> Any:
    """Process a command line as main does before the verb starts."""
    try:
        verb, runs, options = parse(text.replace("\0", "").split(" "))  # no command line has a NUL
    except OSError as error:
        if error.errno in STORAGE:
            raise UserError("main reports it") from None
        raise
    if verb == "sweep":
        return Space.read(options["fields"], options["recipe"])
    return runs


def array_readers(folder: Path, of_file: Callable) -> dict[str, Reader]:
    """Return the readers of a dataset's arrays."""
    config = get_config()
    config.data.dir, config.data.image_size = str(folder / "dataset"), 8
    config.data.train, config.data.validation, config.data.test = "train", "", ""
    config = complete(config)
    (folder / "dataset").mkdir()
    arrays = {"images": np.zeros((20, 8, 8, 3), np.uint8), "labels": np.arange(20) % 10}
    for name, array in arrays.items():
        np.save(folder / "dataset" / f"train_{name}.npy", array)

    def load(path: Path) -> None:
        try:
            load_dataset(config.data)
        finally:
            np.save(path, arrays[path.stem.removeprefix("train_")])

    return {
        f"dataset's {name}": Reader(of_file(f"dataset/train_{name}.npy", load), [npy(array)], SIZES + TEXT)
        for name, array in arrays.items()
    }


def image_readers(of_file: Callable) -> dict[str, Reader]:
    """Return the readers of all that predict takes, each with its extension and format."""

    def read(path: Path) -> list:
        found = images.Images([path], (32, 32))
        loaded = list(found)
        for why in found.unreadable.values():
            if "Error" in why and "MemoryError" in why:
                raise MemoryError
            raise UserError(why)
        return loaded

    def saved_as(kind: str, mode: str, **named: Any) -> bytes:
        return saved(IMAGE.convert(mode).save, kind, **named)

    array = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
    arrays = [npy(array), npy(np.asfortranarray(array)), npy(array[..., 0]), npy(np.zeros((2, 3072), np.uint8))]
    archive = [saved(np.savez, images=array, labels=np.arange(2)), saved(np.savez_compressed, images=array)]
    zip_bombs = [lying_zip(2**31), lying_zip(10), zipped({"a.npy": bytes(2**28)}, zipfile.ZIP_LZMA)]
    return {
        "npy": Reader(of_file("a.npy", read), arrays, SIZES + TEXT, bombs=NPY_BOMBS),
        "npz": Reader(of_file("a.npz", read), archive, SIZES, bombs=zip_bombs),
        "npz, inside": Reader(
            of_file("b.npz", read), arrays[:3], TEXT, pack=lambda content: zipped({"images.npy": content})
        ),
        "pickled images": Reader(
            of_file("data_batch_1", read), [pickle.dumps(content, 2) for content in PICKLED], SIZES
        ),
        "png": Reader(
            of_file("a.png", read),
            [saved_as("PNG", mode) for mode in ("RGB", "P", "L", "RGBA", "1")],
            SIZES,
            pack=with_checksums,
            bombs=[
                *(huge_png(side, rows) for side, rows in ((5000, 5000), (7000, 100), (10_000, 100), (50_000, 10))),
                saved_as("PNG", "L")[:33] + b"\xff" * 4 + b"IDAT",
            ],
        ),
        "jpg": Reader(
            of_file("a.jpg", read), [saved_as("JPEG", "RGB"), saved_as("JPEG", "CMYK", progressive=True)], SIZES
        ),
        "gif": Reader(of_file("a.gif", read), [saved_as("GIF", "P"), saved_as("GIF", "L")], SIZES),
        "bmp": Reader(of_file("a.bmp", read), [saved_as("BMP", "RGB"), saved_as("BMP", "P")], SIZES),
        "webp": Reader(
            of_file("a.webp", read), [saved_as("WEBP", "RGB"), saved_as("WEBP", "RGBA", lossless=True)], SIZES
        ),
        "tif": Reader(
            of_file("a.tif", read),
            [saved_as("TIFF", mode, compression=kind) for mode in ("RGB", "L") for kind in (None, "tiff_lzw", "jpeg")],
            SIZES,
        ),
        "ppm": Reader(of_file("a.ppm", read), [saved_as("PPM", "RGB"), b"P3 2 2 255\n" + b"1 2 3 " * 4], TEXT),
    }


# What a run holds: its config, the rows of its epochs, its results.
CONFIG = complete(get_config())
ROWS: list[dict] = [
    {
        "epoch": epoch,
        "step": 10 * epoch,
        "learning_rate": 0.1,
        "momentum": 0.9,
        "train_loss": 2 / epoch,
        "train_accuracy": 0.25 * epoch,
        "val_loss": 1.5,
        "val_accuracy": 0.5,
    }
    for epoch in (1, 2, 3)
]
RESULTS = {"test_accuracy": 0.5, "test_loss": 1.5, "test_examples": 20, "chosen_epoch": 3, "epochs": 3}


def report_history(path: Path) -> Figures:
    """Read metrics.csv and do what a report does with it."""
    rows = read_history(CONFIG, path.parent)
    epoch_rows(rows)
    chosen_row(CONFIG, rows)
    return Figures(
        [
            lambda: figures.training_curves(rows, "loss", {}),
            lambda: figures.training_curves(rows, "accuracy", {}),
            lambda: figures.learning_rate(rows, CONFIG),
            lambda: figures.compared_curves({"a": rows, "b": rows}, "loss"),
        ]
    )


def report_results(path: Path) -> Figures:
    """Read results.json and do what a report does with it."""
    results = read_results(path.parents[1])
    if not results:
        raise UserError("damaged, which has been reported")
    comparison_row(CONFIG, path.parents[1], ROWS, results)
    headline(CONFIG, ROWS, results, None)
    return Figures(
        [
            lambda: figures.training_curves(ROWS, "loss", results),
            lambda: figures.training_curves(ROWS, "accuracy", results),
        ]
    )


def report_predictions(path: Path) -> Figures:
    """Read predictions.npz and do what a report does with it."""
    reported = predictions_to_report(CONFIG, path.parents[1], finished=True)
    assert reported
    found = reported.predictions
    class_rows(found, CONFIG.data.classes)
    pixels = np.zeros((len(found), 32, 32, 3), np.uint8)
    calibration = found.calibration()
    return Figures(
        [
            lambda: figures.confusion_matrix(found, CONFIG.data.classes),
            lambda: figures.mistakes(found, pixels, CONFIG.data.classes),
            lambda: figures.reliability(calibration),
        ]
    )


def run_readers(folder: Path, of_file: Callable) -> dict[str, Reader]:
    """Return the readers of what a workdir holds besides its checkpoints."""
    metrics = io.StringIO()
    writer = csv.DictWriter(metrics, ROWS[0])
    writer.writeheader()
    writer.writerows(ROWS)
    found = Predictions(np.log(np.full((20, 10), 0.1, np.float32)), np.arange(20, dtype=np.int32) % 10)
    predictions.write_predictions(found, folder / "seed.npz", role="validation", split="train[90%:]", step=30)
    kept = (folder / "seed.npz").read_bytes()

    def repacked(content: bytes) -> bytes:
        """Return the file of predictions with other log-probabilities."""
        with zipfile.ZipFile(io.BytesIO(kept)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        return zipped(members | {"log_probabilities.npy": content})

    read_predictions = of_file("run/report/predictions.npz", report_predictions)
    return {
        "metrics.csv": Reader(of_file("run/metrics.csv", report_history), [metrics.getvalue().encode()], TEXT),
        "results.json": Reader(
            of_file("run/report/results.json", report_results), [json.dumps(RESULTS).encode()], TEXT, bombs=[DEEP_JSON]
        ),
        "predictions.npz": Reader(read_predictions, [kept], SIZES, bombs=[lying_zip(2**31)]),
        "predictions.npz, inside": Reader(
            read_predictions, [npy(found.log_probabilities)], SIZES + TEXT, pack=repacked
        ),
    }


def weight_readers(of_file: Callable) -> dict[str, Reader]:
    """Return the readers of weights for a tiny network, including PyTorch's if it is installed."""
    config = get_config()
    config.model.blocks, config.model.widths = (1,), (4,)
    model = models.build(complete(config))
    like = jax.eval_shape(lambda key: model.init(key, np.zeros((1, 8, 8, 3)), train=False), jax.random.key(0))
    tensors = to_torch(jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), like))

    def read(path: Path) -> Any:
        return from_torch(read_weights(path), like)

    def read_both(path: Path) -> Any:
        return read(path), complete(read_weights_config(path))

    content = encode_safetensors(tensors, {CONFIG_KEY: config_to_json(complete(config))})
    readers = {"safetensors": Reader(of_file("a.safetensors", read_both), [content], SIZES + TEXT)}
    with contextlib.suppress(ImportError):
        import torch

        state = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
        repeated = {name: torch.zeros(1, dtype=torch.float16).expand(10**12) for name in state}
        plain, old = saved_torch(torch, state), saved_torch(torch, state, _use_new_zipfile_serialization=False)
        with zipfile.ZipFile(io.BytesIO(plain)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        program = next(name for name in members if name.endswith("data.pkl"))
        readers |= {
            "torch": Reader(
                of_file("a.pt", read),
                [plain, old],
                SIZES,
                bombs=[saved_torch(torch, repeated), zipped({"a/data.pkl": bytes(2**27)}, zipfile.ZIP_DEFLATED)],
            ),
            "torch, inside": Reader(
                of_file("b.pt", read),
                [members[program]],
                SIZES,
                pack=lambda content: zipped(members | {program: content}),
            ),
        }
    return readers


def saved_torch(torch: Any, content: Any, **named: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **named)
    return file.getvalue()
