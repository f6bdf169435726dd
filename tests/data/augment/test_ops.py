"""Policies: their text, the order of their operations, and the same images in every namespace."""

from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from resnet_flax.data.augment import draws, pixels
from resnet_flax.data.augment.ops import OPS
from resnet_flax.data.augment.policy import Policy
from resnet_flax.data.augment.statistics import channel_statistics
from resnet_flax.errors import UserError

# The augmentation of the reports, in their order.
RECIPES = {
    name: import_module(f"configs.{name}").get_config().data.policy
    for name in ("resnet_443", "resnet_2322", "preact", "resnet18_w42", "resnet_353")
}


def test_resnet_353_is_normalised_as_in_the_published_code_of_its_report():
    mean, deviation = Policy(RECIPES["resnet_353"]).normalization
    assert (mean, deviation) == ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))


@pytest.fixture(scope="module")
def images():
    """Smooth random colours with edges, so that interpolation, contrast and histograms have something to do."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (32, 8, 8, 3)).repeat(4, 1).repeat(4, 2)
    return np.clip(coarse + random.integers(-20, 20, coarse.shape), 0, 255).astype(np.uint8)


def chance(n, epoch=0):
    """Return the keys and the turns of `n` examples, which a policy takes beside their images."""
    return draws.keys(np, 0, epoch, np.arange(n)), draws.turns(np, 0, epoch, np.arange(n))


# What each operation does to one image, on whole batches with drawn parameters.


@pytest.mark.parametrize(("text", "mode"), [("crop(4)", "constant"), ("crop(4,reflect)", "reflect")])
def test_crop_cuts_a_window_out_of_the_padded_image(images, text, mode):
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)), mode)
    cropped = np.rint(Policy(text)(np, images, *chance(32)) * 255)
    places = []
    for image, source in zip(cropped, padded, strict=True):
        windows = [(y, x) for y in range(9) for x in range(9) if np.all(source[y : y + 32, x : x + 32] == image)]
        assert len(windows) == 1
        places += windows
    assert {0, 8} <= {y for y, _ in places} and {0, 8} <= {x for _, x in places}


def test_flip_mirrors_half_of_the_images(images):
    many = np.concatenate([images] * 20)
    flipped = np.rint(Policy("flip")(np, many, *chance(640)) * 255)
    mirrored = np.all(flipped == many[:, :, ::-1], axis=(1, 2, 3))
    assert np.all(mirrored | np.all(flipped == many, axis=(1, 2, 3)))
    assert 0.44 < np.mean(mirrored) < 0.56


def test_reflection_continues_however_far():
    line = np.arange(5, dtype=np.int32)
    np.testing.assert_array_equal(pixels.mirrored(np, np.arange(-17, 5 + 17), 5), np.pad(line, 17, "reflect"))


def test_alternating_flip_mirrors_each_image_every_other_epoch(images):
    many = np.concatenate([images] * 20)
    epochs = [np.rint(Policy("flip(alternating)")(np, many, *chance(640, epoch)) * 255) for epoch in range(4)]
    mirrored = [np.all(flipped == many[:, :, ::-1], axis=(1, 2, 3)) for flipped in epochs]
    for flipped, which in zip(epochs, mirrored, strict=True):
        np.testing.assert_array_equal(flipped, np.where(which[:, None, None, None], many[:, :, ::-1], many))
    assert 0.44 < np.mean(mirrored[0]) < 0.56
    assert np.all(mirrored[0] != mirrored[1])
    assert np.all(mirrored[0] == mirrored[2]) and np.all(mirrored[1] == mirrored[3])


def test_color_jitter_draws_factors_and_orders(monkeypatch):
    drawn = []
    monkeypatch.setattr(pixels, "adjust", lambda np, images, kind, factor: drawn.append((kind, factor)) or images)
    n = 10_000
    Policy("color_jitter(0.2,0.4,0.6)")(np, np.zeros((n, 1, 1, 3), np.uint8), *chance(n))
    kinds, factors = (np.stack(column, 1) for column in zip(*drawn, strict=True))
    assert stats.chisquare(np.unique(kinds, axis=0, return_counts=True)[1]).pvalue > 1e-3 and kinds.shape == (n, 3)
    for kind, strength in enumerate((0.2, 0.4, 0.6)):
        uniform = stats.uniform(1 - strength, 2 * strength)
        assert stats.kstest(factors[kinds == kind], uniform.cdf).pvalue > 1e-3


def test_random_erasing_draws_areas_ratios_and_places(monkeypatch):
    boxes = []
    monkeypatch.setattr(pixels, "erase", lambda np, images, *box: boxes.append(box) or images)
    n = 10_000
    Policy("random_erasing(0.2,0.02,0.1,value=1)")(np, np.zeros((n, 32, 32, 3), np.uint8), *chance(n))
    top, left, height, width, value = boxes[0]
    hit = height > 0
    assert value == 1 and stats.binomtest(int(hit.sum()), n, 0.2).pvalue > 1e-3
    area, ratio = (height * width)[hit] / 1024, (height / width)[hit]
    assert abs(area.mean() - 0.06) < 0.003 and area.min() > 0.01 and area.max() < 0.115
    assert abs(np.log(ratio).mean() - np.log(0.3 * 3.3) / 2) < 0.06 and ratio.min() < 0.4 and ratio.max() > 2.5
    assert np.all(top[hit] + height[hit] <= 32) and np.all(left[hit] + width[hit] <= 32)
    assert stats.kstest((top[hit] + 0.5) / (33 - height[hit]), "uniform").pvalue > 1e-3


@pytest.mark.parametrize(("text", "expected"), [("random_erasing(1,0.3,0.3,value=1)", 0.3), ("cutout(8)", None)])
def test_erasing_acts_on_normalised_images(images, text, expected):
    policy = Policy("normalize(half)|" + text)
    plain, erased = policy.normalize(np, images), policy(np, images, *chance(len(images)))
    changed = np.any(erased != plain, axis=3)
    assert np.all(erased[changed] == (1 if expected else 0))
    if expected:
        assert np.allclose(changed.mean(axis=(1, 2)), expected, atol=0.03)
    else:
        assert changed.sum(axis=(1, 2)).max() == 64 and changed.sum(axis=(1, 2)).min() >= 16


@pytest.mark.parametrize(("text", "share"), [("sharpness(2,0.2)", 0.2), ("sharpness(2,1)", 1.0), ("sharpness(2,0)", 0)])
def test_sharpness_has_its_probability(images, text, share):
    many = np.concatenate([images] * 20)
    changed = np.any(Policy(text)(np, many, *chance(640)) != Policy(text).normalize(np, many), axis=(1, 2, 3))
    assert abs(changed.mean() - share) < 0.05


def test_rotation_angles_are_uniform(monkeypatch):
    angles = []
    original = pixels.affine_matrix
    monkeypatch.setattr(pixels, "affine_matrix", lambda *args: angles.append(args[2]) or original(*args))
    Policy("rotate(15)")(np, np.zeros((10_000, 2, 2, 3), np.uint8), *chance(10_000))
    assert stats.kstest(angles[0], stats.uniform(-15, 30).cdf).pvalue > 1e-3


def test_translate_moves_by_whole_pixels_up_to_the_fraction(monkeypatch):
    moves = []
    monkeypatch.setattr(pixels, "shift", lambda np, images, down, right: moves.append((down, right)) or images)
    Policy("translate(0.1)")(np, np.zeros((10_000, 32, 32, 3), np.uint8), *chance(10_000))
    # round(U(-3.2, 3.2)): the outermost are rarer.
    expected = np.array([0.7, 1, 1, 1, 1, 1, 0.7]) / 6.4 * 10_000
    for move in moves[0]:
        assert stats.chisquare(np.bincount(move + 3, minlength=7), expected).pvalue > 1e-3


def test_statistics_are_those_of_the_pixels():
    images = np.random.default_rng(0).integers(0, 256, (2100, 3, 5, 3)).astype(np.uint8)
    images[..., 1] //= 3
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-12)
    assert channel_statistics(np.full((2, 4, 4, 3), 51, np.uint8)) == ([0.2] * 3, [1.0] * 3)


def test_auto_becomes_numbers_and_the_rest_of_the_policy_stays():
    policy = Policy("crop(4)|normalize(auto)|cutout(8)")
    assert policy.normalization is None
    settled = policy.normalized_by([0.49139968, 0, 1], [0.24703233, 0.001, 0.5])
    assert settled == "crop(4)|normalize(0.4914,0,1,0.247,0.001,0.5)|cutout(8)"
    assert Policy(settled).normalization == ((0.4914, 0, 1), (0.247, 0.001, 0.5))


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
    assert policy.normalize(np, images).dtype == np.float32
    np.testing.assert_allclose(policy.normalize(np, images), expected, atol=1e-5)
    np.testing.assert_allclose(Policy("flip|" + text if text else "flip").normalize(np, images), expected, atol=1e-5)


# One meaning in every namespace.

POLICIES = [
    "rotate(15)",
    "rotate(180,bilinear)",
    "translate(0.1)",
    "affine(15,0.1,0.8,1.2,10)",
    "color_jitter(0.2,0.2,0.2)",
    "sharpness(2,0.5)",
    "trivial_augment",
    "rand_augment(1,20)",
    "random_erasing(0.5,0.02,0.1,value=1)",
    "random_erasing(1,0.2,1,value=1)",
    "cutout(8)",
    "crop(2,reflect)|flip(alternating)",
    *RECIPES.values(),
]


def everywhere(text, images):
    tf_numpy = pytest.importorskip("resnet_flax.data.augment.tf_numpy")
    policy, batch = Policy(text), (images, *chance(len(images)))
    return {
        "numpy": policy(np, *batch),
        "jax": jax.jit(lambda *batch: policy(jnp, *batch))(*batch),
        "tensorflow": policy(tf_numpy, *batch),
    }


@pytest.mark.parametrize("text", POLICIES)
def test_numpy_jax_and_tensorflow_give_the_same_images(images, text):
    results = everywhere(text, images)
    for result in results.values():
        assert result.dtype == np.float32 and result.shape == images.shape
        # The pixels are equal; only normalisation is a product and a sum, which a compiler may fuse.
        np.testing.assert_allclose(result, results["numpy"], rtol=0, atol=1e-6)
    assert np.mean(np.abs(results["numpy"] - Policy(text).normalize(np, images)) > 1e-3) > 0.01


@pytest.mark.parametrize("text", [*RECIPES.values(), "trivial_augment|random_erasing(1)"])
def test_an_image_does_not_depend_on_its_batch(images, text):
    policy, batch = Policy(text), (images, *chance(len(images)))
    some = policy(np, *(part[5:9] for part in batch))
    np.testing.assert_allclose(some, policy(np, *batch)[5:9], atol=1e-6)


# The text of a policy.


def test_every_operation_is_in_a_policy_above():
    assert set(OPS) == {step.name for text in POLICIES for step in Policy(text).before + Policy(text).after}


@pytest.mark.parametrize("text", RECIPES.values())
def test_recipes_keep_their_order(text):
    names = [part.split("(")[0] for part in text.split("|")]
    steps = [part.split("(")[0] for part in str(Policy(text)).split("|")]
    assert steps == names and str(Policy(str(Policy(text)))) == str(Policy(text))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", ""),
        ("flip", "flip"),
        (" crop( 4 ) | flip() |normalize( half )", "crop(4)|flip|normalize(half)"),
        ("crop(pad=4.0)", "crop(4)"),
        ("flip(random)|crop(4,constant)|crop(2,reflect)", "flip|crop(4)|crop(2,reflect)"),
        ("rotate(interpolation=bilinear, degrees=15)", "rotate(15,bilinear)"),
        ("rotate(15,nearest)|sharpness(2)", "rotate(15)|sharpness(2)"),
        ("color_jitter(.1,.1,.1,.05)", "color_jitter(0.1,0.1,0.1,0.05)"),
        ("rand_augment", "rand_augment"),
        ("rand_augment(3)|cutout(16)", "rand_augment(3)|cutout(16)"),
        ("rand_augment(m=3)", "rand_augment(m=3)"),
        ("normalize(0.4914,.4822,0.4465,247e-3,0.243,0.261)", "normalize(0.4914,0.4822,0.4465,0.247,0.243,0.261)"),
        ("normalize( auto )", "normalize(auto)"),
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
        ("flip|crop", "crop", "pad is missing: write crop(pad,mode=constant)"),
        ("flip|crop(4,5)", "5", "mode must be constant or reflect"),
        ("flip|crop(4,reflect,5)", "crop(4,reflect,5)", "too many arguments: write crop(pad,mode=constant)"),
        ("flip|crop(1.5)", "1.5", "whole number from 0 to 64"),
        ("flip|crop(-1)", "-1", "whole number from 0 to 64"),
        ("flip|crop(nan)", "nan", "whole number from 0 to 64"),
        ("flip|crop(1e999)", "1e999", "whole number from 0 to 64"),
        ("flip|crop(four)", "four", "whole number from 0 to 64"),
        ("flip|crop(padding=4)", "padding", "write crop(pad,mode=constant)"),
        ("flip|crop(pad=4, pad=5)", "pad=5", "crop has pad twice"),
        ("normalize(half)|crop(4)", "crop(4)", "put it before normalize"),
        ("normalize(half)|normalize(half)", "normalize(half)", "normalize may appear only once"),
        ("crop(4)|cutout(8)|flip", "flip", "put it before cutout"),
        ("random_erasing|normalize(half)", "normalize(half)", "put normalize before it"),
        ("rotate(200)", "200", "from 0 to 180"),
        ("rotate(15,cubic)", "cubic", "nearest or bilinear"),
        ("rotate(15,method=cubic)", "method", "write rotate(degrees,interpolation=nearest)"),
        ("affine(5,scale_low=2)", "affine(5,scale_low=2)", "scale_low must not exceed scale_high"),
        ("color_jitter(0.1,0.1)", "color_jitter(0.1,0.1)", "saturation is missing"),
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
    pieces = [*OPS, "normalize", *"()|,=.", "0.1", "4", "-", "e", "half", "nearest", "\n", "\0", "é", " "]
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
