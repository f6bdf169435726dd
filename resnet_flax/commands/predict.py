"""Predict the classes of a user's own images, into a CSV file."""

import csv
import io
import re
from collections.abc import Iterator
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
from ml_collections import FrozenConfigDict

from resnet_flax.data.datasets.images import Images, NamedImage, list_image_files
from resnet_flax.data.datasets.load import image_shape
from resnet_flax.errors import UserError
from resnet_flax.files import atomic_write
from resnet_flax.text import print_line
from resnet_flax.training.classifier import EVALUATION_BATCH, Classifier, batch_size
from resnet_flax.training.restore import restore_checkpoint
from resnet_flax.training.step import TrainState
from resnet_flax.workdir.trained import display_name, output_folder, read_trained_results

FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # what begins one; the last four are wide forms of the first


def predict(
    config: FrozenConfigDict, workdir: Path, files: list[str], checkpoint: str, output: str, submission: bool
) -> None:
    """Write a line for every image in `files` to `output`, predictions.csv or submission.csv in the workdir by default.

    The columns are file, label (from 0), name and probability; with `submission` they are ID and Labels. A ' is put
    before text that a spreadsheet would compute as a formula. Raises UserError at the end, after everything else is
    written, with the files that could not be read; if that is all of them, nothing is written.
    """
    if not files:
        raise UserError("which images? Name files, folders, .npy, .npz or a pickle behind 'predict'")
    images = Images(list_image_files(files), image_shape(config.data)[:2])
    state = restore_checkpoint(config, workdir, checkpoint).tree["state"]
    if workdir.is_file():
        print_line(f"network: {describe(workdir)}")
    path = Path(output) if output else output_folder(workdir) / ("submission.csv" if submission else "predictions.csv")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, "wb") as file:
            count = write_csv(file, config, state, images, submission)
            if not count:
                raise UserError(f"nothing to write: {images.failures()}")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    if changes := images.changes():
        print_line(changes)
    print_line(f"{'1 image' if count == 1 else f'{count:,} images'} in {path}")
    if images.unreadable:
        raise UserError(images.failures())


def write_csv(file: IO[bytes], config: FrozenConfigDict, state: TrainState, images: Images, submission: bool) -> int:
    """Write the header and a line for each image as UTF-8, and return how many images there were."""
    text = io.TextIOWrapper(file, "utf-8", "backslashreplace", newline="")  # names of files need not be valid text
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["ID", "Labels"] if submission else ["file", "label", "name", "probability"])
    classifier, count = cache(partial(Classifier, config)), 0
    for batch in batches(images):
        log_probabilities = classifier(batch_size(len(batch)))(state, np.stack([image.pixels for image in batch]))
        writer.writerows(csv_rows(batch, log_probabilities, config.data.classes, submission))
        count += len(batch)
    text.detach()
    return count


def describe(weights: Path) -> str:
    """Return the name of a network that is given as a file of weights and, if that is known, its accuracy."""
    accuracy = read_trained_results(weights).get("test_accuracy")
    return display_name(weights) + (f", test accuracy {accuracy:.2%}" if accuracy else "")


def batches(images: Images) -> Iterator[list[NamedImage]]:
    """Yield the images, EVALUATION_BATCH at a time."""
    remaining = images.with_bar()
    while batch := list(islice(remaining, EVALUATION_BATCH)):
        yield batch


def csv_rows(
    images: list[NamedImage], log_probabilities: np.ndarray, classes: tuple, submission: bool
) -> Iterator[tuple[str | int, ...]]:
    """Yield the columns of each image."""
    for image, row in zip(images, log_probabilities, strict=True):
        label = int(row.argmax())
        if submission:
            yield cell(image.id), label
        else:
            yield cell(image.name), label, cell(classes[label]), f"{np.exp(row[label]):.6f}"


def cell(text: str) -> str:
    """Return `text` behind a ' if a spreadsheet would compute it: names and ids are untrusted, and may be formulas."""
    if not text.startswith(FORMULA) or re.fullmatch(r"[+-]?\d+\.?\d*", text, re.ASCII):
        return text
    return f"'{text}"
