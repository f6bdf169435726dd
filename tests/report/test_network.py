"""The figure of a network: nothing overlaps, everything is legible, and its bytes are the same every time."""

import itertools
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch
from matplotlib.transforms import Bbox

import resnet_flax as rf
from resnet_flax.models.graph import Node
from resnet_flax.models.resnet import ResNet
from resnet_flax.report.network import Branch, network, paths
from resnet_flax.report.render import png, svg_file

PHONE = 390  # pixels
NAMES = ("resnet_443", "resnet_2322", "preact", "resnet18_w42", "resnet_large", "resnet_353", "speed94", "speed96")
SHAPES = (FancyBboxPatch, Circle)


def boxes_of(figure: Figure) -> list[Bbox]:
    return [patch.get_window_extent() for patch in figure.axes[0].patches if isinstance(patch, SHAPES)]


def check(figure: Figure) -> None:
    """Fail if boxes overlap, a text leaves its box or the figure, or is too small on a phone."""
    texts = [text for text in figure.axes[0].texts if text.get_text()]
    boxes = list({tuple(np.round(box.extents, 3)): box for box in boxes_of(figure)}.values())
    places = [text.get_window_extent() for text in texts]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    for one, other in itertools.combinations(places, 2):
        assert Bbox.intersection(one, other) is None or Bbox.intersection(one, other).height < 4  # neighbouring lines
    for text, place in zip(texts, places, strict=True):
        assert figure.bbox.x0 <= place.x0 and place.x1 <= figure.bbox.x1 and place.y0 >= 0, text
        around = [box for box in boxes if box.overlaps(place)]
        assert len(around) <= 1, text
        assert all(box.x0 <= place.x0 and place.x1 <= box.x1 for box in around), text
        assert text.get_fontsize() / 72 * PHONE / figure.get_figwidth() > 7.5, text


@pytest.mark.parametrize("name", NAMES)
def test_nothing_overlaps_and_all_is_legible_on_a_phone(name):
    figure = network(rf.create(name), name, (32, 32, 3))
    check(figure)
    texts = [text.get_text().replace("\u00d7", "x") for text in figure.axes[0].texts]
    assert {name, "input 32x32x3", "dense, 10", "+"} <= set(texts)
    model = rf.create(name)
    for blocks in model.blocks:
        assert any(re.match(f"{blocks} x ", text) for text in texts)


def test_many_stages_blocks_and_classes_and_any_name_fit():
    model = ResNet((1, 1, 1, 13) * 2, (8,) * 8, num_classes=12345)
    check(network(model, "$x$\x1b[2J" + "n" * 100, (64, 64, 3)))


def test_the_same_network_gives_the_same_bytes():
    first, second = (network(rf.create("tiny"), "tiny", (32, 32, 3)) for _ in range(2))
    assert png(first) == png(second)
    assert svg_file(first) == svg_file(second)


def test_every_path_beside_the_longest_one_is_a_branch():
    inputs = [(), (0,), (1,), (0,), (2, 3), (1, 4), (5, 0)]
    nodes = [Node(str(index), "", "", before, ()) for index, before in enumerate(inputs)]
    assert paths(nodes) == [
        Branch(0, [1, 2, 4, 5], 6),
        Branch(0, [3], 4),
        Branch(0, [], 6),
        Branch(1, [], 5),
    ]
