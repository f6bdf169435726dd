"""The numbers with which tests compare, from PyTorch and Pillow."""

from functools import cache
from pathlib import Path

import numpy as np


@cache
def golden(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of tests/golden/NAME.npz."""
    with np.load(Path(__file__).parent / "golden" / f"{name}.npz") as file:
        return dict(file)
