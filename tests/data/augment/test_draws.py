"""Draws have the right distributions, do not depend on each other, and are the same bits in every namespace."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from resnet_flax.data.augment import draws

N = 10_000
SIGNIFICANCE = 1e-3  # seeds are fixed: a test passes always or never


def fresh(seed=0, epoch=0, n=N):
    return of(np, seed, epoch, np.arange(n))


def of(namespace, seed, epoch, index):
    return draws.Draws(namespace, *(draw(namespace, seed, epoch, index) for draw in (draws.keys, draws.turns)))


def p_of_counts(values, cells):
    return stats.chisquare(np.bincount(values, minlength=cells)).pvalue


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-15, 15), (0.8, 1.2), (0.02, 0.1)])
def test_uniform_is_uniform(low, high):
    drawn = fresh(seed=1).uniform(low, high)
    assert drawn.dtype == np.float32 and drawn.min() >= np.float32(low) - 1e-6 and drawn.max() < high
    assert stats.kstest(drawn, stats.uniform(low, high - low).cdf).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("width", [1e-5, 1e-6])
def test_uniform_in_a_narrow_range_stays_there(width):
    drawn = fresh().uniform(1, 1 + width)
    assert drawn.min() >= 1 and drawn.max() < 1 + width


def test_uniform_of_an_empty_range_is_its_end():
    assert np.all(fresh().uniform(0.3, 0.3) == np.float32(0.3))


@pytest.mark.parametrize("n", [2, 9, 25, 31])
def test_integers_are_equally_likely(n):
    drawn = fresh(seed=n).integers(n)
    assert drawn.dtype == np.int32 and set(drawn) == set(range(n))
    assert p_of_counts(drawn, n) > SIGNIFICANCE


def test_integers_may_have_a_bound_each():
    bounds = np.arange(N, dtype=np.int32) % 20 + 1
    drawn = fresh().integers(bounds)
    assert np.all((drawn >= 0) & (drawn < bounds))
    assert p_of_counts(drawn[bounds == 20], 20) > SIGNIFICANCE


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 1.0])
def test_chance_has_its_probability(p):
    drawn = fresh(seed=2).chance(p)
    assert drawn.dtype == bool
    assert stats.binomtest(int(drawn.sum()), N, p).pvalue > SIGNIFICANCE


def test_permutations_are_equally_likely():
    drawn = np.stack(fresh(seed=3).permutation(4), axis=1)
    assert drawn.dtype == np.int32 and np.all(np.sort(drawn, axis=1) == np.arange(4))
    _, order = np.unique(drawn, axis=0, return_inverse=True)
    assert p_of_counts(order.ravel(), 24) > SIGNIFICANCE


def correlated(a, b):
    """p-value of independence of two samples of [0, 1): a chi-square test on an 8 by 8 table."""
    table = np.histogram2d(a, b, bins=8, range=[[0, 1], [0, 1]])[0]
    table = table[table.any(1)][:, table.any(0)]
    return stats.chi2_contingency(table).pvalue


@pytest.mark.parametrize("lag", [1, 2, 5])
def test_streams_epochs_examples_and_seeds_are_independent(lag):
    stream = fresh()
    drawn = [stream.uniform() for _ in range(lag + 1)]
    assert correlated(drawn[0], drawn[lag]) > SIGNIFICANCE
    assert correlated(drawn[0], fresh(epoch=lag).uniform()) > SIGNIFICANCE
    assert correlated(drawn[0][:-lag], drawn[0][lag:]) > SIGNIFICANCE
    assert correlated(drawn[0], fresh(seed=lag).uniform()) > SIGNIFICANCE


def test_keys_differ_within_an_epoch_and_between_epochs():
    first, second = draws.keys(np, 0, 0, np.arange(50_000)), draws.keys(np, 0, 1, np.arange(50_000))
    assert len(np.unique(first)) == len(np.unique(second)) == 50_000
    assert np.mean(first == second) < 1e-3


def test_turns_alternate_from_a_drawn_one_on():
    turns = [draws.turns(np, 5, epoch, np.arange(N)) for epoch in range(3)]
    assert stats.binomtest(int(turns[0].sum()), N, 0.5).pvalue > SIGNIFICANCE
    assert np.all(turns[0] != turns[1]) and np.all(turns[0] == turns[2])
    for other in (fresh(seed=5).uniform(), draws.turns(np, 6, 0, np.arange(N)), np.roll(turns[0], 1)):
        assert correlated(turns[0] * 0.9, other * 0.9) > SIGNIFICANCE


def test_the_draws_of_an_example_do_not_depend_on_its_batch():
    index = np.array([7, 3, 9000])
    alone = of(np, 0, 0, index).uniform()
    assert np.array_equal(alone, fresh().uniform()[index])


@pytest.mark.parametrize("n", [1, 2, 1000])
def test_an_epoch_visits_every_example_once(n):
    order = draws.epoch_order(np, 5, 2, n)
    assert order.dtype == np.int32 and np.array_equal(np.sort(order), np.arange(n))


def test_epochs_and_seeds_have_other_orders():
    orders = [draws.epoch_order(np, seed, epoch, N) for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    for order in orders:
        assert stats.kstest(order[: N // 4] / N, "uniform").pvalue > SIGNIFICANCE
        assert abs(stats.spearmanr(order, np.arange(N)).statistic) < 4 / np.sqrt(N)
    assert abs(stats.spearmanr(orders[0], orders[1]).statistic) < 4 / np.sqrt(N)
    assert abs(stats.spearmanr(orders[0], orders[2]).statistic) < 4 / np.sqrt(N)


def test_order_and_draws_of_an_epoch_are_independent():
    place = np.argsort(draws.epoch_order(np, 0, 0, N))
    assert correlated(place / N, fresh().uniform()) > SIGNIFICANCE


def everything(namespace, seed, epoch, index):
    stream = of(namespace, seed, epoch, index)
    return (
        stream.keys,
        stream.turns,
        stream.uniform(),
        stream.uniform(-15, 15),
        stream.uniform(0.02, 0.1),
        stream.integers(25),
        stream.chance(0.3),
        *stream.permutation(4),
        draws.epoch_order(namespace, seed, epoch, 1000),
    )


@pytest.mark.parametrize("seed", [0, 123456789, -1, 2**40 + 5])
def test_numpy_jax_and_tensorflow_draw_the_same_bits(seed):
    tf_numpy = pytest.importorskip("resnet_flax.data.augment.tf_numpy")
    index = np.arange(1000, dtype=np.int32)
    expected = everything(np, seed, 7, index)
    in_jit = jax.jit(lambda epoch: everything(jnp, seed, epoch, index))(7)
    in_xla = tf_numpy.jit(lambda epoch: everything(tf_numpy, seed, epoch, index))(np.int64(7))
    in_tf = everything(tf_numpy, seed, 7, index)
    for others in (in_jit, in_xla, in_tf):
        for ours, theirs in zip(expected, others, strict=True):
            assert np.asarray(theirs).dtype == ours.dtype
            assert np.array_equal(ours, theirs)


def test_a_traced_seed_draws_as_a_python_int():
    traced = jax.jit(lambda seed: draws.keys(jnp, seed, 0, jnp.arange(100)))(9)
    assert np.array_equal(traced, draws.keys(np, 9, 0, np.arange(100)))
