"""The history of a run: one row per finished epoch, in metrics.csv and in every checkpoint."""

import csv
from pathlib import Path
from typing import Any

from resnet_flax.files import atomic_write, read_text

EpochRow = dict[str, float]  # the results of an epoch, column -> value

MAX_FLOAT = 1e39  # just beyond float32

# Only values that follow from the config and the seed, so that an interrupted run leaves the same file.
METRICS_COLUMNS = (
    "epoch",
    "step",
    "learning_rate",
    "momentum",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
)
AVERAGING_COLUMNS = ("unaveraged_val_loss", "unaveraged_val_accuracy")  # columns of a run that averages its weights


def check_history(history: Any) -> list[EpochRow]:
    """Return `history` if it has a valid row of numbers for every epoch from the first on; ValueError if not."""
    try:
        for epoch, row in enumerate(history, 1):
            finite = all(type(value) in (int, float) and abs(value) < MAX_FLOAT for value in row.values())
            shares = [row["train_accuracy"], row.get("val_accuracy", 0)]
            counts = row["epoch"] == epoch and row["step"] == epoch * history[0]["step"] and 0 < row["step"] < 2**31
            complete = row["learning_rate"] >= 0 and "train_loss" in row
            if not (finite and counts and complete and all(0 <= share <= 1 for share in shares)):
                raise ValueError(f"row {epoch} is not a valid epoch")
            if row.keys() != history[0].keys():
                raise ValueError(f"row {epoch} has different columns from row 1")
    except (TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"the history is not valid: {error!r}") from None
    return history


def lower_is_better(column: str) -> bool:
    """Return whether lower is better in a column: it is for losses, not for accuracies."""
    return column.endswith("loss")


def improvement(column: str, old: EpochRow, new: EpochRow) -> float:
    """Return by how much `new` is better than `old` in a column, negative if it is worse."""
    gain = new[column] - old[column]
    return -gain if lower_is_better(column) else gain


def best_row(history: list[EpochRow], monitor: str) -> EpochRow | None:
    """Return the first epoch with the best value in the column `monitor`, None without validation."""
    if not history or monitor not in history[0]:
        return None
    choose = min if lower_is_better(monitor) else max
    return choose(history, key=lambda row: row[monitor])


def write_history(history: list[EpochRow], path: Path) -> None:
    """Write all finished epochs as a CSV table; the file is replaced as a whole, never half written."""
    with atomic_write(path) as file:
        columns = METRICS_COLUMNS + (AVERAGING_COLUMNS if history and AVERAGING_COLUMNS[0] in history[0] else ())
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(history)


def read_csv(path: Path) -> list[EpochRow]:
    """Return the rows of a history's CSV table, omitting empty cells; ValueError or csv.Error if it is damaged."""
    text = read_text(path)
    if not text.endswith("\n"):
        raise ValueError("the last line is incomplete")
    names, *lines = csv.reader(text.splitlines())
    return check_history(
        [{name: float(cell) for name, cell in zip(names, line, strict=True) if cell} for line in lines]
    )


def read_rows(path: Path) -> list[EpochRow]:
    """Return what read_csv returns; [] if the file is missing or damaged."""
    try:
        return read_csv(path)
    except (OSError, ValueError, csv.Error):
        return []
