"""The results are those of PyTorch in golden/*.npz, which python -m benchmarks.fidelity --write has made."""

import jax
import numpy as np
import pytest

from benchmarks.fidelity import libraries, losses, networks, optimizers, relative, schedules, value_by_value
from resnet_flax.models.resnet import ResNet
from resnet_flax.models.torch_weights import to_torch
from tests.goldens import golden


def below(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names start with "PREFIX/", without it."""
    return {name[len(prefix) + 1 :]: array for name, array in arrays.items() if name.startswith(f"{prefix}/")}


@pytest.mark.parametrize("variant", networks.NARROW)
def test_network(variant):
    expected = below(golden("networks"), variant)
    results = networks.ours(
        networks.NARROW[variant],
        below(expected, "weights"),
        expected["images"],
        expected["labels"],
        networks.SMOOTHING,
    )
    measured = [name for name in expected if name.partition("/")[0] in networks.MEASURES]
    assert len(measured) > 20
    far = {name: gap for name in measured if (gap := relative(np.asarray(results[name]), expected[name])) > 1e-4}
    assert not far


@pytest.mark.parametrize(("method", "tolerance"), [("mixup", 1e-6), ("cutmix", 0), ("ricap", 0)])
def test_mixed_batch_is_that_of_torchvision_or_the_paper(method, tolerance):
    """Given the same draw, of CutMix also boxes that are clipped, empty, or the whole image, of RICAP such patches."""
    images, labels = losses.batch()
    for number, draw in enumerate(losses.draws(8)[method]):
        expected = below(golden("losses"), f"{method} {number}")
        image, targets = losses.ours(images, labels, draw)
        np.testing.assert_allclose(image[:2, ..., 0], expected["images"], rtol=0, atol=tolerance)
        np.testing.assert_allclose(targets, expected["targets"], rtol=0, atol=1e-7)


def test_losses_of_soft_targets_and_of_a_teacher():
    expected = below(golden("losses"), "losses")
    found = losses.our_losses(*losses.logits_and_targets())
    assert found.keys() == expected.keys()
    assert not {name: gap for name in expected if (gap := relative(found[name], expected[name])) > 1e-6}


@pytest.mark.parametrize("case", optimizers.CASES)
def test_optimizer(case):
    arrays = golden("optimizers")
    gradients, expected = below(arrays, "gradients"), below(arrays, case)
    results = optimizers.ours(
        optimizers.CASES[case][0],
        below(arrays, "weights"),
        lambda _, step: {name: sequence[step] for name, sequence in gradients.items()},
    )
    assert results.keys() == expected.keys()
    far = {name: gap for name in expected if (gap := relative(results[name], expected[name])) > 1e-6}
    assert not far


@pytest.mark.parametrize("per", ["epoch", "step"])
@pytest.mark.parametrize("case", schedules.CASES)
def test_schedule(case, per):
    expected = golden("schedules")[f"{case}/{per}"]
    np.testing.assert_allclose(schedules.ours(schedules.CASES[case], per, 3), expected, rtol=0, atol=1e-7)


def test_schedule_of_report_004_is_its_log():
    rates = schedules.ours(schedules.CASES["warmup_cosine (report 004)"], "epoch", 1)[:, 0]
    for epoch, rate in schedules.LOGGED.items():
        assert rates[epoch] == pytest.approx(rate, abs=1e-8)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("gradient/layer1.0.downsample.0.weight", "gradient/layer1.0.shortcut.0.weight"),
        ("fc.bias", "linear.bias"),
        ("running/stages.2.blocks.1.norm2.running_mean", "running/layer3.1.bn2.running_mean"),
        ("stages.0.blocks.0.downsample.conv.weight", "layer1.0.shortcut.0.weight"),
        ("stem.conv.weight", "conv1.weight"),
        ("norm.weight", "bn.weight"),
        ("gradient/head.fc.bias", "gradient/linear.bias"),
    ],
)
def test_names_of_timm(theirs, ours):
    assert libraries.our_names({theirs: np.zeros(3)}).keys() == {ours}


def test_a_last_layer_of_timm_that_is_a_convolution():
    assert libraries.our_names({"head.fc.weight": np.zeros((10, 5, 1, 1))})["linear.weight"].shape == (10, 5)


def test_nothing_of_the_golden_files_is_left_out():
    assert {name.split("/")[0] for name in golden("networks")} == set(networks.NARROW)
    assert {name.split("/")[0] for name in golden("losses")} == {
        "losses",
        *(f"{method} {number}" for method in ("mixup", "cutmix", "ricap") for number in range(8)),
    }
    assert {name.split("/")[0] for name in golden("optimizers")} == {"weights", "gradients", *optimizers.CASES}
    assert {name.split("/")[0] for name in golden("schedules")} == set(schedules.CASES)


def test_the_table_counts_every_value_that_differs_and_shows_the_worst():
    theirs = np.full((4, 5), 250, np.uint8)
    ours = theirs.copy()
    ours[1, 2:4] = 251, 7
    row = value_by_value("blend", ours, theirs)
    assert [cell.strip() for cell in str(row).split("|")[2:-1]] == ["20", "1.00e-01", "2.43e+02", "0e+00", "NO"]
    assert value_by_value("same", theirs, theirs).ok


@pytest.mark.parametrize(("kernel_init", "gain"), [("torch", 1 / 3), ("he_normal", 2.0)])
def test_initial_weights_have_the_spread_of_pytorch(kernel_init, gain):
    model = ResNet((1, 1), (32, 48), kernel_init=kernel_init)
    weights = to_torch(model.init(jax.random.key(0), np.zeros((1, 8, 8, 3)), train=False))
    for tensor in weights.values():
        if tensor.ndim > 1:
            limit = tensor[0].size ** -0.5  # 1 / sqrt(fan in)
            assert tensor.std() == pytest.approx(gain**0.5 * limit, rel=4 / tensor.size**0.5)
            assert abs(tensor.mean()) < 4 * tensor.std() / tensor.size**0.5
            assert (abs(tensor).max() <= limit) == (kernel_init == "torch")
    assert abs(weights["linear.bias"]).max() <= 48**-0.5
    assert np.unique(weights["linear.bias"]).size == 10
