"""Five training steps, an evaluation and a batch over all devices, for test_devices.py: parallel_steps.py WAY OUT."""

import sys
from functools import partial

import flax.linen as nn
import jax
import numpy as np
from ml_collections import FrozenConfigDict

from resnet_flax.config.defaults import get_config
from resnet_flax.data.augment.mixing import Mixing
from resnet_flax.data.augment.policy import Policy
from resnet_flax.data.datasets.arrays import Split
from resnet_flax.data.device_feed import DeviceFeed
from resnet_flax.data.stream import Stream
from resnet_flax.models.resnet import ResNet
from resnet_flax.optim import optimizers
from resnet_flax.parallel.devices import PARALLEL
from resnet_flax.training.batch import mix_batch
from resnet_flax.training.distillation import Teacher, TeacherNetwork
from resnet_flax.training.resizing import Resizing
from resnet_flax.training.step import Totals, eval_step, init_state, train_step


class Colours(nn.Module):
    """A teacher that knows only the mean colour."""

    @nn.compact
    def __call__(self, image, train):
        return nn.Dense(10, name="head")(image.mean((1, 2)))


def main(way: str, out: str) -> None:
    config = get_config()
    config = FrozenConfigDict(config)
    optimizer = optimizers.build(config.optimizer)
    hyperparams = dict(learning_rate=0.01, momentum=config.optimizer.momentum, weight_decay=1e-3)
    parallel = PARALLEL[way]()
    dropout = dict(stem_dropout=0.2, block_dropout=0.3, drop_path=0.5)
    model = ResNet((1, 1), (4, 8), **dropout, axis_name=parallel.axis_name)
    network = TeacherNetwork(Colours(), np.float32([1, 1, 2]), np.float32([0, 1, 0]))
    teacher_variables = ({"params": {"head": {"kernel": 9 * np.eye(3, 10, dtype=np.float32), "bias": np.zeros(10)}}},)
    state = parallel.replicate(jax.jit(partial(init_state, model, optimizer, 0, (16, 16, 3)))())
    totals = parallel.replicate(Totals.zero())
    arguments = dict(model=model, optimizer=optimizer, seed=0, hyperparams=hyperparams, axis_name=parallel.axis_name)
    # Of these five batches one is as it is, and the others are mixed by either method. The first two are made smaller.
    mixed = dict(mixing=Mixing(1.0, 1.0, 0.8), teacher=Teacher((network,), 4.0, 0.5))
    settings = mixed | dict(sam_radius=0.01, resizing=Resizing(12, 2))
    step = parallel.compile(partial(train_step, **arguments, **settings), sharded=(2,), donate=(0,))
    rng = np.random.default_rng(0)
    batches = [
        {
            "image": rng.normal(size=(32, 16, 16, 3)).astype(np.float32),
            "label": rng.integers(0, 10, 32).astype(np.int32),
        }
        for _ in range(5)
    ]
    for batch in batches:
        # Devices see batches of different contrast, so that statistics of one device alone would differ.
        batch["image"] *= np.linspace(0.5, 2, 32, dtype=np.float32)[:, None, None, None]
        before, given = state, (parallel.shard(batch), parallel.replicate(teacher_variables))
        with jax.transfer_guard("disallow"):
            state, totals = step(before, totals, *given)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    evaluation = partial(
        eval_step, model=model, normalize=lambda x: x.astype(np.float32) / 64 - 2, axis_name=parallel.axis_name
    )
    images = rng.integers(0, 256, (32, 16, 16, 3), np.uint8)
    evaluate = parallel.compile(evaluation, sharded=(1,))
    evaluated = evaluate(state.variables, parallel.shard({"image": images}))
    leaves = jax.tree.leaves((state.params, state.batch_stats, totals.means(), evaluated))
    arrays = [np.asarray(leaf) for leaf in leaves]
    np.savez(out, *arrays, devices=jax.device_count(), **fed(parallel), **patched(parallel))


def fed(parallel) -> dict[str, np.ndarray]:
    """Return the third batch of 16 in the second epoch of 64 images, made by the device feed."""
    images = np.random.default_rng(1).integers(0, 256, (64, 32, 32, 3), np.uint8)
    split = Split(images, np.arange(64, dtype=np.int32))
    policy = Policy("crop(4)|flip|rotate(15)|normalize(cifar10)")
    feed = DeviceFeed(Stream(split, policy, 16, 3, False), parallel)

    def batch(arrays, order):
        made = feed.batch(arrays, order, 1, 2)
        if parallel.axis_name is None:
            return made
        return jax.tree.map(lambda rows: jax.lax.all_gather(rows, parallel.axis_name, tiled=True), made)

    order = feed.order(1)
    with jax.transfer_guard("disallow"):
        made = parallel.compile(batch, sharded=(1,))(feed.arrays, order)
    return {name: np.asarray(rows) for name, rows in made.items()}


def patched(parallel) -> dict[str, np.ndarray]:
    """Return a batch of 16 whose images RICAP patches together, some with images of three other devices."""
    rng = np.random.default_rng(2)
    batch = {"image": rng.normal(size=(16, 8, 8, 3)).astype(np.float32), "label": np.arange(16, dtype=np.int32)}

    def patch(batch):
        examples = mix_batch(batch, Mixing(ricap=1.0), 0, jax.numpy.array(3), parallel.axis_name)
        made = {"patched": examples.image, "patched_targets": examples.targets(16)}
        if parallel.axis_name is None:
            return made
        return jax.tree.map(lambda rows: jax.lax.all_gather(rows, parallel.axis_name, tiled=True), made)

    made = parallel.compile(patch, sharded=(0,))(parallel.shard(batch))
    return {name: np.asarray(rows) for name, rows in made.items()}


if __name__ == "__main__":
    main(*sys.argv[1:])
