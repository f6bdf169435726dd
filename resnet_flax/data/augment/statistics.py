"""Channel statistics of a training split, for normalize(auto)."""

import math

import numpy as np


def channel_statistics(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Return the mean and standard deviation of each channel of pixels / 255, exactly: images (n, H, W, 3) uint8.

    A deviation below 0.001, such as that of a constant channel, is returned as 1, to be safe to divide by.
    """
    counts = np.zeros((3, 256), np.int64)
    for start in range(0, len(images), 1000):  # not all in memory at once
        for channel in range(3):
            counts[channel] += np.bincount(images[start : start + 1000, ..., channel].ravel(), minlength=256)
    levels = np.arange(256)
    total = int(counts[0].sum())
    sums, squares = ([int(value) for value in counts @ levels**power] for power in (1, 2))
    variances = [total * square - sum**2 for sum, square in zip(sums, squares, strict=True)]  # x (255 total)^2
    std = [math.sqrt(variance) / (255 * total) for variance in variances]
    return [sum / (255 * total) for sum in sums], [value if value >= 1e-3 else 1.0 for value in std]
