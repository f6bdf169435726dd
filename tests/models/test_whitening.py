"""The kernel of a whitening stem is computed from the training images and then never changes; its bias is trained."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_flax import models
from resnet_flax.config.checks import complete
from resnet_flax.config.defaults import get_config
from resnet_flax.data.augment.policy import Policy
from resnet_flax.models import layers, whitening
from resnet_flax.models.resnet import ResNet
from resnet_flax.models.whitening import MAX_IMAGES, VARIANCE_FLOOR, Whitening, directions
from resnet_flax.training.run import Run
from resnet_flax.training.step import Totals

NORMALIZE = partial(Policy("normalize(cifar10)").normalize, jnp)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Return images of smooth random colours, so that neighbouring pixels are correlated."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (40, 4, 4, 3)).repeat(4, 1).repeat(4, 2)
    return np.clip(coarse + random.integers(-20, 20, coarse.shape), 0, 255).astype(np.uint8)


def whitened(kernel: np.ndarray, images: jax.Array) -> jax.Array:
    return Whitening().apply({"params": {"bias": np.zeros(24, np.float32)}, "batch_stats": {"kernel": kernel}}, images)


def test_outputs_are_uncorrelated_and_of_variance_one(images):
    kernel = directions(images, NORMALIZE)
    outputs = whitened(kernel, NORMALIZE(images))
    assert outputs.shape == (40, 15, 15, 24)
    half = np.asarray(outputs[..., :12], np.float64).reshape(-1, 12)
    np.testing.assert_allclose(outputs[..., 12:], -outputs[..., :12], atol=1e-5)
    covariance = np.cov(half, rowvar=False)
    assert np.all(np.diff(np.diag(covariance)) <= 1e-6)  # the strongest first, where the floor matters least
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-3)
    assert np.diag(covariance).min() > 1 - 20 * VARIANCE_FLOOR and np.diag(covariance).max() < 1.001


def test_images_from_the_whole_split_are_used(images):
    """They may be too many to use all, and sorted."""
    many = np.concatenate([np.repeat(images, 2 * MAX_IMAGES // 40, 0), np.repeat(images // 4, 2 * MAX_IMAGES // 40, 0)])
    outputs = whitened(directions(many, NORMALIZE), NORMALIZE(many[::10]))
    np.testing.assert_allclose(outputs[..., :3].var((0, 1, 2)), 1, atol=0.05)


def test_fewer_of_larger_images_are_used(images, monkeypatch):
    shapes = []
    monkeypatch.setattr(whitening, "MAX_IMAGES", 10)
    monkeypatch.setattr(whitening, "covariance", lambda x: shapes.append(x.shape) or np.eye(12))
    for size in (16, 32, 64, 256):
        directions(np.zeros((40, size, size, 3), np.uint8), NORMALIZE)
    assert [shape[0] for shape in shapes] == [10, 10, 2, 1]


@pytest.mark.parametrize("way", ["jit", "pmap"])
def test_a_run_starts_with_the_directions_and_keeps_them(way):
    config = get_config()
    config.parallel = way
    config.model.update(stem="whitening", block="pool", blocks=(1,), widths=(4,))
    config.data.update(train_examples=64, policy="crop(4)|normalize(cifar10)")
    config.train.update(batch_size=32, ema_decay=0.9)
    run = Run(complete(config))
    state = run.fresh_state()
    expected = directions(run.data.train.images, NORMALIZE)
    np.testing.assert_array_equal(state.batch_stats["stem_whitening"]["kernel"], expected)
    assert not np.any(state.params["stem_whitening"]["bias"])
    state, totals, _ = run.advance(0)(state, run.parallel.replicate(Totals.zero()), 1)
    assert int(totals.nonfinite_step) == -1
    assert np.any(state.params["stem_whitening"]["bias"])
    for statistics in (state.batch_stats, state.average["batch_stats"]):
        np.testing.assert_array_equal(statistics["stem_whitening"]["kernel"], expected)


def test_other_stems_have_no_statistics_before_training(images):
    assert models.statistics(ResNet((1,), (4,)), images, NORMALIZE) == {}


def test_every_stage_halves_the_image_after_a_whitening_stem():
    rows = layers.layers(ResNet((1, 1), (4, 8), stem="whitening", block="pool"), (32, 32, 3))
    stem = rows[0]
    assert (stem.kind, stem.shape, stem.parameters, stem.flops) == ("Whitening", (31, 31, 24), 24, 2 * 288 * 31 * 31)
    assert [row.shape for row in rows if row.kind == "PoolBlock"] == [(15, 15, 4), (7, 7, 8)]
