"""Number-by-number comparison of this project with what it reimplements."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Row:
    """One comparison: its subject, the largest difference found, and the bound on that difference.

    Rows that compare value by value also have the number of values and how many of them differ at all.
    """

    what: str
    difference: float
    bound: float
    values: int | None = None
    differing: int = 0

    @property
    def ok(self) -> bool:
        return self.difference <= self.bound

    def __str__(self) -> str:
        """Return the row of a Markdown table."""
        values, share = ("", "") if self.values is None else (f"{self.values:,}", f"{self.differing / self.values:.2e}")
        numbers = f"{values:>11} | {share:>8} | {self.difference:8.2e} | {self.bound:5.0e}"
        return f"| {self.what:84} | {numbers} | {'yes' if self.ok else 'NO':3} |"


HEADING = "| what | values | share that differ | largest difference | bound | ok |\n|:--|--:|--:|--:|--:|:--|"


def value_by_value(what: str, ours: np.ndarray, theirs: np.ndarray, bound: float = 0.0) -> Row:
    """Compare every value; the default bound demands that all be equal."""
    differences = np.abs(np.subtract(ours, theirs, dtype=np.float64))
    return Row(what, float(differences.max()), bound, differences.size, int(np.count_nonzero(differences)))


def absolute(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return max |ours - theirs|."""
    return float(np.max(np.abs(np.asarray(ours, np.float64) - theirs)))


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return max |ours - theirs| / max |theirs| over one array; 0 if both are all zeros."""
    difference = absolute(ours, theirs)
    return difference / float(np.max(np.abs(theirs))) if difference else 0.0
