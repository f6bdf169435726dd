"""Convolutions by Winograd's algorithm equal direct ones, and take their place where they are faster."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_flax.models import convolution, winograd

LAYOUT = ("NHWC", "HWIO", "NHWC")


def direct(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), [(1, 1)] * 2, dimension_numbers=LAYOUT)


def random(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def assert_close(one, other):
    np.testing.assert_allclose(one, other, rtol=0, atol=3e-6 * np.abs(other).max())


@pytest.mark.parametrize("size", [(8, 12), (7, 5), (4, 3), (1, 2), (1, 1)])
def test_outputs_and_gradients_are_those_of_a_direct_convolution(size):
    x, kernel, gradient = random(3, *size, 8), random(3, 3, 8, 6), random(3, *size, 6)
    expected, pull_back = jax.vjp(direct, x, kernel)
    assert_close(winograd.convolve(x, kernel), expected)
    of_input, of_kernel = pull_back(gradient)
    assert_close(winograd.kernel_gradient(x, gradient), of_kernel)
    assert_close(winograd.convolve(gradient, kernel[::-1, ::-1].swapaxes(2, 3)), of_input)


def loss(x, kernel, stride=1):
    return jnp.square(convolution.with_gradients(x, kernel, (stride, stride), [(kernel.shape[0] // 2,) * 2] * 2)).sum()


def convolutions(function, *arguments) -> int:
    """Return the number of convolutions in the program of a function."""
    return len(re.findall(r"stablehlo\.convolution", jax.jit(function).lower(*arguments).as_text()))


@pytest.fixture
def slow_arithmetic(monkeypatch):
    monkeypatch.setattr(convolution, "has_full_rate_avx512", lambda: False)


def test_a_training_step_with_many_channels_has_it(slow_arithmetic):
    x, kernel = random(2, 6, 6, 64), random(3, 3, 64, 64)
    assert convolutions(jax.grad(loss, (0, 1)), x, kernel) == 0
    plain = jax.grad(lambda x, kernel: jnp.square(direct(x, kernel)).sum(), (0, 1))
    for one, other in zip(jax.grad(loss, (0, 1))(x, kernel), plain(x, kernel), strict=True):
        assert_close(one, other)


def test_predictions_and_exported_programs_do_not_have_it(slow_arithmetic):
    assert convolutions(loss, random(2, 6, 6, 64), random(3, 3, 64, 64)) == 1


@pytest.mark.parametrize(
    ("inputs", "outputs", "size", "stride", "dtype"),
    [
        (63, 64, 3, 1, "float32"),
        (64, 63, 3, 1, "float32"),
        (64, 64, 1, 1, "float32"),
        (64, 64, 5, 1, "float32"),
        (64, 64, 3, 2, "float32"),
        (64, 64, 3, 1, "bfloat16"),
    ],
)
def test_other_convolutions_do_not_have_it(inputs, outputs, size, stride, dtype, slow_arithmetic):
    x, kernel = random(2, 6, 6, inputs).astype(dtype), random(size, size, inputs, outputs).astype(dtype)
    assert convolutions(jax.grad(lambda *both: loss(*both, stride), (0, 1)), x, kernel) == 3


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [(jax, "default_backend", "tpu"), (jax, "device_count", 2), (convolution, "has_full_rate_avx512", True)],
)
def test_other_devices_do_not_have_it(module, name, value, slow_arithmetic, monkeypatch):
    monkeypatch.setattr(module, name, lambda: value)
    assert convolutions(jax.grad(loss, (0, 1)), random(2, 6, 6, 64), random(3, 3, 64, 64)) == 3
