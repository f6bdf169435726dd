"""The accelerator's feed: the whole split lies there, and batches are gathered and augmented there."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from resnet_flax.data.batches import Stream
from resnet_flax.parallel import Parallel


def batches(stream: Stream, first_step: int, parallel: Parallel) -> Iterator[dict[str, jax.Array]]:
    """The batches of the stream from step `first_step` on, spread over all devices; only a position is sent there."""
    images, labels = parallel.replicate((np.asarray(stream.split.images), stream.split.labels))
    order_of = jax.jit(lambda epoch: stream.order(jnp, epoch))

    @parallel.compile_batch
    def batch(images, labels, order, epoch, position):
        index = jax.lax.dynamic_slice_in_dim(order, position * stream.batch_size, stream.batch_size)
        return stream.batch(jnp, images, labels, epoch, index)

    epoch, start = divmod(first_step, stream.steps_per_epoch)
    while True:
        order = order_of(epoch)
        for position in range(start, stream.steps_per_epoch):
            yield batch(images, labels, order, epoch, position)
        epoch, start = epoch + 1, 0
