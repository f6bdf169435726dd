"""Random numbers by counting: every draw is a pure function of (seed, epoch, example, how many draws came before).

There is no state to carry, so the data position is the step number, and a batch is the same however it is split over
devices. Written only with uint32 multiplication, xor, shifts and comparisons, which numpy, jax.numpy and TensorFlow
(`resnet_flax.data.augment.tf_numpy`) compute alike: all three give the same bits. `np` is the namespace that computes.

The mixing function is the 32-bit finaliser "lowbias32" that Chris Wellons found by search (hash-prospector, 2018,
public domain); the multiplier between counters is 2**32 / golden ratio (Knuth, TAOCP 3, 6.4).
"""

from typing import Any

import numpy

Array = Any  # numpy.ndarray, jax.Array or tf.Tensor, as `np` makes them

GOLDEN = numpy.uint32(0x9E3779B9)
ORDER = numpy.uint32(0x5BD1E995)  # keeps the order of an epoch apart from the draws of its examples
TURN = numpy.uint32(0x27D4EB2F)  # keeps whose turn it is in the first epoch apart from both


def _uint32(np: Any, number: Any) -> Array:
    """A Python int (modulo 2**32), a scalar or an array, as uint32 with at least one axis."""
    if isinstance(number, int | numpy.integer):
        number = numpy.uint32(int(number) & 0xFFFFFFFF)
    number = np.asarray(number, np.uint32)
    # numpy warns when a scalar overflows, but not when an array does: so never work on scalars.
    return number if len(number.shape) else np.reshape(number, (1,))


def _mix(np: Any, x: Array) -> Array:
    """A bijection of uint32 in which every input bit changes every output bit with probability about a half."""
    for shift, multiplier in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = np.bitwise_xor(x, np.right_shift(x, numpy.uint32(shift))) * numpy.uint32(multiplier)
    return np.bitwise_xor(x, np.right_shift(x, numpy.uint32(16)))


def keys(np: Any, seed: Any, epoch: Any, index: Any) -> Array:
    """One key per example: uint32 (B,) from `seed` and `epoch` (Python ints or traced scalars) and `index` (B,).

    Within one epoch different examples have different keys (for fewer than 2**32 examples).
    """
    key = _mix(np, _uint32(np, seed) + GOLDEN)
    key = _mix(np, key + _uint32(np, epoch) * GOLDEN)
    return _mix(np, key + _uint32(np, index) * GOLDEN)


def epoch_order(np: Any, seed: Any, epoch: Any, n: int) -> Array:
    """The order in which `epoch` visits `n` examples: int32 (n,), a permutation of range(n)."""
    hashed = keys(np, seed, epoch, np.arange(n, dtype=np.int32))
    return np.asarray(np.argsort(_mix(np, np.bitwise_xor(hashed, ORDER)), stable=True), np.int32)


def turns(np: Any, seed: Any, epoch: Any, index: Any) -> Array:
    """bool (B,): true in every other epoch of each example, and in epoch 0 with probability a half."""
    first = np.right_shift(_mix(np, np.bitwise_xor(keys(np, seed, 0, index), TURN)), numpy.uint32(31))
    return np.bitwise_and(first + _uint32(np, epoch), numpy.uint32(1)) == numpy.uint32(1)


class Draws:
    """Draws for B examples with the given `keys` (uint32 (B,)); each call takes the next stream of every example.

    The count of streams is static: it depends on the calls made, never on values drawn. `turns` (bool (B,)) are no
    draws of this epoch: they alternate.
    """

    def __init__(self, np: Any, keys: Array, turns: Array) -> None:
        self.np = np
        self.keys = keys
        self.turns = turns
        self.stream = 0

    def _bits(self, bits: int) -> Array:
        """The next stream's upper `bits` (at most 31) bits: int32 (B,) in [0, 2**bits)."""
        self.stream += 1
        counter = numpy.uint32(self.stream * int(GOLDEN) & 0xFFFFFFFF)
        mixed = _mix(self.np, self.keys + counter)
        return self.np.asarray(self.np.right_shift(mixed, numpy.uint32(32 - bits)), self.np.int32)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Array:
        """float32 (B,): 32,768 equally likely values, as good as equally spaced, in [low, high).

        They are whole multiples of a power of two, computed in integers, because `low + (high - low) * u` differs in
        the last bit between compilers that do and do not fuse a multiplication with an addition.
        """
        np = self.np
        drawn = self._bits(15)
        if high <= low:
            return np.asarray(drawn * 0, np.float32) + numpy.float32(low)
        scale = 2.0 ** numpy.floor(numpy.log2(65535.0 / (high - low)))
        first, span = round(low * scale), round((high - low) * scale)
        return np.asarray(first + np.right_shift(drawn * span, 15), np.float32) * numpy.float32(1 / scale)

    def integers(self, n: Any) -> Array:
        """int32 (B,) in [0, n), equally likely to within n / 32,768; `n` is an int or int32 (B,), at most 65,536."""
        return self.np.right_shift(self._bits(15) * n, 15)

    def chance(self, p: float) -> Array:
        """bool (B,), true with probability `p` (to within 2**-24)."""
        return self._bits(24) < round(p * 2**24)

    def permutation(self, n: int) -> Array:
        """int32 (B, n): each row an equally likely order of range(n)."""
        np = self.np
        drawn = np.stack([self._bits(24) for _ in range(n)], axis=1)
        # The rank of each draw among its row's; equal draws rank by position. For few items this beats sorting.
        place = numpy.arange(n, dtype=numpy.int32)
        before = (drawn[:, None, :] < drawn[:, :, None]) | (
            (drawn[:, None, :] == drawn[:, :, None]) & (place[None, None, :] < place[None, :, None])
        )
        return np.asarray(np.sum(np.asarray(before, np.int32), axis=2), np.int32)
