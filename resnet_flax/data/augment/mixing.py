"""Mixing the examples of a batch with each other: MixUp and CutMix, with torchvision.transforms.v2's definitions.

Each example of an augmented batch is mixed with the one before it, the first with the last. One draw, a pure function
of the seed and the step, serves the whole batch.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from resnet_flax.data.augment.backends import Array, float64
from resnet_flax.data.augment.draws import Draws, step_keys

QUANTILES = 2**15  # of a distribution of shares, all equally likely to be drawn


class Mixing(NamedTuple):
    """How batches are mixed: the alpha of each method, 0 for none, and probabilities; see `config.train`."""

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    switch: float = 0.5

    @classmethod
    def of(cls, train: ConfigDict) -> "Mixing":
        """Return what the section `train` of a config says."""
        return cls(train.mixup, train.cutmix, train.mix_probability, train.mix_switch)

    def __str__(self) -> str:
        methods = {"MixUp": self.mixup, "CutMix": self.cutmix}
        shares = " or ".join(f"{name}, Beta({alpha:g}, {alpha:g})" for name, alpha in methods.items() if alpha > 0)
        return f"{shares}, with probability {self.probability:g}"

    @property
    def on(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    @property
    def cutmix_probability(self) -> float:
        """The probability that a mixed batch is mixed by CutMix."""
        return self.switch if self.mixup > 0 and self.cutmix > 0 else float(self.cutmix > 0)


UNMIXED = Mixing()


class Shares(NamedTuple):
    """The shares of each example that are its own and not of the example before it."""

    pixels: Array  # (H, W, 1) float32, of each pixel
    label: Array  # (1,) float32


def mix(own: Array, other: Array, share: Array) -> Array:
    return share * own + (1 - share) * other


def mixup_shares(xp: Any, share: Array, size: tuple[int, int]) -> Shares:
    """Return the same `share`, float32 (1,), for every pixel and the label (Zhang et al., 2018)."""
    return Shares(xp.broadcast_to(share, (*size, 1)), share)


def cutmix_shares(xp: Any, share: Array, x: Array, y: Array, size: tuple[int, int]) -> Shares:
    """Return 0 within a box and 1 elsewhere, for images of `size` (height, width); Yun et al. (2019).

    The box has its centre at the pixel (x, y), int32 (1,), and the area 1 - `share`, float32 (1,), rounded and clipped
    as torchvision does; the label's share is that of the pixels which remain. In float64, as rounding decides the box.
    """
    height, width = size
    with float64(xp):
        half = 0.5 * xp.sqrt(1.0 - xp.asarray(share, xp.float64))
        down, right = xp.asarray(half * height, xp.int32), xp.asarray(half * width, xp.int32)
    rows = xp.arange(height, dtype=xp.int32)[:, None, None] - y
    columns = xp.arange(width, dtype=xp.int32)[None, :, None] - x
    inside = (rows >= -down) & (rows < down) & (columns >= -right) & (columns < right)
    kept = xp.sum(xp.asarray(~inside, xp.int32), axis=(0, 1))
    with float64(xp):
        label = xp.asarray(xp.asarray(kept, xp.float64) / (height * width), xp.float32)
    return Shares(xp.asarray(~inside, xp.float32), label)


@cache
def beta_quantiles(alpha: float) -> np.ndarray:
    """Return QUANTILES values of Beta(alpha, alpha) at equal distances in probability, float32."""
    from scipy.special import betaincinv  # its import takes a tenth of a second

    return betaincinv(alpha, alpha, (np.arange(QUANTILES) + 0.5) / QUANTILES).astype(np.float32)


def draw_shares(xp: Any, mixing: Mixing, seed: Any, step: Any, size: tuple[int, int]) -> Shares:
    """Draw whether the batch of a step, of images of `size` (height, width), is mixed, by which method, and its shares.

    The streams are the same for every setting, so a setting changes no draw that it does not name.
    """
    draws = Draws(xp, step_keys(xp, seed, step), None)
    mixed, by_cutmix = draws.chance(mixing.probability), draws.chance(mixing.cutmix_probability)
    quantile, y, x = draws.integers(QUANTILES), draws.integers(size[0]), draws.integers(size[1])

    def share(alpha: float) -> Array:
        return xp.take(xp.asarray(beta_quantiles(alpha), xp.float32), quantile, axis=0)

    # A method that is off is never chosen.
    by_box = cutmix_shares(xp, share(mixing.cutmix or 1.0), x, y, size)
    by_blend = mixup_shares(xp, share(mixing.mixup or 1.0), size)
    return Shares(
        *(
            xp.where(mixed, xp.where(by_cutmix, box, blend), np.float32(1))
            for box, blend in zip(by_box, by_blend, strict=True)
        )
    )
