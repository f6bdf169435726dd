"""What a training batch is: a function of (seed, step), the same for every feed."""

from dataclasses import dataclass
from typing import Any

from resnet_flax.data.augment import draws
from resnet_flax.data.augment.policy import Policy
from resnet_flax.data.datasets.arrays import Split


@dataclass(frozen=True)
class Stream:
    """The endless stream of training batches of a split. `np` is always the array namespace to compute in.

    An epoch is a permutation of the split, or with `concat_original` of the split followed by itself, where the second
    copy is not augmented. What is left over of it once there is no full batch is not used in that epoch.
    """

    split: Split
    policy: Policy
    batch_size: int
    seed: int
    concat_original: bool

    @property
    def epoch_size(self) -> int:
        return len(self.split) * (2 if self.concat_original else 1)

    @property
    def steps_per_epoch(self) -> int:
        return self.epoch_size // self.batch_size

    def order(self, np, epoch) -> Any:
        """The order of the examples in an epoch: (epoch_size,) int32."""
        return draws.epoch_order(np, self.seed, epoch, self.epoch_size)

    def batch(self, np, images, labels, epoch, index) -> dict[str, Any]:
        """Examples `index` (rows,) int32 of the epoch, out of all `images` (n, H, W, 3) uint8 and `labels` (n,) int32.

        Returns "image" (rows, H, W, 3) float32 and "label" (rows,) int32.
        """
        example = index % len(self.split)
        plain = np.take(images, example, axis=0)
        keys, turns = draws.keys(np, self.seed, epoch, index), draws.turns(np, self.seed, epoch, index)
        image = self.policy(np, plain, keys, turns)
        if self.concat_original:
            original = (index >= len(self.split))[:, None, None, None]
            image = np.where(original, self.policy.plain(np, plain), image)
        return {"image": image, "label": np.take(labels, example, axis=0)}
