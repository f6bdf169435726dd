"""Fidelity: the distance between this project and what it reimplements, number by number."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Row:
    """One comparison: what was compared, the largest difference found and how large it may be."""

    what: str
    difference: float
    bound: float

    @property
    def ok(self) -> bool:
        return self.difference <= self.bound


def absolute(ours: np.ndarray, theirs: np.ndarray) -> float:
    """max |ours - theirs|."""
    return float(np.max(np.abs(np.asarray(ours, np.float64) - theirs)))


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """max |ours - theirs| / max |theirs| over one array; 0 where both are all zeros."""
    difference = absolute(ours, theirs)
    return difference / float(np.max(np.abs(theirs))) if difference else 0.0
