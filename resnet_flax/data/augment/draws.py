"""Counter-based random numbers: each draw is a pure function of (seed, epoch, example, number of the draw).

There is no state to carry, so the data position is the step number, and a batch is the same however it is split over
devices. Only uint32 multiplication, xor, shifts and comparisons are used, which every array namespace computes alike:
NumPy, JAX and TensorFlow give the same bits.

The multiplier between counters is 2**32 / golden ratio (Knuth, TAOCP 3, 6.4).
"""

from typing import Any

import numpy as np

from resnet_flax.data.augment.backends import Array
from resnet_flax.hashing import mix

GOLDEN = np.uint32(0x9E3779B9)
ORDER = np.uint32(0x5BD1E995)  # separates the order of an epoch from the draws of its examples
TURN_SALT = np.uint32(0x27D4EB2F)  # separates the first turn of each example from both
STEP = np.uint32(0x165667B1)  # separates the draws of whole batches from all the above


def _uint32(xp: Any, number: Any) -> Array:
    """Convert a Python int (modulo 2**32), a scalar or an array to uint32 with at least one axis."""
    if isinstance(number, int | np.integer):
        number = np.uint32(int(number) & 0xFFFFFFFF)
    number = xp.asarray(number, xp.uint32)
    # NumPy warns when a scalar overflows, but not when an array does, so never compute with scalars.
    return number if len(number.shape) else xp.reshape(number, (1,))


def keys(xp: Any, seed: Any, epoch: Any, index: Any) -> Array:
    """Return one key per example: uint32 (B,) from `seed` and `epoch` (ints or traced scalars) and `index` (B,).

    Within one epoch different examples have different keys (for fewer than 2**32 examples).
    """
    key = mix(xp, _uint32(xp, seed) + GOLDEN)
    key = mix(xp, key + _uint32(xp, epoch) * GOLDEN)
    return mix(xp, key + _uint32(xp, index) * GOLDEN)


def epoch_order(xp: Any, seed: Any, epoch: Any, n: int) -> Array:
    """Return the order in which `epoch` visits `n` examples: int32 (n,), a permutation of range(n)."""
    hashed = keys(xp, seed, epoch, xp.arange(n, dtype=xp.int32))
    return xp.asarray(xp.argsort(mix(xp, xp.bitwise_xor(hashed, ORDER)), stable=True), xp.int32)


def turns(xp: Any, seed: Any, epoch: Any, index: Any) -> Array:
    """Return bool (B,) that alternates from epoch to epoch for each example; in epoch 0 half of them are true."""
    first = xp.right_shift(mix(xp, xp.bitwise_xor(keys(xp, seed, 0, index), TURN_SALT)), np.uint32(31))
    return xp.bitwise_and(first + _uint32(xp, epoch), np.uint32(1)) == np.uint32(1)


def step_keys(xp: Any, seed: Any, step: Any) -> Array:
    """Return the key of the draws that a whole batch shares, uint32 (1,), from `seed` and `step` (ints or scalars)."""
    return mix(xp, xp.bitwise_xor(keys(xp, seed, step, 0), STEP))


class Draws:
    """Draws for B examples with the given `keys` (uint32 (B,)); each call uses the next stream of every example.

    The number of streams is static: it depends on the calls made, never on the values drawn. `turns` (bool (B,)) are
    passed through for operations that alternate instead of drawing.
    """

    def __init__(self, xp: Any, keys: Array, turns: Array | None) -> None:
        self.xp = xp
        self.keys = keys
        self.turns = turns
        self.stream = 0

    def _bits(self, bits: int) -> Array:
        """Return the upper `bits` (at most 31) bits of the next stream: int32 (B,) in [0, 2**bits)."""
        self.stream += 1
        counter = np.uint32(self.stream * int(GOLDEN) & 0xFFFFFFFF)
        mixed = mix(self.xp, self.keys + counter)
        return self.xp.asarray(self.xp.right_shift(mixed, np.uint32(32 - bits)), self.xp.int32)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Array:
        """Draw float32 (B,): one of 32,768 equally likely and almost equally spaced values in [low, high).

        They are whole multiples of a power of two, computed in integers, because `low + (high - low) * u` differs in
        the last bit between compilers that do and do not fuse a multiplication with an addition.
        """
        xp = self.xp
        drawn = self._bits(15)
        if high <= low:
            return xp.asarray(drawn * 0, xp.float32) + np.float32(low)
        largest = min(65535.0 / (high - low), 2.0**24 / max(abs(low), abs(high)))  # as float32 has 24 bits
        scale = 2.0 ** np.floor(np.log2(largest))
        first, span = round(low * scale), round((high - low) * scale)
        return xp.asarray(first + xp.right_shift(drawn * span, 15), xp.float32) * np.float32(1 / scale)

    def integers(self, n: Any) -> Array:
        """Draw int32 (B,) in [0, n), equally likely to within n / 32,768; `n` (int or int32 (B,)) is at most 65,536."""
        return self.xp.right_shift(self._bits(15) * n, 15)

    def chance(self, p: float) -> Array:
        """Draw bool (B,), true with probability `p` (to within 2**-24)."""
        return self._bits(24) < round(p * 2**24)

    def permutation(self, n: int) -> list[Array]:
        """Draw n arrays int32 (B,): for each example an equally likely order of range(n)."""
        drawn = [self._bits(24) for _ in range(n)]

        # The rank of each draw among those of its example; equal draws rank by position. For a few items this is faster
        # than sorting.
        def rank(place: int) -> Array:
            before = [one <= drawn[place] for one in drawn[:place]] + [one < drawn[place] for one in drawn[place + 1 :]]
            return sum(self.xp.asarray(earlier, self.xp.int32) for earlier in before)

        return [rank(place) for place in range(n)]
