"""Five training steps and an evaluation over all devices; run by test_parallel.py: python parallel_steps.py WAY OUT."""

import sys
from functools import partial

import jax
import numpy as np
from ml_collections import FrozenConfigDict

from resnet_flax.config import get_config
from resnet_flax.models.resnet import ResNet
from resnet_flax.optim import optimizers, schedules
from resnet_flax.parallel import PARALLEL
from resnet_flax.steps import Totals, eval_step, init_state, train_step


def main(way: str, out: str) -> None:
    config = get_config()
    config.optimizer.learning_rate = 0.01
    config.optimizer.weight_decay = 1e-3
    config = FrozenConfigDict(config)
    span = schedules.Span(1, 5, "step")
    rate, momentum = schedules.learning_rate(config, span), schedules.momentum(config, span)
    optimizer = optimizers.build(config.optimizer, rate, momentum)
    parallel = PARALLEL[way]()
    model = ResNet((1, 1), (4, 8), axis_name=parallel.axis_name)
    state = parallel.replicate(init_state(model, optimizer, 0, (16, 16, 3)))
    totals = parallel.replicate(Totals.zero())
    arguments = dict(model=model, optimizer=optimizer, seed=0, axis_name=parallel.axis_name)
    step = parallel.compile(partial(train_step, **arguments), sharded=(2,), donate=(0,))
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
        state, totals = step(state, totals, parallel.shard(batch))
    evaluation = partial(eval_step, model=model, normalize=lambda x: x, axis_name=parallel.axis_name)
    evaluate = parallel.compile(evaluation, sharded=(1,))
    evaluated = evaluate(state.variables, parallel.shard({"image": batch["image"]}))
    leaves = jax.tree.leaves((state.params, state.batch_stats, totals.means(), evaluated))
    np.savez(out, *[np.asarray(leaf) for leaf in leaves], devices=jax.device_count())


if __name__ == "__main__":
    main(*sys.argv[1:])
