"""The networks have the parameters and layers that the reports print."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_flax import models
from resnet_flax.config.checks import complete
from resnet_flax.config.defaults import get_config
from resnet_flax.errors import UserError
from resnet_flax.models import layers
from resnet_flax.models.blocks import max_pool
from resnet_flax.models.resnet import KERNEL_INITS, ResNet, convolution

IMAGE = (32, 32, 3)
COUNTS = {
    "resnet_443": 4_697_162,
    "resnet_2322": 4_479_946,
    "preact": 2_796_202,
    "resnet18_w42": 4_815_940,
    "resnet_large": 4_903_242,
    "resnet_353": 4_918_602,
    "resnet18": 11_173_962,
    "preact_resnet18": 11_171_146,
}


def network(name: str, **changes) -> ResNet:
    return ResNet(**models.architecture(name) | changes)


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_count(name):
    assert models.count_parameters(network(name), IMAGE) == COUNTS[name]


def test_final_norm_of_the_paper_adds_its_scale_and_bias():
    assert models.count_parameters(network("preact", final_norm=True), IMAGE) == 2_796_714


def expected_table(blocks, widths, stem_dropout: bool, block_dropout: bool) -> list[tuple[str, tuple, int]]:
    """Return the rows of the tables in reports 001 and 003, by the rule that they follow (checked on PRINTED rows)."""
    rows = []
    size, inputs = 32, 3

    def conv_norm(kernel, inputs, width):
        shape = (size, size, width)
        rows.extend([("Conv", shape, kernel * kernel * inputs * width), ("BatchNorm", shape, 2 * width)])

    def dropout(width):
        rows.append(("Dropout", (size, size, width), 0))

    conv_norm(3, inputs, widths[0])
    if stem_dropout:
        dropout(widths[0])
    inputs = widths[0]
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
        for index in range(count):
            if stage and not index:
                size //= 2
            conv_norm(3, inputs, width)
            if block_dropout:
                dropout(width)
            conv_norm(3, width, width)
            if inputs != width:
                conv_norm(1, inputs, width)
            rows.append(("BasicBlock", (size, size, width), 0))
            inputs = width
    return [*rows, ("Dense", (10,), inputs * 10 + 10)]


# Rows of the printed tables: number of the row, channels, side, parameters.
PRINTED = {
    "resnet_2322": (
        64,
        [
            (1, 64, 32, 1728),
            (3, 64, 32, 0),
            (21, 128, 16, 8192),
            (36, 192, 8, 221184),
            (41, 192, 8, 24576),
            (50, 256, 4, 442368),
            (55, 256, 4, 49152),
            (61, 256, 4, 589824),
            (63, 256, 4, 0),
        ],
    ),
    "resnet18_w42": (
        57,
        [
            (1, 42, 32, 1134),
            (3, 42, 32, 15876),
            (5, 42, 32, 0),
            (20, 84, 16, 3528),
            (29, 168, 8, 127008),
            (36, 168, 8, 0),
            (43, 336, 4, 508032),
            (48, 336, 4, 56448),
            (54, 336, 4, 1016064),
            (56, 336, 4, 0),
        ],
    ),
    # Report 003 prints the pooling as row 29, without parameters; here it is not a layer.
    "resnet_large": (
        29,
        [
            (1, 64, 32, 1728),
            (7, 64, 32, 0),
            (12, 128, 16, 8192),
            (15, 256, 8, 294912),
            (19, 256, 8, 32768),
            (22, 512, 4, 1179648),
            (24, 512, 4, 2359296),
            (26, 512, 4, 131072),
            (28, 512, 4, 0),
        ],
    ),
}


@pytest.mark.parametrize("name", PRINTED)
def test_layer_table_is_that_of_the_report(name):
    model = network(name)
    rows = [(row.kind, row.shape, row.parameters) for row in layers.layers(model, IMAGE)]
    count, printed = PRINTED[name]
    assert len(rows) == count
    for number, channels, side, parameters in printed:
        assert rows[number - 1][1:] == ((side, side, channels), parameters)
    assert rows == expected_table(model.blocks, model.widths, model.stem_dropout > 0, model.block_dropout > 0)
    assert sum(parameters for _, _, parameters in rows) == COUNTS[name]


def test_summary_prints_totals():
    text = layers.layer_table(network("resnet_353"), IMAGE)
    assert "parameters: 4,918,602" in text
    flops = sum(row.flops for row in layers.layers(network("resnet_353"), IMAGE))
    assert f"{flops:,} forward" in text
    assert flops == pytest.approx(4.79e9 / 3, rel=0.01)  # a third of the known cost of a training step


@pytest.mark.parametrize("block", ["basic", "preact", "pool"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_forward_shapes_and_dtypes(block, activation):
    model = ResNet((1, 2), (4, 8), block=block, activation=activation, num_classes=7, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    logits, updates = jax.eval_shape(partial(model.apply, train=True, mutable=["batch_stats"]), variables, images)
    assert logits.shape == (2, 7)
    assert logits.dtype == jnp.float32
    assert jax.tree.structure(updates["batch_stats"]) == jax.tree.structure(variables["batch_stats"])


@pytest.mark.parametrize("side", [1, 2, 3])
@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2, 7, 9, 3), (2, 3, 3, 3)])
def test_max_pool_is_that_of_flax(shape, side):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    ours, theirs = (
        jax.jit(jax.value_and_grad(lambda x, pool=pool: jnp.sum(jnp.sin(pool(x)))))(x)
        for pool in (partial(max_pool, side=side), lambda x: nn.max_pool(x, (side, side), (side, side)))
    )
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-6)


@pytest.mark.parametrize(("inputs", "outputs"), [(4, 6), (6, 4)])
def test_dirac_convolution_copies_its_inputs_first(inputs, outputs):
    conv = convolution(outputs, 3, 1, kernel_init=KERNEL_INITS["dirac"])
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 5, inputs)), jnp.float32)
    variables = jax.jit(conv.init)(jax.random.key(0), x)
    count = min(inputs, outputs)
    np.testing.assert_allclose(conv.apply(variables, x)[..., :count], x[..., :count], rtol=1e-6)
    others = variables["params"]["kernel"][..., count:]
    assert outputs <= inputs or 0.5 < others.std() * (27 * inputs) ** 0.5 < 1.5


def test_dropout_follows_the_first_activation_of_stem_and_blocks():
    names = [row.name for row in layers.layers(network("resnet_2322"), IMAGE) if row.kind == "Dropout"]
    assert names[:2] == ["stem_dropout", "stage1_block1/dropout"]
    assert len(names) == 1 + sum(network("resnet_2322").blocks)


def test_network_over_the_budget_is_refused_with_both_numbers():
    config = get_config()
    config.model.name = "resnet18"
    config.model.max_params = 5_000_000
    config = complete(config)
    with pytest.raises(UserError, match=r"11,173,962 parameters.*5,000,000"):
        models.count_within_budget(models.build(config), config.model, IMAGE)
