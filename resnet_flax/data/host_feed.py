"""The host feed: tf.data shuffles, gathers and augments batches ahead of the accelerator."""

import os
from collections.abc import Iterator

import numpy as np

from resnet_flax.data.stream import Stream
from resnet_flax.parallel.devices import local_rows


def batches(stream: Stream, first_step: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield the batches of the stream from step `first_step` on: the rows of this process, as NumPy arrays."""
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # else TensorFlow imports Keras, which doubles its import time
    import tensorflow as tf  # takes a second, and only this feed needs it

    from resnet_flax.data.augment import tf_numpy

    images, labels = tf.constant(stream.split.images), tf.constant(stream.split.labels)
    first_epoch, skipped = divmod(first_step, stream.steps_per_epoch)
    no_autograph = tf.autograph.experimental.do_not_convert  # parsing for control flow takes half a second

    @no_autograph
    def indices(epoch):
        rows = local_rows(stream.order(tf_numpy, epoch), axis=1)
        return tf.data.Dataset.from_tensor_slices(rows).map(lambda index: (epoch, index))

    @no_autograph
    def batch(epoch, index):
        return stream.batch(tf_numpy, images, labels, epoch, index)

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int32).max, output_type=tf.int32)
    feed = epochs.flat_map(indices).skip(skipped).map(batch, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    return feed.as_numpy_iterator()
