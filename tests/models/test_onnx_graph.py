"""ONNX models answer like the networks that they were made of."""

import json
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

from resnet_flax.api import create
from resnet_flax.data.augment.policy import Policy
from resnet_flax.errors import UserError
from resnet_flax.models import NETWORKS, architecture
from resnet_flax.models.onnx_graph import to_onnx

SIDE = 16
NARROW = 8  # channels of every stage: the fewer shapes there are, the less is compiled
CLASSES = ("cat", "dog", "Käfer")
NORMALIZE = partial(Policy("normalize(cifar10)").normalize, jnp)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3)).astype(np.uint8)


def random_variables(model: nn.Module) -> dict:
    """Variables of the size of trained ones, among them statistics and scales that no initialisation has."""
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))
    rng = np.random.default_rng(1)

    def draw(leaf) -> np.ndarray:
        if leaf.ndim == 1:
            return rng.uniform(0.3, 1.2, leaf.shape).astype(np.float32)
        return (rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))).astype(np.float32)

    return jax.tree.map(draw, dict(shapes))


def run(content: bytes, images: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"images": images})[0]


def operations(content: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(content).graph.node]


def export(model: nn.Module, variables: dict, **keywords) -> tuple[bytes, np.ndarray]:
    """The ONNX model of a network, and what the network itself answers."""

    def logits(images):
        return model.apply(variables, NORMALIZE(images), **keywords)

    return to_onnx(logits, (SIDE, SIDE, 3), CLASSES), np.asarray(jax.nn.softmax(logits(IMAGES)))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_gives_the_same_probabilities(name):
    fields = architecture(name)
    small = dict(blocks=[min(count, 2) for count in fields["blocks"]], groups=min(fields["groups"], 2))
    model = create(name, len(CLASSES), **small, widths=[NARROW] * len(fields["blocks"]))
    content, expected = export(model, random_variables(model), train=False)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    np.testing.assert_allclose(run(content, IMAGES), expected, rtol=0, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 1e-3  # the answers depend on the images
    assert run(content, IMAGES[:1]).shape == (1, len(CLASSES))


def test_batchnorm_is_folded_into_every_convolution_before_it():
    basic = create("tiny", len(CLASSES), blocks=(1, 1), widths=(NARROW, NARROW))
    content, _ = export(basic, random_variables(basic), train=False)
    assert operations(content).count("BatchNormalization") == 1  # normalises the images
    preact = create("preact", len(CLASSES), blocks=(1, 1), widths=(NARROW, NARROW))
    content, _ = export(preact, random_variables(preact), train=False)
    assert operations(content).count("BatchNormalization") == 1 + 2  # what follows a sum has no convolution before it


def test_a_shortcut_that_keeps_every_pixel_there_is():
    """Every second pixel of one pixel is that pixel: a slice that takes nothing away."""
    model = create("tiny", len(CLASSES), shortcut="pad", blocks=(1,) * 5, widths=(NARROW,) * 5)
    content, expected = export(model, random_variables(model), train=False)
    np.testing.assert_allclose(run(content, IMAGES), expected, rtol=0, atol=1e-5)


def test_the_metadata_names_the_classes():
    model = create("tiny", len(CLASSES), blocks=(1,), widths=(NARROW,))
    content, _ = export(model, random_variables(model), train=False)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == list(CLASSES)
    (images,), (probabilities,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["n", SIDE, SIDE, 3])
    assert (probabilities.name, probabilities.shape) == ("probabilities", ["n", len(CLASSES)])


class Unusual(nn.Module):
    """Operations of residual networks that no network of the registry has."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3), feature_group_count=1, strides=2, padding=1)(x)
        y = nn.Conv(8, (3, 3), feature_group_count=4, kernel_dilation=2, padding=2)(x)
        squeezed = nn.relu(nn.Dense(4)(y.mean((1, 2), keepdims=True)))
        y = y * nn.sigmoid(nn.Dense(8)(squeezed))
        y = y * nn.tanh(nn.Dense(8)(y.max((1, 2))))[:, None, None, :]
        shortcut = jnp.pad(nn.avg_pool(x, (2, 2), (1, 1), "SAME"), [(0, 0), (0, 0), (0, 0), (2, 2)])[..., 2:10]
        pooled = nn.max_pool(y, (3, 3), (2, 2), [(1, 1), (1, 1)])
        y = nn.silu(y + jax.lax.square(shortcut)) - nn.softplus(1.0) / (2.0 + jnp.exp(x))
        windows = y.reshape(len(y), 4, 2, 4, 2, 8).mean((2, 4)) + pooled + jnp.arange(16.0).reshape(4, 4, 1)
        return nn.Dense(len(CLASSES))(windows.mean((1, 2)) / 5)


def test_blocks_of_other_networks_need_nothing_new():
    model = Unusual()
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))
    rng = np.random.default_rng(2)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 4, dict(shapes))
    content, expected = export(model, variables)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    np.testing.assert_allclose(run(content, IMAGES), expected, rtol=0, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 1e-3


def convolved(x, padding):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, jnp.ones((1, 1, 3, 3)), (1, 1), padding, dimension_numbers=layout)


def test_pixels_are_repeated_as_jax_repeats_them():
    def upsampled(images):
        x = NORMALIZE(images)
        n, height, width, channels = x.shape
        x = jnp.broadcast_to(x[:, :, None, :, None], (n, height, 2, width, 2, channels))
        return x.reshape(n, 2 * height, 2 * width, channels)[:, :3].mean((1, 2))

    found = run(to_onnx(upsampled, (SIDE, SIDE, 3), CLASSES[:3]), IMAGES)
    np.testing.assert_allclose(found, jax.nn.softmax(upsampled(IMAGES)), rtol=0, atol=1e-6)


def test_whole_numbers_are_not_computed_as_if_they_were_not():
    with pytest.raises(UserError, match="mul in uint8"):
        to_onnx(lambda images: (images * 2).astype(jnp.float32).mean((1, 2)), (SIDE, SIDE, 3), CLASSES[:3])


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda x: jnp.sort(x.mean((1, 2))), "sort"),
        (lambda x: x.reshape(len(x), -1)[:, :3], "reshape of batch or channels"),
        (lambda x: x.mean((1, 2)) + jnp.ones((len(x), 1)), "of a constant for each image"),
        (lambda x: x.swapaxes(0, 3).mean((0, 1)), "of a batch that is not the first axis"),
        (lambda x: x.mean((1, 2, 3))[:, None], "sum over batch or channels"),
        (lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y * 2, x).mean((1, 2)), "scan"),
        (lambda x: x.astype(jnp.bfloat16).mean((1, 2)), "convert_element_type in bfloat16"),
        (lambda x: convolved(x, padding=[(-1, -1)] * 2).mean((1, 2)), "convolution of another kind"),
    ],
)
def test_an_operation_without_a_translation_is_refused_in_one_line(function, operation):
    with pytest.raises(UserError) as refusal:
        to_onnx(lambda images: function(NORMALIZE(images)), (SIDE, SIDE, 3), CLASSES)
    assert operation in str(refusal.value)
    assert str(refusal.value).endswith("use --format=stablehlo")
    assert "\n" not in str(refusal.value)


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(UserError, match=r"needs the package onnx: install it .* -e '.\[onnx\]'\)"):
        to_onnx(lambda images: images, (SIDE, SIDE, 3), CLASSES)
