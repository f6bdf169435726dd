"""A 32-bit hash that costs a few integer operations, for random numbers that are functions of a counter."""

from typing import Any

import numpy as np


def mix(xp: Any, x: Any) -> Any:
    """Apply a bijection of uint32 in which every input bit flips every output bit with probability about a half.

    The finaliser "lowbias32" that Chris Wellons found by search (hash-prospector, 2018, public domain). `x` is an array
    of the namespace `xp`: numpy, jax.numpy or TensorFlow's.
    """
    for shift, multiplier in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = xp.bitwise_xor(x, xp.right_shift(x, np.uint32(shift))) * np.uint32(multiplier)
    return xp.bitwise_xor(x, xp.right_shift(x, np.uint32(16)))
