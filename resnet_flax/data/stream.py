"""The stream of training batches: a batch is a function of (seed, step), the same for every feed."""

from dataclasses import dataclass
from typing import Any

from resnet_flax.data.augment import draws
from resnet_flax.data.augment.policy import Policy
from resnet_flax.data.datasets.arrays import Split


@dataclass(frozen=True)
class Stream:
    """The endless stream of training batches of a split. `xp` is the array namespace to compute in.

    An epoch is a permutation of the split, or with `concat_original` of the split followed by itself, where the second
    copy is not augmented. The examples left over after the last full batch are not used in that epoch.
    """

    split: Split
    policy: Policy
    batch_size: int
    seed: Any  # an integer of at most 32 bits, or in a compiled program a traced one
    concat_original: bool

    @property
    def epoch_size(self) -> int:
        return len(self.split) * (2 if self.concat_original else 1)

    @property
    def steps_per_epoch(self) -> int:
        return self.epoch_size // self.batch_size

    def order(self, xp: Any, epoch: Any) -> Any:
        """Return the examples of each step of an epoch: (steps_per_epoch, batch_size) int32."""
        order = draws.epoch_order(xp, self.seed, epoch, self.epoch_size)
        return xp.reshape(order[: self.steps_per_epoch * self.batch_size], (self.steps_per_epoch, self.batch_size))

    def batch(self, xp: Any, images: Any, labels: Any, epoch: Any, index: Any) -> dict[str, Any]:
        """Make a batch of the examples `index` (rows,) int32 of an epoch, taken from all `images` (n, H, W, 3) uint8
        and `labels` (n,) int32.

        Returns "image" (rows, H, W, 3) float32 and "label" (rows,) int32.
        """
        example = index % len(self.split)
        original = xp.take(images, example, axis=0)
        keys, turns = draws.keys(xp, self.seed, epoch, index), draws.turns(xp, self.seed, epoch, index)
        image = self.policy(xp, original, keys, turns)
        if self.concat_original:
            second_copy = (index >= len(self.split))[:, None, None, None]
            image = xp.where(second_copy, self.policy.normalize(xp, original), image)
        return {"image": image, "label": xp.take(labels, example, axis=0)}
