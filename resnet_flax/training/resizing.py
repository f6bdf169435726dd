"""Progressive resizing: training begins on smaller images, which take less time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax

Forward = Callable[[chex.ArrayTree, jax.Array], Any]  # of a network: (params, images) -> its outputs


class Resizing(NamedTuple):
    """Until `steps` steps are done, the network gets images of `size` pixels, height and width."""

    size: int
    steps: int

    def apply(self, forward: Forward, step: jax.Array) -> Forward:
        """Return `forward`, which before step `steps` shrinks images (batch, H, W, C) by linear interpolation."""

        def shrunk(params: chex.ArrayTree, images: jax.Array) -> Any:
            shape = (len(images), self.size, self.size, images.shape[-1])
            return forward(params, jax.image.resize(images, shape, "linear"))

        return lambda params, images: jax.lax.cond(step < self.steps, shrunk, forward, params, images)
