"""The part of the NumPy API that augmentation uses, computed by TensorFlow with NumPy's dtypes.

`tf.experimental.numpy` is not used: it promotes to float64 and lacks some of these functions. Importing this module
imports TensorFlow, so only the host feed imports it.
"""

import tensorflow as tf

uint8, int32, uint32, float32, float64 = tf.uint8, tf.int32, tf.uint32, tf.float32, tf.float64

asarray, arange, zeros, argsort, take = tf.cast, tf.range, tf.zeros, tf.argsort, tf.gather
maximum, minimum, where, bitwise_and = tf.maximum, tf.minimum, tf.where, tf.bitwise.bitwise_and
cos, exp, floor, round, sin, sqrt, tan = tf.cos, tf.exp, tf.floor, tf.round, tf.sin, tf.sqrt, tf.tan
concatenate, reshape, stack, broadcast_to, cumsum = tf.concat, tf.reshape, tf.stack, tf.broadcast_to, tf.cumsum
cond, pad = tf.cond, tf.pad
sum, min, max = tf.reduce_sum, tf.reduce_min, tf.reduce_max


def jit(function):
    """Compile `function` of tensors with XLA, which fuses an augmentation policy into a few passes: 4 times as fast."""
    return tf.function(function, jit_compile=True, autograph=False)


def shape(x):
    """Return static sizes as ints, so that shape arithmetic is done once, and unknown sizes as scalar tensors."""
    dynamic = tf.shape(x)
    return tuple(dynamic[axis] if size is None else size for axis, size in enumerate(x.shape))


def right_shift(x, bits):
    return tf.bitwise.right_shift(x, tf.constant(bits, x.dtype))


def bitwise_xor(x, y):
    return tf.bitwise.bitwise_xor(x, tf.cast(y, x.dtype))


def flip(x, axis):
    return tf.reverse(x, [axis])


def take_along_axis(x, indices, axis):
    """Pick whole rows of `x` (B, M, C) by `indices` (B, N, 1): NumPy's function for `axis` 1 only."""
    if axis != 1 or len(x.shape) != 3 or indices.shape[2] != 1:
        raise NotImplementedError("take_along_axis picks rows along axis 1 of three axes")
    return tf.gather(x, indices[..., 0], batch_dims=1)


def count_rows(index, bins):
    """Count how often each of range(bins) occurs in each row of `index` (B, N): int32 (B, bins)."""
    rows = shape(index)[0]
    flat = tf.reshape(index + tf.range(rows)[:, None] * bins, (-1,))
    return tf.reshape(tf.math.unsorted_segment_sum(tf.ones_like(flat), flat, rows * bins), (rows, bins))
