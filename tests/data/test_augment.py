"""Policies: their text, the order of their operations, and the same images in every namespace."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_flax.data import augment, draws
from resnet_flax.data.augment import Policy
from resnet_flax.errors import UserError


@pytest.fixture(scope="module")
def images():
    """Smooth random colours with edges, so that interpolation, contrast and histograms have something to do."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (32, 8, 8, 3)).repeat(4, 1).repeat(4, 2)
    return np.clip(coarse + random.integers(-20, 20, coarse.shape), 0, 255).astype(np.uint8)


def keys(n, epoch=0):
    return draws.keys(np, 0, epoch, np.arange(n))


# What each operation does to one image, on whole batches with drawn parameters.


def test_crop_cuts_a_window_out_of_the_padded_image(images):
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    cropped = np.rint(Policy("crop(4)")(np, images, keys(32)) * 255)
    places = []
    for image, source in zip(cropped, padded, strict=True):
        windows = [(y, x) for y in range(9) for x in range(9) if np.all(source[y : y + 32, x : x + 32] == image)]
        assert len(windows) == 1
        places += windows
    assert {0, 8} <= {y for y, _ in places} and {0, 8} <= {x for _, x in places}


def test_flip_mirrors_half_of_the_images(images):
    many = np.concatenate([images] * 20)
    flipped = np.rint(Policy("flip")(np, many, keys(640)) * 255)
    mirrored = np.all(flipped == many[:, :, ::-1], axis=(1, 2, 3))
    assert np.all(mirrored | np.all(flipped == many, axis=(1, 2, 3)))
    assert 0.44 < np.mean(mirrored) < 0.56


@pytest.mark.parametrize(
    ("text", "mean", "std"),
    [
        ("normalize(cifar10)", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        ("normalize(half)", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("normalize(0.1,0.2,0.3,1,2,3)", (0.1, 0.2, 0.3), (1, 2, 3)),
        ("", (0, 0, 0), (1, 1, 1)),
    ],
)
def test_normalize(images, text, mean, std):
    policy = Policy(text)
    assert policy.normalization == (mean, std)
    expected = (images / 255 - mean) / std
    assert policy.plain(np, images).dtype == np.float32
    np.testing.assert_allclose(policy.plain(np, images), expected, atol=1e-5)
    np.testing.assert_allclose(Policy("flip|" + text if text else "flip").plain(np, images), expected, atol=1e-5)


# One meaning in every namespace.

POLICIES = ["crop(4)", "flip", "crop(4)|flip|normalize(half)"]


def everywhere(text, images, keys):
    tf_numpy = pytest.importorskip("resnet_flax.data.tf_numpy")
    policy = Policy(text)
    return {
        "numpy": policy(np, images, keys),
        "jax": jax.jit(lambda *batch: policy(jnp, *batch))(images, keys),
        "tensorflow": tf_numpy.jit(lambda *batch: policy(tf_numpy, *batch))(images, keys),
    }


@pytest.mark.parametrize("text", POLICIES)
def test_numpy_jax_and_tensorflow_give_the_same_images(images, text):
    results = everywhere(text, images, keys(len(images)))
    for result in results.values():
        assert result.dtype == np.float32 and result.shape == images.shape
        np.testing.assert_allclose(result, results["numpy"], atol=1e-5)
    assert np.mean(np.abs(results["numpy"] - Policy(text).plain(np, images)) > 1e-3) > 0.01


@pytest.mark.parametrize("text", POLICIES)
def test_an_image_does_not_depend_on_its_batch(images, text):
    policy = Policy(text)
    whole = policy(np, images, keys(len(images)))
    np.testing.assert_allclose(policy(np, images[5:9], keys(len(images))[5:9]), whole[5:9], atol=1e-6)


# The text of a policy.


def test_every_operation_is_tested_above():
    assert set(augment.OPS) == {name for name in augment.OPS if any(name in text for text in POLICIES)}


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", ""),
        ("flip", "flip"),
        (" crop( 4 ) | flip() |normalize( half )", "crop(4)|flip|normalize(half)"),
        ("crop(pad=4.0)", "crop(4)"),
        ("normalize(0.4914,.4822,0.4465,247e-3,0.243,0.261)", "normalize(0.4914,0.4822,0.4465,0.247,0.243,0.261)"),
    ],
)
def test_canonical_text(text, canonical):
    assert str(Policy(text)) == canonical
    assert str(Policy(canonical)) == canonical


MARK = "^"


@pytest.mark.parametrize(
    ("text", "marked", "hint"),
    [
        ("crop(4)|flp", "flp", "did you mean 'flip'?"),
        ("crop(4)|Flip", "Flip", "did you mean 'flip'?"),
        ("crop(4", "crop(4", "name(argument,...)"),
        ("crop(4)|", "", "name(argument,...)"),
        ("crop(4)flip", "crop(4)flip", "name(argument,...)"),
        ("flip|crop(4))", "4)", "whole number from 0 to 64"),
        ("flip|crop", "crop", "pad is missing: write crop(pad)"),
        ("flip|crop(4,5)", "crop(4,5)", "too many arguments: write crop(pad)"),
        ("flip|crop(1.5)", "1.5", "whole number from 0 to 64"),
        ("flip|crop(-1)", "-1", "whole number from 0 to 64"),
        ("flip|crop(nan)", "nan", "whole number from 0 to 64"),
        ("flip|crop(1e999)", "1e999", "whole number from 0 to 64"),
        ("flip|crop(four)", "four", "whole number from 0 to 64"),
        ("flip|crop(padding=4)", "padding", "write crop(pad)"),
        ("flip|crop(pad=4, pad=5)", "pad=5", "crop has pad twice"),
        ("normalize(half)|crop(4)", "crop(4)", "put it before normalize"),
        ("normalize(half)|normalize(half)", "normalize(half)", "normalize stands once"),
        ("normalize(cifar)", "normalize(cifar)", "normalize(cifar10)"),
        ("normalize(1,2,3)", "normalize(1,2,3)", "six numbers"),
        ("normalize(0,0,0,1,1,0)", "0", "std must be"),
    ],
)
def test_a_wrong_policy_is_shown_with_the_bad_part_marked(text, marked, hint):
    with pytest.raises(UserError) as caught:
        Policy(text)
    why, shown, marks = str(caught.value).split("\n")
    assert hint in why and shown == "  " + text
    start, end = marks.index(MARK) - 2, marks.rindex(MARK) - 1
    assert text[start:end] == marked and set(marks) <= {" ", MARK}


def test_garbage_is_refused_or_read_but_never_crashes():
    random = np.random.default_rng(0)
    pieces = [*augment.OPS, "normalize", *"()|,=.", "0.1", "4", "-", "e", "half", "nearest", "\n", "\0", "é", " "]
    for _ in range(3000):
        text = "".join(random.choice(pieces, random.integers(1, 12)))
        try:
            assert str(Policy(str(Policy(text)))) == str(Policy(text))
        except UserError as mistake:
            assert len(str(mistake).split("\n")) == 3


@pytest.mark.parametrize("text", ["|" * 5000, "(" * 5000, "crop(" * 1000, None, 3, b"flip"])
def test_long_texts_and_other_types_are_refused(text):
    with pytest.raises(UserError, match="a policy"):
        Policy(text)
