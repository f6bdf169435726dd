"""Pixel formulas give the same values as Pillow, all of them, in every array namespace."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from benchmarks.fidelity import augmentation
from resnet_flax.data.augment import autoaugment, draws, pixels
from resnet_flax.data.augment.policy import NORMALIZATIONS
from tests.goldens import golden

GOLDEN = golden("augmentation")
CASES = {case.what: case for case in augmentation.cases(len(GOLDEN["images"]), reach=5)}


def in_every_namespace(formula, *arguments):
    """Compute formula(xp, *arguments) in NumPy, JAX and TensorFlow, compiled as in training."""
    tf_numpy = pytest.importorskip("resnet_flax.data.augment.tf_numpy")
    return {
        "numpy": formula(np, *arguments),
        "jax": jax.jit(partial(formula, jnp))(*arguments),
        "tensorflow": tf_numpy.jit(partial(formula, tf_numpy))(*arguments),
    }


def assert_equal_everywhere(expected, formula, *arguments):
    for namespace, ours in in_every_namespace(formula, *arguments).items():
        np.testing.assert_array_equal(ours, expected, err_msg=namespace)


def test_the_golden_file_has_every_case():
    cases = {name.rpartition("/")[0] for name in GOLDEN if not name.startswith(("operation", "normalize"))}
    assert cases - {""} == set(CASES)


@pytest.mark.parametrize("what", CASES)
def test_pixels_are_those_of_pillow(what):
    drawn = [GOLDEN[f"{what}/{i}"] for i in range(len(CASES[what].parameters))]
    ours = CASES[what].ours(np, GOLDEN["images"], *drawn)
    np.testing.assert_array_equal(ours, GOLDEN[f"{what}/expected"])
    assert np.any(ours != GOLDEN["images"])


@pytest.mark.parametrize("apart", [False, True], ids=["anywhere", "whole rows and columns"])
def test_pixels_are_picked_by_products_on_a_tpu_and_are_the_same(apart, monkeypatch):
    rng = np.random.default_rng(0)
    images = np.arange(4 * 16 * 12 * 3, dtype=np.uint8).reshape(4, 16, 12, 3)  # has every level
    rows, columns = (rng.integers(-4, size + 4, (4, 16, 12), np.int32) for size in (16, 12))
    if apart:
        rows, columns = rows[:, :, :1], columns[:, :1]
    gathered = in_every_namespace(pixels.pick, images, rows, columns)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    picked = jax.jit(partial(pixels.pick, jnp))
    assert "gather" not in picked.lower(images, rows, columns).as_text()
    np.testing.assert_array_equal(picked(images, rows, columns), gathered["numpy"])
    for namespace, theirs in gathered.items():
        np.testing.assert_array_equal(theirs, gathered["numpy"], err_msg=namespace)


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_normalised_pixels_are_those_of_torchvision(name):
    ours = pixels.standardize(np, GOLDEN["images"], *NORMALIZATIONS[name])
    np.testing.assert_allclose(ours, GOLDEN[f"normalize {name}/expected"], rtol=0, atol=1e-6)


def test_autocontrast_is_pillows_for_every_darkest_and_lightest_level():
    low, high = np.triu_indices(256, 1)
    images = np.clip(np.arange(256), low[:, None], high[:, None]).astype(np.uint8).reshape(-1, 3, 16, 16)
    images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))  # each channel has a pair of its own
    expected = [np.asarray(ImageOps.autocontrast(Image.fromarray(image))) for image in images]
    assert_equal_everywhere(np.stack(expected), pixels.autocontrast, images)


def factors():
    """Return every factor that the automatic policies can draw, some of color_jitter, and a few others: float32."""
    drawn = [
        1 + sign * autoaugment.magnitudes("Color", bins, (32, 32), wide)
        for bins, wide in ((10, False), (31, False), (31, True))
        for sign in (-1, 1)
    ]
    jitter = np.arange(0, 3 * 4096, 577) / 4096
    return np.concatenate([*drawn, jitter, [0.001, 0.07, 1 / 3, 3.3, 7.7, 10]]).astype(np.float32)


def test_blends_are_pillows_for_every_two_levels():
    degenerate, level = (x.astype(np.uint8)[None, ..., None] for x in np.mgrid[:256, :256])
    pair = [Image.fromarray(x[0, ..., 0]) for x in (degenerate, level)]
    expected = np.stack([np.asarray(Image.blend(*pair, float(factor)))[..., None] for factor in factors()])
    assert_equal_everywhere(expected, pixels.blend, degenerate, level, factors())


def test_contrast_of_a_large_image_has_its_exact_mean():
    image = np.full((1, 400, 400, 3), 200, np.uint8)
    image[:, :200] = 201
    image[0, 0, 0] = 200  # the mean is 200.499994
    expected = np.asarray(ImageEnhance.Contrast(Image.fromarray(image[0])).enhance(0.0))
    assert np.all(expected == 200)
    contrast, none = np.full(1, pixels.CONTRAST, np.int32), np.zeros(1, np.float32)
    assert_equal_everywhere(expected[None], pixels.adjust, image, contrast, none)


def test_every_hue_and_saturation_becomes_pillows():
    chroma, below = np.mgrid[:256, :256]
    levels = 255 - np.stack([0 * chroma, np.minimum(below, chroma), chroma])  # of the largest, middle, least channel
    colours = [levels[list(order)] for order in itertools.permutations(range(3))]
    value, least = np.mgrid[:256, :256]
    colours.append(np.stack([value, np.minimum(value, least), np.minimum(value, least)]))
    images = np.ascontiguousarray(np.stack(colours).astype(np.uint8).transpose(0, 2, 3, 1))
    steps = np.array([0, 41, -99, 200, -1, 7, 128], np.int32)
    expected = [augmentation.rotate_hue(*one) for one in zip(images, steps.tolist(), strict=True)]
    assert_equal_everywhere(np.stack(expected), pixels.rotate_hue, images, steps)


def test_hues_saturations_and_values_become_pillows_colours():
    hue, saturation, value = np.mgrid[:256, :256:3, :256].reshape(3, 256, -1)
    bands = [Image.fromarray(band.astype(np.uint8)) for band in (hue, saturation, value)]
    expected = np.asarray(Image.merge("HSV", bands).convert("RGB"))
    assert_equal_everywhere(expected[None], pixels.from_hsv, hue[None], saturation[None], value[None])


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("degrees", [15, 180])
def test_rotations_are_pillows_for_angles_all_over_the_range(degrees, interpolation):
    every = np.unique(draws.Draws(np, draws.keys(np, 0, 0, np.arange(2**18)), None).uniform(-degrees, degrees))
    assert len(every) > 30_000
    angles = np.concatenate([every[::16], np.float32([-90, -15, 0, 15, 30, 45, 90])])
    angles = angles[np.abs(angles) <= degrees]
    images = np.resize(augmentation.pictures(8), (len(angles), 32, 32, 3))
    expected = [augmentation.rotate(*one, interpolation) for one in zip(images, angles.tolist(), strict=True)]
    ours = partial(augmentation.ours_rotate, interpolation=interpolation)
    assert_equal_everywhere(np.stack(expected), ours, images, angles)
