"""The accelerator's feed: the whole split lies there, and batches are drawn, gathered and augmented there."""

import jax
import jax.numpy as jnp
import numpy as np

from resnet_flax.data.stream import Stream
from resnet_flax.parallel.devices import Parallel


class DeviceFeed:
    """The split of a stream on all devices, and what makes its batches inside a compiled program.

    `arrays` are the images (n, H, W, 3) uint8 and the labels (n,) int32. `order(epoch)` says which examples each step
    of an epoch takes: (steps, batch) int32, every device its own columns of it.
    """

    def __init__(self, stream: Stream, parallel: Parallel):
        self.stream = stream
        self.arrays = parallel.replicate((np.asarray(stream.split.images), stream.split.labels))
        self.order = parallel.compile_order(self._order)

    def _order(self, epoch) -> jax.Array:
        shape = self.stream.steps_per_epoch, self.stream.batch_size
        return self.stream.order(jnp, epoch)[: shape[0] * shape[1]].reshape(shape)

    def batch(self, images, labels, order, epoch, position) -> dict[str, jax.Array]:
        """The batch at step `position` of an epoch, as Stream.batch returns it; to be traced."""
        return self.stream.batch(jnp, images, labels, epoch, jnp.take(order, position, axis=0))
