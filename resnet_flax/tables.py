"""Tables as rows of text, for the terminal, a file or a page."""

from collections.abc import Sequence

import numpy as np

from resnet_flax.predictions import ClassScores, Predictions
from resnet_flax.text import printable

LONGEST = 60  # characters of a class's name
CLASS_HEADER = ["class", "precision", "recall", "F1", "images"]


def class_rows(found: Predictions, classes: Sequence[str]) -> list[list[str]]:
    scores = ClassScores.of(found.confusion())
    names = [printable(name, LONGEST) for name in classes]
    columns = zip(names, scores.precision, scores.recall, scores.f1, scores.support, strict=True)
    return [[name, share(p), share(r), share(f1), f"{images:,}"] for name, p, r, f1, images in columns]


def share(value: float | None) -> str:
    """A percentage, "-" where there is none."""
    return "-" if value is None or np.isnan(value) else f"{value:.2%}"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def monitored(column: str, value: float) -> str:
    """A value of such a column as val_accuracy or val_loss."""
    return share(value) if column.endswith("accuracy") else number(value)


def as_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with the first column to the left and the others to the right."""
    header, *rows = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in [header, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip())
    return "\n".join(lines) + "\n"
