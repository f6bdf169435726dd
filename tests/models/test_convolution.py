"""The gradients written for a CPU equal those that JAX derives, in the layout for which XLA has a fast kernel."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_flax.models.convolution import convolution, with_gradients


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 2)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_gradients_are_those_of_jax(kernel, stride, size, dtype):
    rng = np.random.default_rng(0)

    def random(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    x, weights = random(4, *size, 3), random(kernel, kernel, 3, 6)
    strides, padding = (stride, stride), [(kernel // 2, kernel // 2)] * 2

    def derived(x, weights):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, weights, strides, padding, dimension_numbers=layout)

    def written(x, weights):
        return with_gradients(x, weights, strides, padding)

    @partial(jax.jit, static_argnums=0)
    def output_and_gradients(function, x, weights, gradient):
        output, pull_back = jax.vjp(function, x, weights)
        return output, *pull_back(gradient)

    gradient = random(*jax.eval_shape(derived, x, weights).shape)
    output, *ours = output_and_gradients(written, x, weights, gradient)
    expected, *theirs = output_and_gradients(derived, x, weights, gradient)
    np.testing.assert_array_equal(output, expected)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype == dtype
        one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
        tolerance = 1e-5 if dtype == "float32" else 2**-8  # half a unit in the last place
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())


def test_a_grouped_convolution_and_its_gradients_are_those_of_jax():
    rng = np.random.default_rng(0)
    x, weights = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 5, 5, 6), (3, 3, 2, 9)))

    def summed(convolve, x, weights):
        output = convolve(x, weights, (2, 2), [(1, 1)] * 2, feature_group_count=3)
        return jnp.sin(output).sum(), output

    layout = ("NHWC", "HWIO", "NHWC")
    derived = partial(jax.lax.conv_general_dilated, dimension_numbers=layout)
    ours, theirs = (
        jax.jit(jax.grad(partial(summed, convolve), (0, 1), has_aux=True))(x, weights)
        for convolve in (with_gradients, derived)
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-5), ours, theirs)


def test_without_gradients_a_grouped_convolution_multiplies_by_no_zeros():
    x, weights = jnp.ones((2, 5, 5, 6)), jnp.ones((3, 3, 2, 9))
    jaxpr = str(
        jax.make_jaxpr(partial(with_gradients, strides=(1, 1), padding=[(1, 1)] * 2, feature_group_count=3))(x, weights)
    )
    assert jaxpr.count("feature_group_count=3") == 1 and jaxpr.count("conv_general_dilated[") == 1


@pytest.mark.parametrize("stride", [1, 2])
def test_all_convolutions_have_the_layout_of_the_fast_kernel_even_in_a_loop(stride):
    x, weights = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 4))

    def loss(x, weights):
        return jnp.square(with_gradients(x, weights, (stride, stride), [(1, 1)] * 2)).sum()

    def descend(_, arguments):
        return jax.tree.map(lambda old, slope: old - 0.1 * slope, arguments, jax.grad(loss, (0, 1))(*arguments))

    program = jax.jit(lambda *arguments: jax.lax.fori_loop(0, 3, descend, arguments)).lower(x, weights).compile()
    layouts = re.findall(r"dim_labels=(\S+?),? ", program.as_text())
    assert len(layouts) == 3
    assert set(layouts) == {"b01f_01io->b01f"}


def test_the_gradient_of_a_kernel_is_computed_in_float32_for_activations_in_bfloat16():
    """So that several devices sum it in float32."""
    conv = convolution(4, 3, 1, dtype=jnp.bfloat16, use_bias=True)
    params = conv.init(jax.random.key(0), jnp.ones((1, 5, 5, 3)))

    def loss(params, x):
        return conv.apply(params, x).astype(jnp.float32).sum()

    program = jax.jit(jax.value_and_grad(loss)).lower(params, jnp.ones((2, 5, 5, 3))).as_text()
    convolutions = re.findall(r"stablehlo.convolution.* : (.*)", program)
    types = sorted(re.findall(r"bf16|f32", line) for line in convolutions)
    assert types == [["bf16", "bf16", "bf16"], ["bf16", "bf16", "f32"]]


@pytest.mark.parametrize(("backend", "function"), [("cpu", with_gradients), ("tpu", with_gradients), ("gpu", None)])
def test_a_gpu_has_the_derivative_of_jax(backend, function, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert convolution(4, 3, 1).conv_general_dilated is function
