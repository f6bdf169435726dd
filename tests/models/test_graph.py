"""The dataflow of a network, found by tracing it."""

import flax.linen as nn
import jax
import pytest

from resnet_flax.models.blocks import BLOCKS, Block
from resnet_flax.models.graph import Node, block_names, graph, trace
from resnet_flax.models.resnet import ResNet

SHAPE = (16, 16, 3)


def label_of(node: Node) -> str:
    return node.label.replace("\u00d7", "x")


# Of the first block that changes the shape: each node with its inputs.
EXPECTED = {
    "basic": [
        ("input", ()),
        ("3x3 conv, 8, /2", (0,)),
        ("BatchNorm", (1,)),
        ("relu", (2,)),
        ("dropout 0.25", (3,)),
        ("3x3 conv, 8", (4,)),
        ("BatchNorm", (5,)),
        ("1x1 conv, 8, /2", (0,)),
        ("BatchNorm", (7,)),
        ("+", (6, 8)),
        ("relu", (9,)),
    ],
    "preact": [
        ("input", ()),
        ("BatchNorm", (0,)),
        ("relu", (1,)),
        ("3x3 conv, 8, /2", (2,)),
        ("BatchNorm", (3,)),
        ("relu", (4,)),
        ("dropout 0.25", (5,)),
        ("3x3 conv, 8", (6,)),
        ("1x1 conv, 8, /2", (2,)),
        ("+", (7, 8)),
    ],
    "pool": [
        ("input", ()),
        ("3x3 conv, 8", (0,)),
        ("max pool", (1,)),
        ("BatchNorm", (2,)),
        ("gelu", (3,)),
        ("3x3 conv, 8", (4,)),
        ("BatchNorm", (5,)),
        ("gelu", (6,)),
        ("dropout 0.25", (7,)),
        ("3x3 conv, 8", (8,)),
        ("BatchNorm", (9,)),
        ("+", (4, 10)),
        ("gelu", (11,)),
    ],
}


@pytest.mark.parametrize("block", EXPECTED)
def test_a_block_has_its_layers_its_activations_and_its_shortcut(block):
    activation = "gelu" if block == "pool" else "relu"
    traced = trace(ResNet((1, 2), (4, 8), block=block, activation=activation, block_dropout=0.25), SHAPE)
    assert block_names(traced) == ["stage1_block1", "stage2_block1", "stage2_block2"]
    nodes = graph(traced, "stage2_block1")
    assert [(label_of(node), node.inputs) for node in nodes] == EXPECTED[block]
    assert nodes[0].shape == (16, 16, 4) and nodes[-1].shape == (8, 8, 8)
    same = graph(traced, "stage2_block2")
    assert {"1x1 conv, 8, /2", "max pool"}.isdisjoint(label_of(node) for node in same)
    assert 0 in next(node for node in same if node.label == "+").inputs


def test_a_network_has_its_stem_its_blocks_and_its_head():
    model = ResNet((1, 1), (4, 8), block="preact", stem_dropout=0.1, final_norm=True, num_classes=5)
    nodes = graph(trace(model, SHAPE))
    assert [node.inputs for node in nodes] == [(), *((before,) for before in range(len(nodes) - 1))]
    assert [label_of(node) for node in nodes] == [
        *("input", "3x3 conv, 4", "stem dropout 0.1", "PreActBlock", "PreActBlock", "BatchNorm", "relu"),
        *("average pool", "dense, 5"),
    ]
    assert [node.shape for node in nodes[-3:]] == [(8, 8, 8), (8,), (5,)]


class GatedBlock(Block):
    """A block with a method, a layer within a layer, a product of two paths, and two shortcuts."""

    def gate(self, x: jax.Array) -> jax.Array:
        return nn.sigmoid(nn.Sequential([nn.Conv(self.width, (1, 1), feature_group_count=2)], name="inner")(x))

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        pooled = nn.avg_pool(x, (self.stride, self.stride), (self.stride, self.stride))
        y = self.conv(self.width, 3, self.stride, name="conv1")(x)
        return y * self.gate(y) + self.conv(self.width, 1, 1, name="side")(pooled)


def test_a_block_that_nobody_has_described_is_found_too(monkeypatch):
    monkeypatch.setitem(BLOCKS, "gated", GatedBlock)
    nodes = graph(trace(ResNet((1, 1), (4, 8), block="gated"), SHAPE), "stage2_block1")
    assert [(label_of(node), node.inputs) for node in nodes] == [
        ("input", ()),
        ("average pool", (0,)),
        ("3x3 conv, 8, /2", (0,)),
        ("Sequential", (2,)),
        ("x", (2, 3)),
        ("1x1 conv, 8", (1,)),
        ("+", (4, 5)),
    ]
