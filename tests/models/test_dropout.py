"""Dropout: its rate, what it depends on, and that nothing else shows in its draws."""

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_flax.models.dropout import Dropout, uniform_bits

SHAPE = (64, 16, 16, 8)


def kept(seed: int = 0, name: str = "block/dropout", bit: int = 31) -> np.ndarray:
    """Return one bit of each draw of a layer in a step, as -1 or 1."""
    bits = uniform_bits(jax.random.key_data(jax.random.key(seed)), name, SHAPE, 0)
    return np.asarray(bits >> bit & 1, np.float64) * 2 - 1


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_the_share_that_is_dropped_is_the_rate_and_the_mean_stays(rate):
    ones = jnp.ones(SHAPE, jnp.bfloat16)
    found = Dropout(rate).apply({}, ones, deterministic=False, rngs={"dropout": jax.random.key(3)})
    assert found.dtype == jnp.bfloat16
    assert set(np.unique(np.asarray(found, np.float32))) == {0, np.float32(jnp.bfloat16(1 / (1 - rate)))}
    deviation = (rate * (1 - rate) / ones.size) ** 0.5
    assert np.mean(np.asarray(found) == 0) == pytest.approx(rate, abs=4 * deviation)
    np.testing.assert_array_equal(Dropout(rate).apply({}, ones, deterministic=True), ones)


@pytest.mark.parametrize("bit", [0, 13, 31])
def test_draws_of_steps_layers_and_neighbours_are_independent(bit):
    """The correlation of n independent signs has the standard deviation 1 / sqrt(n)."""
    draws, limit = kept(bit=bit), 5 / np.prod(SHAPE) ** 0.5
    others = {"step": kept(seed=1, bit=bit), "layer": kept(name="block2/dropout", bit=bit)}
    others |= {f"axis {axis} + {by}": np.roll(draws, by, axis) for axis in range(4) for by in (1, 2)}
    assert {name: (draws * other).mean() for name, other in others.items()} == pytest.approx(
        dict.fromkeys(others, 0), abs=limit
    )
    for axes in ((1, 2, 3), (0, 1, 2)):  # as many draws are 1 in each example, and in each channel
        means = draws.mean(axes) * np.prod(SHAPE[axes[0] : axes[-1] + 1]) ** 0.5
        assert np.abs(means).max() < 5
        assert means.std() == pytest.approx(1, abs=4 / (2 * len(means)) ** 0.5)


def test_a_missing_key_is_an_error():
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        Dropout(0.5).apply({}, jnp.ones(SHAPE), deterministic=False)
