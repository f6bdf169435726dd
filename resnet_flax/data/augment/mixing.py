"""Mixing the examples of a batch with each other: MixUp and CutMix, as in torchvision.transforms.v2, and RICAP.

Each example of an augmented batch is mixed with the one before it, the first with the last, and by RICAP with the three
before it. One draw, a pure function of the seed and the step, serves the whole batch.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from resnet_flax.data.augment.backends import Array, float64
from resnet_flax.data.augment.draws import Draws, step_keys

QUANTILES = 2**15  # of a distribution of shares, all equally likely to be drawn


class Mixing(NamedTuple):
    """A way to mix batches: the alpha of each method, 0 for none, and probabilities; see `config.train`."""

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    switch: float = 0.5
    ricap: float = 0.0

    @classmethod
    def of(cls, train: ConfigDict) -> "Mixing":
        """Return the mixing that the section `train` of a config describes."""
        return cls(train.mixup, train.cutmix, train.mix_probability, train.mix_switch, train.ricap)

    def __str__(self) -> str:
        methods = {"MixUp": self.mixup, "CutMix": self.cutmix, "RICAP": self.ricap}
        shares = " or ".join(f"{name}, Beta({alpha:g}, {alpha:g})" for name, alpha in methods.items() if alpha > 0)
        return f"{shares}, with probability {self.probability:g}"

    @property
    def on(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0 or self.ricap > 0

    @property
    def images(self) -> int:
        """The number of examples that are mixed into one."""
        return 4 if self.ricap > 0 else 2 if self.on else 1

    @property
    def cutmix_probability(self) -> float:
        """The probability that a mixed batch is mixed by CutMix."""
        return self.switch if self.mixup > 0 and self.cutmix > 0 else float(self.cutmix > 0)


UNMIXED = Mixing()


class Shares(NamedTuple):
    """The shares of each mixed example that are its own; the rest is from the example before it."""

    pixels: Array  # (H, W, 1) float32, of each pixel
    label: Array  # (1,) float32


class Patches(NamedTuple):
    """The four patches of RICAP in reading order, and the crops that fill them."""

    sizes: Array  # (4, 2) int32, height and width in pixels
    corners: Array  # (4, 2) int32, row and column of the upper left pixel of the crop in its image


def mixed(
    xp: Any, mixing: Mixing, seed: Any, step: Any, images: Sequence[Array]
) -> tuple[Array, tuple[Array | float, ...]]:
    """Return the mixed images of a step, (B, H, W, 3) float32, and the shares of their labels, (1,) float32 each.

    `images` are the batch itself, the same with each example replaced by the one before it, and so on: `mixing.images`
    arrays (B, H, W, 3) float32. There is a share for each of them.
    """
    size = images[0].shape[1:3]
    if not mixing.on:
        return images[0], (1.0,)
    if mixing.ricap > 0:
        patches = draw_patches(xp, mixing, seed, step, size)
        return patch(xp, images, patches), patch_shares(xp, patches, size)
    own, other = images
    shares = draw_shares(xp, mixing, seed, step, size)
    return mix(own, other, shares.pixels), (shares.label, 1 - shares.label)


def mix(own: Array, other: Array, share: Array) -> Array:
    """Return `share` of one image and the rest of another, (H, W, 3) or (B, H, W, 3) each."""
    return share * own + (1 - share) * other


def mixup_shares(xp: Any, share: Array, size: tuple[int, int]) -> Shares:
    """Return the same `share`, float32 (1,), for every pixel and the label (Zhang et al., 2018)."""
    return Shares(xp.broadcast_to(share, (*size, 1)), share)


def cutmix_shares(xp: Any, share: Array, x: Array, y: Array, size: tuple[int, int]) -> Shares:
    """Return 0 within a box and 1 elsewhere, for images of `size` (height, width); Yun et al. (2019).

    The box has its centre at the pixel (x, y), int32 (1,), and the area 1 - `share`, float32 (1,), rounded and clipped
    as in torchvision; the label's share is that of the remaining pixels. Uses float64, as rounding decides the box.
    """
    height, width = size
    with float64(xp):
        half = 0.5 * xp.sqrt(1.0 - xp.asarray(share, xp.float64))
        down, right = xp.asarray(half * height, xp.int32), xp.asarray(half * width, xp.int32)
    rows = xp.arange(height, dtype=xp.int32)[:, None, None] - y
    columns = xp.arange(width, dtype=xp.int32)[None, :, None] - x
    inside = (rows >= -down) & (rows < down) & (columns >= -right) & (columns < right)
    kept = xp.sum(xp.asarray(~inside, xp.int32), axis=(0, 1))
    return Shares(xp.asarray(~inside, xp.float32), fraction(xp, kept, size))


def fraction(xp: Any, pixels: Array, size: tuple[int, int]) -> Array:
    """Return a number of `pixels` as a fraction of an image of `size` (height, width), rounded once, to float32."""
    with float64(xp):
        return xp.asarray(xp.asarray(pixels, xp.float64) / (size[0] * size[1]), xp.float32)


@cache
def beta_quantiles(alpha: float) -> np.ndarray:
    """Return QUANTILES values of Beta(alpha, alpha), equally spaced in probability, float32."""
    from scipy.special import betaincinv  # its import takes a tenth of a second

    return betaincinv(alpha, alpha, (np.arange(QUANTILES) + 0.5) / QUANTILES).astype(np.float32)


def draw_shares(xp: Any, mixing: Mixing, seed: Any, step: Any, size: tuple[int, int]) -> Shares:
    """Draw whether and how a step's batch of images of `size` (height, width) is mixed, and return its shares.

    The streams are the same for all settings, so each setting affects no draw but its own.
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


def draw_patches(xp: Any, mixing: Mixing, seed: Any, step: Any, size: tuple[int, int]) -> Patches:
    """Draw the patches of a step for images of `size` (height, width): random image cropping and patching, RICAP.

    As Takahashi et al. (2018) define it: the boundaries between patches are Beta(beta, beta) times height and width,
    rounded, and each crop is equally likely to lie anywhere in its image. In an unmixed batch, one patch is the whole
    image.
    """
    draws = Draws(xp, step_keys(xp, seed, step), None)
    is_mixed = draws.chance(mixing.probability)

    def boundary(length: int) -> Array:
        places = np.rint(beta_quantiles(mixing.ricap) * np.float32(length)).astype(np.int32)
        return xp.where(
            is_mixed, xp.take(xp.asarray(places, xp.int32), draws.integers(QUANTILES), axis=0), np.int32(length)
        )

    (height, width), (low, left) = size, map(boundary, size)
    sizes = [(low, left), (low, width - left), (height - low, left), (height - low, width - left)]
    corners = [[draws.integers(whole - part + 1) for whole, part in zip(size, one, strict=True)] for one in sizes]
    return Patches(*(xp.stack([xp.concatenate(pair, 0) for pair in pairs], 0) for pairs in (sizes, corners)))


def patch(xp: Any, images: Sequence[Array], patches: Patches) -> Array:
    """Return images made of four patches: crops of `images`, four arrays (B, H, W, 3), in reading order."""
    rows, columns = (xp.arange(length, dtype=xp.int32) for length in images[0].shape[1:3])
    low, left = patches.sizes[0, 0], patches.sizes[0, 1]

    def cropped(number: int) -> Array:
        """Return the image with its crop at the place of the patch; pixels outside the patch are not used."""
        down = rows - low * (number // 2) + patches.corners[number, 0]
        across = columns - left * (number % 2) + patches.corners[number, 1]
        there = xp.take(images[number], down % len(rows), axis=1)
        return xp.take(there, across % len(columns), axis=2)

    first, second, third, fourth = map(cropped, range(4))
    on_left = (columns < left)[None, None, :, None]
    upper, lower = xp.where(on_left, first, second), xp.where(on_left, third, fourth)
    return xp.where((rows < low)[None, :, None, None], upper, lower)


def patch_shares(xp: Any, patches: Patches, size: tuple[int, int]) -> tuple[Array, ...]:
    """Return the share of each patch in an image of `size` (height, width), (1,) float32 each."""
    areas = patches.sizes[:, :1] * patches.sizes[:, 1:]
    return tuple(fraction(xp, areas[number], size) for number in range(4))
