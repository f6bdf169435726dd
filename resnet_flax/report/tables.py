"""Tables as rows of text, for the terminal, a file or a page."""

from collections.abc import Sequence

import numpy as np

from resnet_flax.text import escape_line
from resnet_flax.workdir.predictions import ClassScores, Predictions, accuracy_difference

MAX_NAME_CHARS = 60  # characters of a class's name
CLASS_HEADER = ["class", "precision", "recall", "F1", "images"]


def class_rows(found: Predictions, classes: Sequence[str]) -> list[list[str]]:
    scores = ClassScores.of(found.confusion())
    names = [escape_line(name, MAX_NAME_CHARS) for name in classes]
    columns = zip(names, scores.precision, scores.recall, scores.f1, scores.support, strict=True)
    return [[name, percent(p), percent(r), percent(f1), f"{images:,}"] for name, p, r, f1, images in columns]


def percent(value: float | None) -> str:
    """Return a percentage, "-" without a value."""
    return "-" if value is None or np.isnan(value) else f"{value:.2%}"


def difference_text(one: Predictions, other: Predictions) -> str:
    """Return the difference of two accuracies on the same images with its 95 % interval, in percentage points."""
    difference, low, high = (100 * value for value in accuracy_difference(one, other))
    return f"{difference:+.2f} ({low:+.2f} to {high:+.2f})"


def decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def format_metric(column: str, value: float) -> str:
    """Return a value of a column such as val_accuracy or val_loss as text."""
    return percent(value) if column.endswith("accuracy") else decimal(value)


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column is aligned to the left and the others to the right."""
    header, *rows = [[escape_line(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in [header, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip())
    return "\n".join(lines) + "\n"
