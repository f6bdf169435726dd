"""The networks have the parameters and layers that the reports print."""

import dataclasses
import math
import re
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_flax import models
from resnet_flax.config.checks import complete
from resnet_flax.config.defaults import get_config
from resnet_flax.config.recipes import recipe_names
from resnet_flax.errors import UserError
from resnet_flax.models import layers
from resnet_flax.models.blocks import BLOCKS, SHORTCUTS, Block, avg_pool, max_pool
from resnet_flax.models.convolution import convolution
from resnet_flax.models.initializers import KERNEL_INITS
from resnet_flax.models.norm import BatchNorm, channel_sums
from resnet_flax.models.resnet import ACTIVATIONS, ResNet

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
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "resnet20_w64": 4_327_754,
    "wrn_16_4": 2_748_890,
    "wrn_28_2": 1_467_610,
    "wrn_40_2": 2_243_546,
    "resnet50": 23_520_842,
    "resnext29_32x4d": 4_775_754,
}
# (network, other fields, parameters)
VARIANTS = [
    ("preact", dict(final_norm=True), 2_796_714),  # its scale and bias
    # Option B: 1x1 convolutions of 16 x 32 and 32 x 64 weights with their BatchNorms.
    *((f"resnet{depth}", dict(shortcut="conv"), COUNTS[f"resnet{depth}"] + 2_752) for depth in (20, 32, 44, 56, 110)),
    ("resnet_443", dict(se=True), 4_697_162 + 36_448),  # 2 C C/16 weights and C + C/16 biases in each block
    ("wrn_28_2", models.wide_resnet(28, 10) | dict(shortcut="avg_pool", drop_path=0.1), 36_479_194),
]


def network(name: str, **changes) -> ResNet:
    return ResNet(**models.architecture(name) | changes)


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_count(name):
    assert models.count_parameters(network(name), IMAGE) == COUNTS[name]


@pytest.mark.parametrize(("name", "fields", "count"), VARIANTS)
def test_parameter_count_with_other_parts(name, fields, count):
    assert models.count_parameters(network(name, **fields), IMAGE) == count


def test_every_network_of_the_registry_has_its_count_here():
    assert {*models.NETWORKS} - {"tiny", "speed94", "speed96"} == COUNTS.keys()


def test_the_documented_networks_have_these_counts():
    text = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([\d,]+) \|", text, re.MULTILINE))
    assert rows == {name: f"{COUNTS[name]:,}" for name in rows}
    assert rows.keys() | recipe_names() >= COUNTS.keys()


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


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(("activation", "se"), [("relu", True), ("gelu", False)])
def test_forward_shapes_and_dtypes(block, activation, se):
    model = ResNet((1, 2), (4, 8), block=block, activation=activation, se=se, num_classes=7, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    logits, updates = jax.eval_shape(partial(model.apply, train=True, mutable=["batch_stats"]), variables, images)
    assert logits.shape == (2, 7)
    assert logits.dtype == jnp.float32
    assert jax.tree.structure(updates["batch_stats"]) == jax.tree.structure(variables["batch_stats"])


@pytest.mark.parametrize(("backend", "devices"), [("cpu", 1), ("gpu", 1), ("gpu", 2)])
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_batch_norm_has_the_gradients_of_its_definition(activation, backend, devices, monkeypatch):
    """Also with the sums of complex numbers that a GPU takes, which one GPU takes in groups."""
    x, direction = np.random.default_rng(0).normal(2, 3, size=(2, 4, 16, 16, 6)).astype(np.float32)
    activate = ACTIVATIONS.get(activation, lambda x: x)
    norm = BatchNorm(activation=ACTIVATIONS.get(activation))
    params = {"scale": jnp.arange(1.0, 7.0), "bias": jnp.arange(-3.0, 3.0)}
    state = {"mean": jnp.ones(6), "var": jnp.ones(6)}

    def ours(params, x):
        y, updates = norm.apply({"params": params, "batch_stats": state}, x, True, mutable=["batch_stats"])
        return jnp.sum(y * direction), updates["batch_stats"]

    def defined(params, x):
        normal = (x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + norm.epsilon)
        running = {"mean": 0.9 + 0.1 * x.mean((0, 1, 2)), "var": 0.9 + 0.1 * x.var((0, 1, 2), ddof=1)}
        return jnp.sum(activate(normal * params["scale"] + params["bias"]) * direction), running

    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    assert ("complex" in str(jax.make_jaxpr(ours)(params, x))) == (backend == "gpu")
    found, expected = (jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x) for loss in (ours, defined))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected)


@pytest.mark.parametrize("batch", [1, 32, 50, 98, 100, 125, 150, 250, 300, 500])
@pytest.mark.parametrize("pixels", [1, 4, 8])
def test_a_gpu_sums_any_number_of_images_in_groups(batch, pixels, monkeypatch):
    a, b = np.random.default_rng(0).normal(size=(2, batch, pixels, pixels, 2)).astype(np.float32)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for found, values in zip(channel_sums(a, b), (a, b), strict=True):
        np.testing.assert_allclose(found, values.sum((0, 1, 2), dtype=np.float64), rtol=1e-4, atol=1e-3)


def test_batch_norm_of_bfloat16_is_that_of_float32_but_for_rounding():
    x, direction = jnp.asarray(np.random.default_rng(0).normal(2, 3, size=(2, 8, 8, 8, 6)), jnp.bfloat16)
    norm = BatchNorm(activation=jax.nn.relu)
    variables = norm.init(jax.random.key(0), x, True)

    def of(x):
        y, updates = norm.apply(variables, x, True, mutable=["batch_stats"])
        return jnp.sum(y.astype(jnp.float32) * direction.astype(jnp.float32)), updates["batch_stats"]

    (half, statistics), (single, expected) = (
        jax.jit(jax.grad(of, has_aux=True))(x.astype(dtype)) for dtype in (jnp.bfloat16, jnp.float32)
    )
    np.testing.assert_allclose(half.astype(np.float32), single, rtol=0.02, atol=0.02)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), statistics, expected)


@pytest.mark.parametrize("x", [-8.0, -3.0, -0.3, 0.0, 0.7, 5.0])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gelu_is_exact(x, dtype):
    x = jnp.asarray(x, dtype)
    expected = float(x) * (1 + math.erf(float(x) / math.sqrt(2))) / 2
    np.testing.assert_allclose(ACTIVATIONS["gelu"](x), expected, rtol=0.03, atol=1e-6)


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


def test_the_gradient_of_max_pool_goes_to_the_first_maximum_of_a_window():
    x = jnp.asarray([[0, 2, 2, 1], [2, 1, 2, 2]], jnp.float32).reshape(1, 2, 4, 1)
    gradient = jax.grad(lambda x: jnp.sum(max_pool(x, 2)))(x)
    np.testing.assert_array_equal(gradient.reshape(2, 4), [[0, 1, 1, 0], [0, 0, 0, 0]])


def test_averages_at_the_border_are_of_the_pixels_that_there_are():
    x = np.arange(2 * 5 * 3 * 2, dtype=np.float32).reshape(2, 5, 3, 2)
    expected = [[x[:, i : i + 2, j : j + 2].mean((1, 2)) for j in (0, 2)] for i in (0, 2, 4)]
    np.testing.assert_allclose(avg_pool(jnp.asarray(x), 2), np.moveaxis(expected, 2, 0), rtol=1e-6)


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_every_shortcut_has_the_shape_of_its_block(shortcut):
    model = ResNet((1, 1), (4, 9), shortcut=shortcut)
    shapes = [row.shape for row in layers.layers(model, (5, 1, 3)) if row.kind == "BasicBlock"]
    assert shapes == [(5, 1, 4), (3, 1, 9)]


def test_stochastic_depth_drops_whole_branches_at_rates_that_grow_with_the_depth():
    rates, shapes = [], []

    def record(call, args, kwargs, context):
        if isinstance(context.module, nn.Dropout):
            rates.append(context.module.rate)
            shapes.append(context.module.broadcast_dims)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        models.count_parameters(ResNet((1, 2, 1), (4, 4, 4), drop_path=0.4), IMAGE)
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert set(shapes) == {(1, 2, 3)}


class Branch(Block):
    """Only the end of a residual branch."""

    @nn.compact
    def __call__(self, x, train):
        return self.finish(x, train)


def test_stochastic_depth_keeps_the_expectation_and_does_nothing_in_evaluation():
    unused = dict.fromkeys(field.name for field in dataclasses.fields(Block) if field.name not in ("parent", "name"))
    branch = Branch(**unused | dict(drop_path=0.25))
    x = np.random.default_rng(0).normal(size=(4000, 1, 2, 3)).astype(np.float32)
    np.testing.assert_array_equal(branch.apply({}, x, train=False), x)
    found = branch.apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    factors = np.round(np.asarray(found / x), 5)
    assert set(np.unique(factors)) == {0, np.float32(1.33333)}
    assert (factors == factors[:, :1, :1, :1]).all()
    assert factors.mean() == pytest.approx(1, abs=4 * (1 / 3 / 4000) ** 0.5)


@pytest.mark.parametrize("block", ["basic", "bottleneck", "pool"])
def test_only_the_last_scale_of_each_block_starts_at_zero(block):
    """Such a branch adds nothing; every other scale starts at 1."""
    model = ResNet((1, 1), (4, 8), block=block, zero_last_scale=True)
    last = "norm3" if block == "bottleneck" else "norm2"
    zeros = {path for path, init in scale_inits(model).items() if init is nn.initializers.zeros}
    assert zeros == {f"stage1_block1/{last}", f"stage2_block1/{last}"}
    assert not [
        init for init in scale_inits(model.clone(zero_last_scale=False)).values() if init is not nn.initializers.ones
    ]


def scale_inits(model: ResNet) -> dict:
    """Return the initialiser of the scale of every BatchNorm, by its path."""
    found = {}

    def record(call, args, kwargs, context):
        if isinstance(context.module, BatchNorm):
            found["/".join(context.module.path)] = context.module.scale_init
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        models.count_parameters(model, IMAGE)
    return found


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


@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_float32_is_computed_in_full_on_every_device(backend, dtype, monkeypatch):
    """By default a TPU would round its factors to bfloat16, and a GPU to TF32."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    model = ResNet(blocks=(1, 1), widths=(4, 8), stem="whitening", block="pool", se=True, dtype=jnp.dtype(dtype))
    images = jnp.zeros((2, 16, 16, 3))
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)

    def loss(variables):
        return model.apply(variables, images, train=True, mutable=["batch_stats"])[0].sum()

    program = jax.jit(jax.grad(loss)).trace(variables).lower(lowering_platforms=("cpu",)).as_text()
    products = [line for line in program.splitlines() if re.search(r"stablehlo\.(convolution|dot_general)", line)]
    assert len(products) > 10
    for line in products:
        assert ("HIGHEST" in line) == ("bf16" not in line), line
