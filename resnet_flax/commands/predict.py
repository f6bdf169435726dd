"""What a trained network takes a user's own images for, as a CSV file."""

import csv
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np
from ml_collections import FrozenConfigDict

from resnet_flax.data.datasets.images import Images, NamedImage, find_images
from resnet_flax.data.datasets.load import image_shape
from resnet_flax.errors import UserError
from resnet_flax.text import print_line
from resnet_flax.training.classifier import EVALUATION_BATCH, Classifier
from resnet_flax.training.restore import restore_checkpoint

FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # what begins one; the last four are wide forms of the first


def predict(
    config: FrozenConfigDict, workdir: Path, files: list[str], checkpoint: str, output: str, submission: bool
) -> None:
    """Write a line for every image in `files` to `output`, predictions.csv or submission.csv in the workdir by default.

    The columns are file, label (from 0), name and probability; with `submission` they are ID and Labels. What a
    spreadsheet would take for a formula gets a ' before it. Raises UserError at the end, after everything else is
    written, with the files that could not be read.
    """
    if not files:
        raise UserError("which images? Name files, folders, .npy, .npz or a pickle behind 'predict'")
    images = Images(find_images(files), image_shape(config.data)[:2])
    state = restore_checkpoint(config, workdir, checkpoint).tree["state"]
    path = Path(output) if output else workdir / ("submission.csv" if submission else "predictions.csv")
    unfinished = path.with_name(path.name + ".tmp")
    classifier, count = Classifier(config), 0
    try:
        with open_csv(unfinished) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["ID", "Labels"] if submission else ["file", "label", "name", "probability"])
            for batch in batches(images):
                rows = classifier(state, np.stack([image.pixels for image in batch]))
                writer.writerows(csv_rows(batch, rows, config.data.classes, submission))
                count += len(batch)
        if count:
            unfinished.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    finally:
        unfinished.unlink(missing_ok=True)
    if changes := images.changes():
        print_line(changes)
    print_line(f"{count:,} images in {path}" if count else "nothing to write")
    if images.unreadable:
        raise UserError("\n".join([f"{len(images.unreadable):,} files could not be read:", *images.failures()]))


def open_csv(path: Path) -> TextIO:
    """A new CSV file in UTF-8; of a file name that is no text the odd bytes are escaped."""
    return open(path, "w", newline="", encoding="utf-8", errors="backslashreplace")


def batches(images: Images) -> Iterator[list[NamedImage]]:
    """The images, BATCH at a time."""
    remaining = images.with_bar()
    while some := list(islice(remaining, EVALUATION_BATCH)):
        yield some


def csv_rows(
    images: list[NamedImage], log_probabilities: np.ndarray, classes: tuple, submission: bool
) -> Iterator[tuple[str | int, ...]]:
    for image, row in zip(images, log_probabilities, strict=True):
        label = int(row.argmax())
        if submission:
            yield cell(image.id), label
        else:
            yield cell(image.name), label, cell(classes[label]), f"{np.exp(row[label]):.6f}"


def cell(text: str) -> str:
    """`text`, behind a ' where a spreadsheet would compute it: a name out of somebody's archive could be a formula."""
    if not text.startswith(FORMULA) or re.fullmatch(r"[+-]?\d+\.?\d*", text, re.ASCII):
        return text
    return f"'{text}"
