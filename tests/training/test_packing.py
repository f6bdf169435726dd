"""Small arrays as one vector of their dtype, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_flax.training.packing import packing, together

TREE = {
    "kernel": jnp.ones((2, 3)),
    "scale": jnp.arange(4.0),
    "step": jnp.asarray(2**30 + 1),
    "half": jnp.asarray([0.5], jnp.bfloat16),
    "loss": jnp.asarray(0.25),
    "none": {},
}


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def test_small_arrays_of_a_dtype_are_one_vector():
    pack, unpack = packing(TREE)
    packed = pack(TREE)
    assert {name: value.shape for name, value in packed.items() if name != "large"} == {
        "bfloat16": (1,),
        "float32": (5,),
        "int32": (1,),
    }
    assert packed["large"][0] is TREE["kernel"]
    same(unpack(packed))


def test_together_changes_nothing():
    same(jax.jit(together)(TREE))


def same(tree):
    assert jax.tree.structure(tree) == jax.tree.structure(TREE)
    jax.tree.map(np.testing.assert_array_equal, tree, TREE)
    assert jax.tree.map(lambda leaf: leaf.dtype, tree) == jax.tree.map(lambda leaf: leaf.dtype, TREE)


def test_a_cpu_packs_nothing(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    pack, unpack = packing(TREE)
    assert pack(TREE) is unpack(TREE) is together(TREE) is TREE
