"""The automatic policies: each operation is Pillow's, and each is drawn as often as it should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from resnet_flax.data.augment import autoaugment, backends, draws, pixels
from tests.goldens import golden

SIZE = (32, 32)
N = 10_000


OPERATIONS = [key.split("/")[0] for key in golden("augmentation") if key.startswith("operation ")]
MAGNITUDES = [key for key in golden("augmentation") if key.startswith("magnitudes ")]


def test_the_golden_file_has_every_operation():
    drawn = {text.split()[0] for pair in autoaugment.CIFAR10 for text in pair.split(", ")} | set(autoaugment.NAMES)
    assert {name.split()[1] for name in OPERATIONS} == drawn
    assert len(MAGNITUDES) == 13 + 2 * len(autoaugment.NAMES)


@pytest.mark.parametrize("key", MAGNITUDES)
def test_magnitudes_are_torchvisions(key):
    _, policy, name = key.split()
    bins, wide = {"autoaugment": (10, False), "rand_augment": (31, False), "trivial_augment": (31, True)}[policy]
    np.testing.assert_array_equal(autoaugment.magnitudes(name, bins, SIZE, wide), golden("augmentation")[key])


def test_the_sixteenth_translation_of_trivial_augment_is_by_15_pixels():
    [right, *_] = autoaugment.signed("TranslateX", autoaugment.magnitudes("TranslateX", 31, SIZE, wide=True)[15], SIZE)
    assert right.matrix == (1.0, 0.0, 15, 0.0, 1.0, 0.0)


def test_factors_of_brightness_are_torchvisions_float32():
    magnitude = autoaugment.magnitudes("Brightness", 10, SIZE)[6]
    [darker, lighter] = autoaugment.table(autoaugment.signed("Brightness", magnitude, SIZE)).amount
    assert darker == np.float32(1) - np.float32(0.6) != np.float32(0.4)
    assert lighter == np.float32(1.6)


@pytest.mark.parametrize("key", OPERATIONS)
def test_an_operation_is_pillows(key):
    arrays = golden("augmentation")
    _, name, magnitude = key.split()
    images = arrays["images"]
    table = autoaugment.table(
        [autoaugment.operation(name, float(magnitude), images.shape[1:3]), autoaugment.Operation()]
    )
    ours = autoaugment.apply(np, images, table, np.zeros(len(images), np.int32))
    np.testing.assert_array_equal(ours, arrays[f"{key}/expected"])
    assert np.any(ours != images) == (name != "Identity")


def test_each_image_gets_its_own_operation():
    images = golden("augmentation")["images"]
    names = ["Rotate", "Brightness", "Sharpness", "Equalize", "Identity"]
    rows = [autoaugment.operation(name, 0.5, images.shape[1:3]) for name in names]
    index = np.array([3, 1, 4, 2], np.int32)
    mixed = autoaugment.apply(np, images, autoaugment.table(rows), index)
    for image, result, number in zip(images, mixed, index, strict=True):
        alone = autoaugment.apply(np, image[None], autoaugment.table([rows[number]]), np.zeros(1, np.int32))
        assert np.array_equal(alone[0], result)


def drawn_rows(monkeypatch, policy, *arguments):
    """(table, drawn rows (N,)) of every application."""
    applied = []

    def spy(np, images, operations, index):
        applied.append((operations, index))
        return images

    monkeypatch.setattr(autoaugment, "apply", spy)
    policy(np, np.zeros((N, *SIZE, 0), np.uint8), draws.Draws(np, draws.keys(np, 0, 0, np.arange(N)), None), *arguments)
    return applied


def test_autoaugment_draws_sub_policies_signs_and_probabilities(monkeypatch):
    (_, first), (_, second) = drawn_rows(monkeypatch, autoaugment.autoaugment)
    for slot, index in enumerate((first, second)):
        chances = np.repeat([float(pair.split(", ")[slot].split()[1]) for pair in autoaugment.CIFAR10], 2)
        expected = np.append(chances, 2 * (25 - chances.sum() / 2)) / 50 * N
        counts = np.bincount(index, minlength=51)
        assert np.all(counts[expected == 0] == 0)
        assert stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 1e-3
    both = (first < 50) & (second < 50)
    assert np.array_equal(first[both] // 2, second[both] // 2)  # one sub-policy
    assert stats.chi2_contingency(np.histogram2d(first[both] % 2, second[both] % 2, 2)[0]).pvalue > 1e-3  # own signs


def test_autoaugment_has_the_magnitudes_of_its_paper(monkeypatch):
    tables = [operations for operations, _ in drawn_rows(monkeypatch, autoaugment.autoaugment)]
    # Sub-policy 1: Rotate 0.7 2, then TranslateX 0.3 9; sub-policy 3: ShearY 0.5 8; 5: Posterize 0.3 7; 18: Solarize 8.
    matrices = [operations.matrix / 65536 for operations in tables]
    np.testing.assert_allclose(matrices[0][3, [0, 1]], [np.cos(np.pi / 27), -np.sin(np.pi / 27)], atol=1e-5)
    assert matrices[1][2:4, 2].tolist() == [14 + 0.5, -14 + 0.5]  # 150 / 331 * 32 = 14.5, and half a pixel
    np.testing.assert_allclose(matrices[0][6:8, 3], [-0.8 / 3, 0.8 / 3], atol=1e-5)
    assert tables[1].amount[10] == 2.0 ** (8 - 5)
    np.testing.assert_allclose(tables[1].amount[36], 255 / 9, rtol=1e-6)


def test_trivial_augment_draws_operations_and_strengths_alike(monkeypatch):
    [(operations, index)] = drawn_rows(monkeypatch, autoaugment.trivial_augment)
    assert len(operations.formula) == 14 * 31 * 2
    assert stats.chisquare(np.bincount(index, minlength=14 * 31 * 2)).pvalue > 1e-3


def test_rand_augment_draws_n_operations_alike(monkeypatch):
    applied = drawn_rows(monkeypatch, autoaugment.rand_augment, 3, 30)
    assert len(applied) == 3
    for operations, index in applied:
        assert stats.chisquare(np.bincount(index // 2, minlength=14)).pvalue > 1e-3
        assert operations.matrix[2:4, 1].tolist() == [round(-0.3 * 65536), round(0.3 * 65536)]
    assert stats.chi2_contingency(np.histogram2d(applied[0][1] // 2, applied[1][1] // 2, 14)[0]).pvalue > 1e-3


@pytest.mark.parametrize("share", [0, 0.1, 0.6, 1])
def test_a_formula_for_few_is_right_for_any_number(share):
    tf_numpy = pytest.importorskip("resnet_flax.data.augment.tf_numpy")
    images = np.random.default_rng(0).integers(0, 200, (20, 32, 32, 3)).astype(np.uint8)
    chosen = np.random.default_rng(1).permutation(20) < 20 * share
    expected = np.where(chosen[:, None, None, None], pixels.equalize(np, images), images)
    assert np.any(expected != images) == (share > 0)

    def few(namespace):
        return lambda chosen, x: backends.for_few(namespace, chosen, lambda x: pixels.equalize(namespace, x), x)

    for result in (few(np), jax.jit(few(jnp)), tf_numpy.jit(few(tf_numpy))):
        assert np.array_equal(result(chosen, images), expected)


def test_unknown_operations_are_refused():
    with pytest.raises(ValueError, match="Blur"):
        autoaugment.operation("Blur", 1.0, SIZE)
