"""The device feed: the whole split stays on the accelerator, which shuffles, gathers and augments it."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from resnet_flax.data.stream import Stream
from resnet_flax.parallel.devices import Parallel


class DeviceFeed:
    """The split of a stream, replicated on all devices, and the code that makes batches of it in a compiled program.

    `arrays` are the images (n, H, W, 3) uint8, the labels (n,) int32 and the seed () uint32. `order(epoch)` lists the
    examples of each step of an epoch: (steps, batch) int32, its columns spread over the devices.
    """

    def __init__(self, stream: Stream, parallel: Parallel):
        self.stream = stream
        seed = np.uint32(stream.seed)
        self.arrays = parallel.replicate((np.asarray(stream.split.images), stream.split.labels, seed))
        self.order = partial(parallel.compile_order(self._order), seed)

    def _order(self, seed, epoch) -> jax.Array:
        return replace(self.stream, seed=seed).order(jnp, epoch)

    def batch(self, arrays, order, epoch, position) -> dict[str, jax.Array]:
        """Return the batch at step `position` of an epoch, as Stream.batch does; to be traced."""
        images, labels, seed = arrays
        with jax.named_scope("feed"):  # its name in profiles
            return replace(self.stream, seed=seed).batch(jnp, images, labels, epoch, jnp.take(order, position, axis=0))
