"""A first training step in plain Flax, as a reference for start-up times: python -m benchmarks.plain

The network of configs/preact.py, built layer for layer from Flax's own layers, with its optimiser and a batch of random
pixels on the device. Prints the parts of the time since STARTED as benchmarks.first_step does.
"""

import json
import os
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

WIDTHS, BATCH = (32, 64, 128, 256), 32
PARAMETERS = 2_796_202  # of the recipe


class Block(nn.Module):
    width: int
    stride: int

    @nn.compact
    def __call__(self, x, train):
        activated = nn.gelu(nn.BatchNorm(not train)(x), approximate=False)
        y = nn.Conv(self.width, (3, 3), self.stride, padding=1, use_bias=False)(activated)
        y = nn.gelu(nn.BatchNorm(not train)(y), approximate=False)
        y = nn.Conv(self.width, (3, 3), padding=1, use_bias=False)(y)
        if x.shape != y.shape:
            x = nn.Conv(self.width, (1, 1), self.stride, padding=0, use_bias=False)(activated)
        return x + y


class Network(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(WIDTHS[0], (3, 3), padding=1, use_bias=False)(x)
        for stage, width in enumerate(WIDTHS):
            x = Block(width, 2 if stage else 1)(x, train)
            x = Block(width, 1)(x, train)
        return nn.Dense(10)(x.mean((1, 2)))


network, optimizer = Network(), optax.adam(1e-3)


@jax.jit
def init(key):
    variables = network.init(key, jnp.zeros((1, 32, 32, 3)), train=False)
    return variables["params"], variables["batch_stats"], optimizer.init(variables["params"])


@jax.jit
def step(params, batch_stats, opt_state, images, labels):
    def loss_of(params):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, new = network.apply(variables, images, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), new["batch_stats"]

    (loss, new_stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
    updates, opt_state = optimizer.update(gradients, opt_state)
    return optax.apply_updates(params, updates), new_stats, opt_state, loss


def main() -> None:
    times = [float(os.environ["STARTED"]), time.time()]
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(BATCH, 32, 32, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 10, BATCH))
    times.append(time.time())
    state = init(jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(state[0])) == PARAMETERS
    times.append(time.time())
    jax.block_until_ready(step(*state, images, labels))
    times.append(time.time())
    names = ("imports", "data", "init", "step")
    parts = {name: after - before for name, before, after in zip(names, times, times[1:], strict=False)}
    print(json.dumps({"parts": parts, "imported": []}))


if __name__ == "__main__":
    main()
