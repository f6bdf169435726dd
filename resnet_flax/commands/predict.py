"""Predict the classes of a user's own images, or compute their features, into a file."""

import csv
import io
import json
import re
from collections.abc import Callable, Generator, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from ml_collections import FrozenConfigDict

from resnet_flax.data.datasets.images import Images, NamedImage, count_of_images, list_image_files
from resnet_flax.data.datasets.load import image_shape
from resnet_flax.errors import UserError
from resnet_flax.files import atomic_write
from resnet_flax.models.resnet import Variables
from resnet_flax.report.tables import MAX_NAME_CHARS, text_table
from resnet_flax.text import end_of_line, escape_line, print_line
from resnet_flax.training.classifier import EVALUATION_BATCH, Classifier, batch_size
from resnet_flax.training.restore import restore_checkpoint
from resnet_flax.training.step import eval_step, feature_step
from resnet_flax.workdir.trained import display_name, output_folder, read_trained_results

FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # what begins one; the last four are fullwidth forms
MAX_PRINTED = 10  # images; the predictions of more are only written
MAX_TILES = 100  # images of a contact sheet


class ImageOutput(NamedTuple):
    """An image and what the network computes for it: (classes,) log-probabilities or (channels,) features, float32."""

    image: NamedImage
    output: np.ndarray


ImageOutputs = Generator[ImageOutput, None, None]


class Contents(NamedTuple):
    """The contents of a file: for each image its `top` classes, perhaps with the `probabilities` of all `classes`.

    As a `submission` to Kaggle, it holds only an ID and a label.
    """

    classes: tuple[str, ...]
    top: int
    probabilities: bool
    submission: bool


class Prediction(NamedTuple):
    """A class that an image may be of."""

    label: int
    name: str
    probability: float


def predict(
    config: FrozenConfigDict,
    workdir: Path,
    files: list[str],
    checkpoint: str,
    output: str,
    json: bool,
    top: int,
    probabilities: bool,
    submission: bool,
) -> None:
    """Write predictions for every image in `files` to `output`, by default in the workdir.

    The extension of `output` is one of WRITERS and says what is written; `json` stands for predictions.json. Raises
    UserError at the end, when everything else is written, with the files that could not be read; if no file could be
    read, nothing is written.
    """
    if not files:
        raise UserError("which images? Name files, folders, .npy, .npz or a pickle after 'predict'")
    contents = Contents(config.data.classes, top, probabilities, submission)
    default = "submission.csv" if submission else "predictions.json" if json else "predictions.csv"
    path = Path(output) if output else output_folder(workdir) / default
    if json and path.suffix.lower() != ".json":
        other = f"--output={output}" if output else "--submission"
        raise UserError(f"--json writes a .json file, and {other} does not: leave one of them out")
    write = choose_writer(path, contents)
    images = Images(list_image_files(files), image_shape(config.data)[:2])
    variables = restore_checkpoint(config, workdir, checkpoint).tree["state"].variables
    if workdir.is_file():
        print_line(f"network: {describe(workdir)}")
    outputs = compute(config, variables, images, feature_step if write is write_features else eval_step)
    first = list(islice(outputs, MAX_PRINTED + 1))
    if not first:
        raise UserError(f"nothing to write: {images.failures()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, "wb") as file:
            written = write(file, chain(first, outputs), contents)
        outputs.close()  # and with it the progress bar, if there are more than were written
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    if changes := images.changes():
        print_line(changes)
    if len(first) <= MAX_PRINTED and write is not write_features and not submission:
        print_line(printed_table(first, contents))
    print_line(f"{written} in {path}")
    if images.unreadable:
        raise UserError(images.failures())


def describe(weights: Path) -> str:
    """Return the name of a network given as a file of weights and, if known, its accuracy."""
    accuracy = read_trained_results(weights).get("test_accuracy")
    return display_name(weights) + (f", test accuracy {accuracy:.2%}" if accuracy is not None else "")


def choose_writer(path: Path, contents: Contents) -> Callable[[IO[bytes], Iterator[ImageOutput], Contents], str]:
    """Return the function that writes a file such as `path`. Raises UserError if it cannot have these `contents`."""
    extension, count = path.suffix.lower(), len(contents.classes)
    if extension not in WRITERS:
        raise UserError(f"--output={path} must end in one of {', '.join(WRITERS)}, which says what is written")
    if not 1 <= contents.top <= count:
        raise UserError(f"--top must be from 1 to {count}, the number of classes, not {contents.top}")
    if contents.submission and (extension != ".csv" or contents.top > 1 or contents.probabilities):
        advice = "leave out --top and --probabilities" if extension == ".csv" else "let --output end in that"
        raise UserError(f"--submission writes only ID and Labels, as .csv: {advice}")
    if contents.probabilities and extension not in (".csv", ".json"):
        raise UserError(f"--probabilities are written to a .csv or .json file, not to {extension}")
    if extension == ".npy" and contents.top > 1:
        raise UserError("--top does not apply to features, which an .npy file holds")
    return WRITERS[extension]


def compute(config: FrozenConfigDict, variables: Variables, images: Images, step: Callable) -> ImageOutputs:
    """Yield the images that can be read, each with what `step` computes for it."""
    classifier, remaining = None, images.with_bar()
    while batch := list(islice(remaining, EVALUATION_BATCH)):
        classifier = classifier or Classifier(config, batch_size(len(batch)), step)
        yield from map(ImageOutput, batch, classifier(variables, np.stack([image.pixels for image in batch])))


def ranked(found: ImageOutput, contents: Contents) -> list[Prediction]:
    """Return the most probable classes of an image; of equally probable ones the lower label comes first."""
    labels = np.argsort(-found.output, kind="stable")[: contents.top].tolist()
    return [Prediction(label, contents.classes[label], rounded(found.output[label])) for label in labels]


def rounded(log_probability: float) -> float:
    return round(float(np.exp(log_probability)), 6)


def write_csv(file: IO[bytes], outputs: Iterator[ImageOutput], contents: Contents) -> str:
    """Write a line for each image as UTF-8, and return how many there are.

    The columns are file, label (from 0), name and probability, then label2, name2, probability2 and so on, and then
    p(CLASS) of each class; those of a submission are ID and Labels. A ' is put before text that a spreadsheet would
    evaluate as a formula.
    """
    text = io.TextIOWrapper(file, "utf-8", "backslashreplace", newline="")  # names of files need not be valid text
    writer, count = csv.writer(text, lineterminator="\n"), 0
    writer.writerow(csv_header(contents))
    for found in outputs:
        writer.writerow(csv_row(found, contents))
        count += 1
    text.detach()
    return count_of_images(count)


def csv_header(contents: Contents) -> list[str]:
    if contents.submission:
        return ["ID", "Labels"]
    ranks = ["", *map(str, range(2, contents.top + 1))]
    header = ["file", *(f"{column}{rank}" for rank in ranks for column in ("label", "name", "probability"))]
    return header + [f"p({name})" for name in contents.classes if contents.probabilities]


def csv_row(found: ImageOutput, contents: Contents) -> list[str | int]:
    best = ranked(found, contents)
    if contents.submission:
        return [cell(found.image.id), best[0].label]
    row: list[str | int] = [cell(found.image.name)]
    for label, name, probability in best:
        row += [label, cell(name), f"{probability:.6f}"]
    return row + [f"{rounded(value):.6f}" for value in found.output if contents.probabilities]


def write_json(file: IO[bytes], outputs: Iterator[ImageOutput], contents: Contents) -> str:
    """Write a list with an object for each image, one per line, and return how many there are.

    The keys are file; predictions, each with label, name and probability, the most probable first; and perhaps
    probabilities, a list in the order of the labels.
    """
    count = 0
    for count, found in enumerate(outputs, 1):
        entry: dict[str, object] = {
            "file": found.image.name,
            "predictions": [one._asdict() for one in ranked(found, contents)],
        }
        if contents.probabilities:
            entry["probabilities"] = [rounded(value) for value in found.output]
        file.write(b"[\n" if count == 1 else b",\n")
        file.write(json.dumps(entry).encode())
    file.write(b"\n]\n")
    return count_of_images(count)


def write_features(file: IO[bytes], outputs: Iterator[ImageOutput], contents: Contents) -> str:
    """Write the pooled features before the last layer, (images, channels) float32, and return their shape as text."""
    rows = np.stack([found.output for found in outputs])
    np.save(file, rows)
    return f"features of {count_of_images(len(rows))}, {rows.shape} {rows.dtype},"


def write_contact_sheet(file: IO[bytes], outputs: Iterator[ImageOutput], contents: Contents) -> str:
    """Draw the first MAX_TILES images with their most probable classes, and return how many there are."""
    from resnet_flax.report import figures, render  # Matplotlib takes a quarter of a second

    drawn = list(islice(outputs, MAX_TILES))
    captions = [
        [end_of_line(Path(found.image.name).name, figures.MAX_TILE_CHARS), *predicted_lines(found, contents)]
        for found in drawn
    ]
    file.write(render.png(figures.image_tiles([found.image.pixels for found in drawn], captions)))
    return f"{'the first ' if next(outputs, None) else ''}{count_of_images(len(drawn))}"


# What an extension of --output stands for. Each function writes the outputs, at least one, to a file and returns, for a
# message, what the file holds.
WRITERS: dict[str, Callable[[IO[bytes], Iterator[ImageOutput], Contents], str]] = {
    ".csv": write_csv,
    ".json": write_json,
    ".npy": write_features,
    ".png": write_contact_sheet,
}


def predicted_lines(found: ImageOutput, contents: Contents) -> list[str]:
    """Return "cat 93.1%" and so on, the most probable class first."""
    return [f"{escape_line(name, 15)} {probability:.1%}" for _, name, probability in ranked(found, contents)]


def printed_table(outputs: list[ImageOutput], contents: Contents) -> str:
    """Return a table of the predictions for the terminal."""
    rows = [[end_of_line(found.image.name, MAX_NAME_CHARS), *predicted_lines(found, contents)] for found in outputs]
    return text_table(["file", "prediction", *map(str, range(2, contents.top + 1))], rows)


def cell(text: str) -> str:
    """Return `text`, after a ' if a spreadsheet would evaluate it: names and ids are untrusted and may be formulas."""
    if not text.startswith(FORMULA) or re.fullmatch(r"[+-]?\d+\.?\d*", text, re.ASCII):
        return text
    return f"'{text}"
