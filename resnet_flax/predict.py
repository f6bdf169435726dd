"""What a trained network takes a user's own images for, as a CSV file."""

import csv
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from ml_collections import FrozenConfigDict
from tqdm import tqdm

from resnet_flax.classifier import BATCH, IMAGE_SHAPE, Classifier, restore
from resnet_flax.data.images import IMAGES, Images, find
from resnet_flax.errors import UserError
from resnet_flax.text import say

MOST_LISTED = 20


def predict(
    config: FrozenConfigDict, workdir: Path, files: list[str], checkpoint: str, output: str, submission: bool
) -> None:
    """Write a line for every image in `files` to `output`, predictions.csv or submission.csv in the workdir by default.

    The columns are file, label (from 0), name and probability; with `submission` they are ID and Labels. Raises
    UserError at the end, after everything else is written, with the files that could not be read.
    """
    if not files:
        raise UserError("which images? Name files, folders, .npy, .npz or a pickle behind 'predict'")
    images = Images(find(files), IMAGE_SHAPE[:2])
    state = restore(config, workdir, checkpoint).tree["state"]
    path = Path(output) if output else workdir / ("submission.csv" if submission else "predictions.csv")
    unfinished = path.with_name(path.name + ".tmp")
    classifier, count = Classifier(config), 0
    try:
        with open(unfinished, "w", newline="") as file, bar(images) as shown:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["ID", "Labels"] if submission else ["file", "label", "name", "probability"])
            for names, batch in batches(images):
                rows = classifier(state, batch)
                writer.writerows(csv_rows(names, rows, config.data.classes, submission))
                count += len(names)
                shown.update(len(names))
        if count:
            unfinished.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    finally:
        unfinished.unlink(missing_ok=True)
    if images.changed:
        name, was = next(iter(images.changed.items()))
        say(f"{len(images.changed):,} images made 32 x 32, RGB; the first, {name}, was {was}")
    say(f"{count:,} images in {path}" if count else "nothing to write")
    if images.unreadable:
        listed = [f"  {name}: {why}" for name, why in images.unreadable.items()]
        rest = [f"  and {len(listed) - MOST_LISTED:,} more"] if len(listed) > MOST_LISTED else []
        raise UserError("\n".join([f"{len(listed):,} files could not be read:", *listed[:MOST_LISTED], *rest]))


def bar(images: Images) -> tqdm:
    """A bar of images on a terminal, nothing elsewhere; without an end where files hold any number of them."""
    total = len(images.files) if all(file.suffix.lower() in IMAGES for file in images.files) else None
    hidden = not sys.stdout.isatty()
    return tqdm(total=total, unit=" images", file=sys.stdout, disable=hidden, leave=False, dynamic_ncols=True)


def batches(images: Images) -> Iterator[tuple[list[str], np.ndarray]]:
    """Names and images (at most BATCH, H, W, 3)."""
    remaining = iter(images)
    while some := list(islice(remaining, BATCH)):
        yield [name for name, _ in some], np.stack([image for _, image in some])


def csv_rows(names: list[str], log_probabilities: np.ndarray, classes: tuple, submission: bool) -> Iterator[tuple]:
    for name, row in zip(names, log_probabilities, strict=True):
        label = int(row.argmax())
        yield (Path(name).stem, label) if submission else (name, label, classes[label], f"{np.exp(row[label]):.6f}")
