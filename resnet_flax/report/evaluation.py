"""The part of a report about the predictions on one split: classes, mistakes and calibration."""

import io
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from resnet_flax.report import figures, html
from resnet_flax.report.files import Files
from resnet_flax.report.tables import CLASS_HEADER, MAX_NAME_CHARS, class_rows, percent
from resnet_flax.text import escape_line
from resnet_flax.workdir.predictions import ClassScores, Predictions

GALLERY_IMAGES = 24  # images of a gallery, in rows of 12, 8 or 4
SHOWN_PER_CLASS = 5
MAX_CLASSES_SHOWN = 20  # classes whose mistakes are shown: those with the lowest recall
MAX_CONFUSIONS = 10  # rows
CONFUSIONS_HEADER = ["true \u2192 predicted", "images", "of the class"]
SMALL_PIXELS, LARGE_PIXELS = 48, 96  # largest side of an image shown as it is, and of one made smaller
TOP_K = ((20, 5), (6, 3))  # smallest number of classes, k


def top_k(classes: int) -> int:
    """Return the k for which top-k accuracy is informative with this number of classes, 0 if there is none."""
    return next((k for least, k in TOP_K if classes >= least), 0)


def top_k_accuracy(predictions: Predictions, k: int) -> float:
    """Return the share of images whose true class is among the k most probable ones."""
    best = np.argsort(-predictions.log_probabilities, axis=1, kind="stable")[:, :k]
    return float(np.mean(np.any(best == predictions.labels[:, None], axis=1)))


def classes_section(files: Files, predictions: Predictions, classes: Sequence[str], about: str) -> str:
    """Return the confusion matrix in counts and shares, the scores of each class, and what is confused most."""
    figure = figures.confusion_matrix(predictions, classes)
    if len(classes) > figures.MANY_CLASSES:
        matrices = files.chart("confusion", figure, "Images of each true class (row) predicted as each class (column)")
    else:
        files.picture("confusion", figure)
        matrices = html.pair(*confusion_tables(predictions, classes))
    scores = html.table(CLASS_HEADER, class_rows(predictions, classes), "wrap long")
    confused = html.table(CONFUSIONS_HEADER, confusions(predictions, classes), "wrap")
    tables = html.pair(html.titled("Scores by class", scores), html.titled("Most frequent confusions", confused))
    return html.section("Classes", html.paragraph(f"On {about}."), matrices, tables)


def confusion_tables(predictions: Predictions, classes: Sequence[str]) -> list[str]:
    """Return the confusion matrix as two tables, of counts and of percentages; cells without an image are empty."""
    names, counts = figures.short_labels(classes), predictions.confusion()
    shares = figures.row_shares(counts)
    as_counts = [[f"{count:,}" if count else "" for count in row] for row in counts]
    as_percent = [[f"{100 * share:.0f}" if share > 0.005 else "<1" if share else "" for share in row] for row in shares]
    return [
        html.titled(title, html.matrix(names, cells, shares.tolist()))
        for title, cells in (
            ("Images of each true class (row) by predicted class (column)", as_counts),
            ("The same in % of the true class", as_percent),
        )
    ]


def confusions(predictions: Predictions, classes: Sequence[str]) -> list[list[str]]:
    """Return a row for each of the most frequent mistakes: which, on how many images, on what share of the class."""
    counts = predictions.confusion()
    np.fill_diagonal(counts, 0)
    most = np.argsort(-counts, axis=None, kind="stable")[:MAX_CONFUSIONS]
    pairs = [divmod(int(index), len(classes)) for index in most if counts.flat[index]]
    support = predictions.confusion().sum(1)
    names = [escape_line(name, MAX_NAME_CHARS) for name in classes]
    return [
        [f"{names[true]} \u2192 {names[predicted]}", f"{count:,}", percent(count / support[true])]
        for (true, predicted), count in ((pair, counts[pair]) for pair in pairs)
    ]


def examples_section(predictions: Predictions, images: np.ndarray, classes: Sequence[str]) -> str:
    """Return the images that say most about what goes wrong: most confident mistakes, least confident predictions."""
    surest = predictions.confident_mistakes(GALLERY_IMAGES)
    unsure = np.argsort(predictions.log_probabilities.max(1), kind="stable")[:GALLERY_IMAGES]
    wrong, names = len(predictions) - predictions.correct, figures.short_labels(classes)
    count = html.paragraph(f"{wrong:,} of {len(predictions):,} images are misclassified.")
    doubts = html.titled("Least confident predictions", gallery(predictions, images, names, unsure))
    if not wrong:
        return html.section("Mistakes", count, doubts)
    few = len(classes) <= MAX_CLASSES_SHOWN
    which = "by true class" if few else f"of the {MAX_CLASSES_SHOWN} classes with the lowest recall"
    mistakes = html.titled("Most confident mistakes", gallery(predictions, images, names, surest))
    by_class = html.titled(f"Most confident mistakes {which}", class_galleries(predictions, images, names))
    return html.section("Mistakes", count, mistakes, doubts, by_class)


def class_galleries(predictions: Predictions, images: np.ndarray, names: Sequence[str]) -> str:
    """Return a row of mistakes for each class that has any; `names` are the classes' names to display."""
    mistakes = predictions.confident_mistakes(len(predictions))
    recall = ClassScores.of(predictions.confusion()).recall
    lowest = np.argsort(recall, kind="stable")[:MAX_CLASSES_SHOWN]  # a class without images is last
    rows = []
    for index in sorted(lowest.tolist()):
        chosen = mistakes[predictions.labels[mistakes] == index][:SHOWN_PER_CLASS]
        if len(chosen):
            title = f"{names[index]}, recall {percent(recall[index])}"
            shown = html.gallery([example(predictions, images, names, one) for one in chosen], SHOWN_PER_CLASS)
            rows.append(html.titled(title, shown, level=4))
    return html.pair(*rows)


def gallery(predictions: Predictions, images: np.ndarray, names: Sequence[str], chosen: Iterable[int]) -> str:
    """Return the `chosen` images, each also with its true class."""
    notes = {
        index: f"true: {names[predictions.labels[index]]}"
        if predictions.predicted[index] != predictions.labels[index]
        else "correct"
        for index in chosen
    }
    return html.gallery(example(predictions, images, names, index, note) for index, note in notes.items())


def example(predictions: Predictions, images: np.ndarray, names: Sequence[str], index: int, note: str = "") -> str:
    """Return an image with what was predicted and how confidently."""
    predicted = predictions.predicted[index]
    confidence = f"{predictions.probabilities[index, predicted]:.1%}"
    right = bool(predicted == predictions.labels[index])
    return html.example(thumbnail(images[index]), names[predicted], confidence, right, note)


def thumbnail(pixels: np.ndarray) -> str:
    """Return an image (H, W, 3) uint8 as an element: a small one as it is, others as a JPEG of at most LARGE_PIXELS."""
    picture, file = Image.fromarray(pixels), io.BytesIO()
    small = max(picture.size) <= SMALL_PIXELS
    picture.thumbnail((LARGE_PIXELS, LARGE_PIXELS))
    picture.save(file, "PNG" if small else "JPEG")
    return html.image(file.getvalue(), "png" if small else "jpeg", small)


def calibration_section(files: Files, predictions: Predictions) -> str:
    calibration = predictions.calibration()
    confidence = predictions.confidence
    gap = round(100 * (confidence - predictions.accuracy), 2)
    named = {
        "accuracy": percent(predictions.accuracy),
        "mean confidence": percent(confidence),
        "overall": f"{'over' if gap > 0 else 'under'}confident by {abs(gap):.2f} percentage points"
        if gap
        else "neither over- nor underconfident",
        "expected calibration error": f"{percent(calibration.error)}, in {len(calibration.counts)} bins",
    }
    chart = files.chart("reliability", figures.reliability(calibration), "Accuracy by confidence")
    note = html.paragraph(
        "Images are grouped by confidence, the probability of the predicted class. A point below the dashed line is a "
        "group on which the network is overconfident."
    )
    return html.section("Calibration", html.pair(chart, f"<div>{html.facts(named)}{note}</div>"))
