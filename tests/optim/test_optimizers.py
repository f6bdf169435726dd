"""Optimisers that PyTorch lacks; the others are compared with PyTorch in test_fidelity.py."""

import jax
import jax.numpy as jnp
import numpy as np
import optax.contrib
import pytest

from resnet_flax.config.defaults import get_config
from resnet_flax.optim import optimizers

LEARNING_RATE = 0.1
SHAPES = {
    "conv": {"kernel": (3, 3, 4, 6)},
    "short": {"kernel": (1, 1, 8, 6)},  # orthogonalised together with conv
    "wide": {"kernel": (1, 1, 4, 6)},
    "head": {"kernel": (6, 10), "bias": (10,)},
}


def random_trees(count: int) -> list[dict]:
    """Return random trees with the SHAPES of weights."""
    draw = np.random.default_rng(0).normal
    return [
        {
            module: {name: jnp.asarray(draw(size=shape), jnp.float32) for name, shape in leaves.items()}
            for module, leaves in SHAPES.items()
        }
        for _ in range(count)
    ]


def updates_of(gradients: list[dict], params: dict, **fields) -> list[dict]:
    """Return the updates of an optimiser for successive gradients, with constant `params`."""
    config = get_config()
    config.optimizer.update(fields)
    optimizer = optimizers.build(config.optimizer)
    now = optimizers.Hyperparams(LEARNING_RATE, config.optimizer.momentum, config.optimizer.weight_decay)
    state, found = optimizer.init(params), []
    for gradient in gradients:
        updates, state = jax.jit(optimizer.update)(gradient, state, params, **now._asdict())
        found.append(updates)
    return found


def test_orthogonalized_has_singular_values_near_one_and_keeps_directions():
    matrix = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    found, nearest = np.asarray(optimizers.orthogonalized(matrix.T)), (left @ right).T
    values = np.linalg.svd(found, compute_uv=False)
    assert values.min() > 0.65 and values.max() < 1.25
    assert np.sum(found * nearest) > 0.97 * np.linalg.norm(found) * np.linalg.norm(nearest)


@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_has_the_directions_of_optax_and_the_lengths_of_kernels(nesterov):
    params, *gradients = random_trees(5)
    ours = updates_of(gradients, params, name="muon", momentum=0.8, nesterov=nesterov)
    plain = updates_of(gradients, params, name="sgd", momentum=0.8, nesterov=nesterov)
    spec = optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
    theirs = optax.contrib.scale_by_muon(
        beta=0.8, nesterov=nesterov, weight_dimension_numbers=lambda tree: jax.tree.map(lambda _: spec, tree)
    )
    for name in ("conv", "short", "wide"):
        state = theirs.init(params[name])
        for step, gradient in enumerate(gradients):
            expected, state = theirs.update(gradient[name], state)
            found, kernel = ours[step][name]["kernel"], params[name]["kernel"]
            # optax corrects the bias of its average, so under Nesterov it mixes gradient and average differently.
            if not nesterov:
                direction = expected["kernel"] / jnp.linalg.norm(expected["kernel"])
                np.testing.assert_allclose(
                    found, -LEARNING_RATE * jnp.linalg.norm(kernel) * direction, rtol=1e-3, atol=1e-5
                )
            np.testing.assert_allclose(jnp.linalg.norm(found), LEARNING_RATE * jnp.linalg.norm(kernel), rtol=1e-5)
    for step in range(len(gradients)):
        jax.tree.map(np.testing.assert_array_equal, ours[step]["head"], plain[step]["head"])


def test_biases_have_a_learning_rate_of_their_own():
    params, *gradients = random_trees(4)
    once, eight = (updates_of(gradients, params, name="sgd", bias_lr_factor=factor) for factor in (1.0, 8.0))
    for a, b in zip(once, eight, strict=True):
        np.testing.assert_array_equal(8 * a["head"]["bias"], b["head"]["bias"])
        np.testing.assert_array_equal(a["head"]["kernel"], b["head"]["kernel"])
        np.testing.assert_array_equal(a["conv"]["kernel"], b["conv"]["kernel"])
