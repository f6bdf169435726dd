"""What a trained network takes a user's own images for, as a CSV file."""

import csv
import re
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np
from ml_collections import FrozenConfigDict
from tqdm import tqdm

from resnet_flax.classifier import BATCH, IMAGE_SHAPE, Classifier, restore
from resnet_flax.data.images import IMAGES, Images, Named, find
from resnet_flax.errors import UserError
from resnet_flax.text import printable, say

MOST_LISTED = 20
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
    images = Images(find(files), IMAGE_SHAPE[:2])
    state = restore(config, workdir, checkpoint).tree["state"]
    path = Path(output) if output else workdir / ("submission.csv" if submission else "predictions.csv")
    unfinished = path.with_name(path.name + ".tmp")
    classifier, count = Classifier(config), 0
    try:
        with open_csv(unfinished) as file, bar(images) as shown:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["ID", "Labels"] if submission else ["file", "label", "name", "probability"])
            for batch in batches(images):
                rows = classifier(state, np.stack([image.pixels for image in batch]))
                writer.writerows(csv_rows(batch, rows, config.data.classes, submission))
                count += len(batch)
                shown.update(len(batch))
        if count:
            unfinished.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    finally:
        unfinished.unlink(missing_ok=True)
    if images.changed:
        name, was = next(iter(images.changed.items()))
        say(f"{len(images.changed):,} images made 32 x 32, RGB; the first, {printable(name)}, was {was}")
    say(f"{count:,} images in {path}" if count else "nothing to write")
    if images.unreadable:
        listed = [f"  {printable(name)}: {why}" for name, why in images.unreadable.items()]
        rest = [f"  and {len(listed) - MOST_LISTED:,} more"] if len(listed) > MOST_LISTED else []
        raise UserError("\n".join([f"{len(listed):,} files could not be read:", *listed[:MOST_LISTED], *rest]))


def open_csv(path: Path) -> TextIO:
    """A new CSV file in UTF-8; of a file name that is no text the odd bytes are escaped."""
    return open(path, "w", newline="", encoding="utf-8", errors="backslashreplace")


def bar(images: Images) -> tqdm:
    """A bar of images on a terminal, nothing elsewhere; without an end where files hold any number of them."""
    total = len(images.files) if all(file.suffix.lower() in IMAGES for file in images.files) else None
    hidden = not sys.stdout.isatty()
    return tqdm(total=total, unit=" images", file=sys.stdout, disable=hidden, leave=False, dynamic_ncols=True)


def batches(images: Images) -> Iterator[list[Named]]:
    """The images, BATCH at a time."""
    remaining = iter(images)
    while some := list(islice(remaining, BATCH)):
        yield some


def csv_rows(
    images: list[Named], log_probabilities: np.ndarray, classes: tuple, submission: bool
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
