"""A network that predicts: compiled once, with the variables of any checkpoint."""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

from resnet_flax import models
from resnet_flax.data.augment.policy import Policy
from resnet_flax.data.datasets.arrays import Split
from resnet_flax.data.datasets.load import image_shape
from resnet_flax.errors import UserError
from resnet_flax.models.resnet import Variables
from resnet_flax.parallel.devices import PARALLEL, local_rows
from resnet_flax.training.step import eval_step
from resnet_flax.workdir.predictions import Predictions

EVALUATION_BATCH = 500  # images of 32 x 32 pixels; of larger ones so many fewer that they take the same memory
SMALL_BATCHES = (1, 32)  # for fewer images than EVALUATION_BATCH; each size that is used is compiled once
ON_DEVICE_BYTES = 2**31  # larger sets of images stay on the host

# Called after each batch with the number of images done; evaluation ends early once it returns True.
AfterBatch = Callable[[int], bool]


def never_stop(done: int) -> bool:
    return False


def batch_size(count: int) -> int:
    """Return the batch size for `count` images."""
    return next((size for size in SMALL_BATCHES if count <= size), EVALUATION_BATCH)


def largest_batch(height: int, width: int) -> int:
    """Return how many images of this size have the pixels of EVALUATION_BATCH of 32 x 32: 1 to EVALUATION_BATCH."""
    return max(1, min(EVALUATION_BATCH, EVALUATION_BATCH * 32 * 32 // (height * width)))


class Classifier:
    """The network of a complete `config` on all devices, `batch_size` images at a time, or fewer if they are large.

    `step` determines the output: log-probabilities (n, classes) float32, or features with `feature_step`.
    """

    def __init__(self, config: FrozenConfigDict, batch_size: int = EVALUATION_BATCH, step: Callable = eval_step):
        self.parallel = PARALLEL[config.parallel]()
        axis_name = self.parallel.axis_name
        model = models.build(config, axis_name)
        normalize = partial(Policy(config.data.policy).normalize, jnp)
        step = partial(step, model=model, normalize=normalize, axis_name=axis_name)
        self.image_shape = image_shape(config.data)
        self.step = self.parallel.compile(step, sharded=(1,))
        self.steps = self.parallel.compile(partial(map_batches, step), sharded=(1,))
        self.held: tuple[np.ndarray, dict] | None = None  # images, and their copy on the devices
        batch_size = min(batch_size, largest_batch(*self.image_shape[:2]))
        self.rows = -(-batch_size // jax.device_count()) * jax.device_count()

    def __call__(self, variables: Variables, images: np.ndarray, after_batch: AfterBatch = never_stop) -> np.ndarray:
        """Return log-probabilities (n, classes) float32 of `images` (n, H, W, 3) uint8, fewer if stopped early.

        Raises UserError for images of another shape or dtype than those of training.
        """
        check_images(images, self.image_shape)
        outputs: list[jax.Array] = []
        for rows in self._padded(images):
            outputs.append(self.step(variables, self.parallel.shard({"image": local_rows(rows)})))
            jax.block_until_ready(outputs[-2:-1])  # one runs while the next is sent
            if after_batch(min(len(outputs) * self.rows, len(images))):
                break
        return np.concatenate([np.asarray(output) for output in outputs])[: len(images)]

    def evaluate(self, variables: Variables, split: Split, after_batch: AfterBatch = never_stop) -> Predictions:
        """Return predictions for every example of `split`, or for the first ones if stopped early.

        On an accelerator, a split of up to ON_DEVICE_BYTES takes one dispatch, and `after_batch` is not called.
        """
        if jax.default_backend() == "cpu" or split.images.nbytes > ON_DEVICE_BYTES:
            log_probabilities = self(variables, split.images, after_batch)
        else:
            log_probabilities = self.in_one_dispatch(variables, split.images)
        return Predictions(log_probabilities, split.labels[: len(log_probabilities)])

    def in_one_dispatch(self, variables: Variables, images: np.ndarray) -> np.ndarray:
        """Return the same as `__call__`, computed in one dispatch. The devices keep the images for next time."""
        check_images(images, self.image_shape)
        held = self.held  # another thread may replace it
        if held is None or held[0] is not images:
            batches = np.stack([local_rows(rows) for rows in self._padded(images)])
            held = self.held = images, self.parallel.shard({"image": batches}, axis=1)
        outputs = np.asarray(self.steps(variables, held[1]))
        return outputs.reshape(-1, outputs.shape[-1])[: len(images)]

    def _padded(self, images: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the images in order in batches, at least one, the last padded with black images."""
        for start in range(0, max(len(images), 1), self.rows):
            rows = images[start : start + self.rows]
            yield np.pad(rows, [(0, self.rows - len(rows)), (0, 0), (0, 0), (0, 0)])


def check_images(images: np.ndarray | jax.Array, shape: tuple[int, int, int]) -> None:
    """Raise UserError unless `images` are (n, *shape) uint8."""
    if images.shape[1:] == shape and images.dtype == np.uint8:
        return
    height, width, channels = shape
    hint = ": put a single image into a batch with images[None]" if images.shape == shape else ""
    raise UserError(
        f"images must be uint8 (0 to 255) of shape (n, {height}, {width}, {channels}), "
        f"not {images.dtype} of shape {images.shape}{hint}"
    )


def map_batches(step: Callable, variables: Variables, batches: dict[str, jax.Array]) -> jax.Array:
    """Return the outputs (n, batch, classes) of `step` for n `batches`, stacked along a leading axis."""
    return jax.lax.map(partial(step, variables), batches)
