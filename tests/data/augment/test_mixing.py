"""The draws that mix a batch: their distributions, and that they depend on the seed and the step alone."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from resnet_flax.commands.preview import version
from resnet_flax.data.augment.mixing import Mixing, beta_quantiles, draw_shares
from resnet_flax.data.augment.policy import Policy
from resnet_flax.data.datasets.arrays import Split
from resnet_flax.data.stream import Stream

SIZE = (16, 12)
BOTH = Mixing(mixup=0.4, cutmix=2.0, probability=0.7, switch=0.3)


@cache
def drawn(mixing: Mixing, steps: int = 800) -> list:
    return [draw_shares(np, mixing, 5, step, SIZE) for step in range(steps)]


def kind(shares) -> str:
    levels = np.unique(shares.pixels)
    if levels.size == 1:
        return "none" if levels[0] == 1 else "mixup"
    return "cutmix" if list(levels) == [0, 1] else "neither"


def test_batches_are_mixed_with_their_probabilities():
    found = [kind(shares) for shares in drawn(BOTH)]
    assert set(found) == {"none", "mixup", "cutmix"}
    assert found.count("none") / 800 == pytest.approx(0.3, abs=0.06)  # a box may be empty, too
    assert found.count("cutmix") / 800 == pytest.approx(0.7 * 0.3, abs=0.05)


@pytest.mark.parametrize(("mixing", "only"), [(Mixing(mixup=1.0), "mixup"), (Mixing(cutmix=1.0), "cutmix")])
def test_one_method_alone_is_the_only_one(mixing, only):
    assert {kind(shares) for shares in drawn(mixing, 200)} <= {only, "none"}
    assert Mixing(mixup=1.0).on and Mixing(cutmix=1.0).on and not Mixing().on


def test_shares_of_mixup_follow_its_beta_distribution():
    shares = [float(one.label[0]) for one in drawn(Mixing(mixup=0.4))]
    assert stats.kstest(shares, stats.beta(0.4, 0.4).cdf).pvalue > 0.01
    assert beta_quantiles(1e-3).min() >= 0 and beta_quantiles(1e3).max() <= 1


def test_share_of_a_label_is_that_of_the_pixels():
    for shares in drawn(BOTH):
        assert float(shares.label[0]) == pytest.approx(float(shares.pixels.mean()), abs=1e-6)


def test_centres_of_boxes_reach_every_part_of_the_image():
    covered = sum(1 - shares.pixels[..., 0] for shares in drawn(Mixing(cutmix=1.0)))
    assert covered.min() > 40


def test_draws_are_the_same_in_jax_and_differ_between_steps_and_seeds():
    compiled = jax.jit(lambda step: draw_shares(jnp, BOTH, 5, step, SIZE))
    for step, expected in enumerate(drawn(BOTH)[:30]):
        for ours, theirs in zip(compiled(step), expected, strict=True):
            assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
            np.testing.assert_array_equal(ours, theirs)
    labels = [float(shares.label[0]) for shares in drawn(BOTH) if shares.label[0] < 1]
    assert len(set(labels)) > 0.6 * len(labels)
    assert draw_shares(np, Mixing(mixup=1.0), 6, 0, SIZE).label != draw_shares(np, Mixing(mixup=1.0), 5, 0, SIZE).label


def test_preview_draws_mixed_images_with_the_shares_of_their_classes():
    images = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3), np.uint8)
    stream = Stream(Split(images, np.array([0, 1, 2], np.int32)), Policy("normalize(half)"), 3, 5, False)
    mixing = Mixing(mixup=1.0)
    drawn_images, captions = version(stream, mixing, ("ant", "bee", "cat"), 4)
    share = float(draw_shares(np, mixing, 5, 4, SIZE).label[0])
    pixels = images / 255
    np.testing.assert_allclose(drawn_images, share * pixels + (1 - share) * np.roll(pixels, 1, axis=0), atol=1e-5)
    assert captions[0] == f"{share:.0%} ant\n{1 - share:.0%} cat"
    assert captions[1] == f"{share:.0%} bee\n{1 - share:.0%} ant"
    _, plain = version(stream, Mixing(), ("ant", "bee", "cat"), 4)
    assert plain == ["", "", ""]
