"""Small arrays as vectors of words, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_flax.training import packing as packing_module
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


@pytest.mark.parametrize(("most", "sizes"), [(48, [6]), (2, [6]), (1, [1, 4, 1])])
def test_small_arrays_are_a_few_vectors(most, sizes, monkeypatch):
    monkeypatch.setattr(packing_module, "ARRAYS_PER_VECTOR", most)
    pack, unpack = packing(TREE)
    packed = pack(TREE)
    assert [vector.size for vector in packed.vectors] == sizes
    assert [leaf.dtype for leaf in packed.large] == [jnp.bfloat16, jnp.float32]
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
