"""The draws that mix a batch: their distributions, and that they depend on the seed and the step alone."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from resnet_flax.commands.preview import version
from resnet_flax.data.augment.mixing import Mixing, beta_quantiles, draw_patches, draw_shares, mixed
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


@cache
def patched(mixing: Mixing, steps: int = 800) -> list:
    return [draw_patches(np, mixing, 5, step, SIZE) for step in range(steps)]


def test_boundaries_of_patches_are_those_of_ricap_rounded_to_pixels():
    boundaries = np.stack([patches.sizes[0] for patches in patched(Mixing(ricap=0.3))])
    for length, found in zip(SIZE, boundaries.T, strict=True):
        edges = np.add(np.arange(length + 1), [[-0.5], [0.5]]).clip(0, length) / length
        expected = np.diff(stats.beta(0.3, 0.3).cdf(edges), axis=0)[0]
        counts = np.bincount(found, minlength=length + 1)
        assert stats.chisquare(counts, 800 * expected / expected.sum()).pvalue > 0.01
    assert abs(np.corrcoef(boundaries.T)[0, 1]) < 0.1


def test_four_patches_cover_the_image_and_their_crops_lie_anywhere_in_theirs():
    places = np.zeros((4, 2, 2))  # of each patch and side: crops at the first and at the last possible place
    for patches in patched(Mixing(ricap=1.0)):
        low, left = patches.sizes[0]
        right, high = SIZE[1] - left, SIZE[0] - low
        assert patches.sizes.tolist() == [[low, left], [low, right], [high, left], [high, right]]
        room = np.array(SIZE) - patches.sizes
        assert ((patches.corners >= 0) & (patches.corners <= room)).all()
        places += np.stack([patches.corners == 0, patches.corners == room], -1) & (room > 0)[..., None]
    assert places.min() > 40


def test_a_batch_that_is_not_patched_stays_as_it_is():
    images = [np.full((2, *SIZE, 3), number, np.float32) for number in range(4)]
    mixing = Mixing(probability=0.7, ricap=0.3)
    found = [mixed(np, mixing, 5, step, images) for step in range(400)]
    for image, shares in found:
        assert [float(share[0]) for share in shares] == pytest.approx([np.mean(image == n) for n in range(4)])
    plain = [patches.sizes[0].tolist() == list(SIZE) for patches in patched(mixing, 400)]
    assert sum(plain) / 400 == pytest.approx(0.3, abs=0.12)  # by chance some are not although mixed
    assert [bool(np.all(image == 0)) for image, _ in found] == plain


def test_draws_are_the_same_in_jax_and_differ_between_steps_and_seeds():
    compiled = jax.jit(lambda step: draw_shares(jnp, BOTH, 5, step, SIZE))
    for step, expected in enumerate(drawn(BOTH)[:30]):
        for ours, theirs in zip(compiled(step), expected, strict=True):
            assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
            np.testing.assert_array_equal(ours, theirs)
    ricap = Mixing(ricap=0.3)
    patches = jax.jit(lambda step: draw_patches(jnp, ricap, 5, step, SIZE))
    for step, expected in enumerate(patched(ricap)[:30]):
        for ours, theirs in zip(patches(step), expected, strict=True):
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
    patched_images, captions = version(stream, Mixing(ricap=1.0), ("ant", "bee", "cat"), 6)
    sizes = draw_patches(np, Mixing(ricap=1.0), 5, 6, SIZE).sizes
    assert patched_images.shape == images.shape
    areas = [f"{np.prod(size) / np.prod(SIZE):.0%}" for size in sizes]
    assert captions[0].split("\n") == [
        f"{area} {name}" for area, name in zip(areas, ("ant", "cat", "bee", "ant"), strict=True)
    ]
    _, plain = version(stream, Mixing(), ("ant", "bee", "cat"), 4)
    assert plain == ["", "", ""]
