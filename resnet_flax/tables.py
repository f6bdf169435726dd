"""Tables as rows of text, for the terminal, a file or a page."""

from collections.abc import Sequence

import numpy as np

from resnet_flax.predictions import ClassScores, Predictions

CLASS_HEADER = ["class", "precision", "recall", "F1", "images"]


def class_rows(found: Predictions, classes: Sequence[str]) -> list[list[str]]:
    scores = ClassScores.of(found.confusion())
    columns = zip(classes, scores.precision, scores.recall, scores.f1, scores.support, strict=True)
    return [[name, share(p), share(r), share(f1), f"{images:,}"] for name, p, r, f1, images in columns]


def share(value: float | None) -> str:
    """A percentage, "-" where there is none."""
    return "-" if value is None or np.isnan(value) else f"{value:.2%}"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def as_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in [header, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip())
    return "\n".join(lines) + "\n"
