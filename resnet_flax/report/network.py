"""The figure of a network: its stem, stages and head, with the layers of one block beside them."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

from resnet_flax.models import count_parameters
from resnet_flax.models.graph import MERGES, Node, block_names, graph, trace
from resnet_flax.models.resnet import ResNet
from resnet_flax.report.figures import MAX_LABEL_CHARS
from resnet_flax.report.render import BLUE, DPI, GREY, ORANGE, RUN_COLORS
from resnet_flax.text import escape_line

# Inches. The figure of a block with one shortcut is less than 5 wide, so that its text is legible on a phone.
LEFT, MAIN, SIDE = 0.89, 2.69, 4.09  # the middle of the network, of the block's layers, and of its shortcut
NETWORK_WIDTH, LAYER_WIDTH = 1.66, 1.3
TOP, MARGIN, ROW, BOX, LINE, PAD, GAP, CELL, MERGE = 0.66, 0.1, 0.44, 0.28, 0.17, 0.06, 0.17, 0.12, 0.1
TEXT = 9  # points
TITLE_CHARS, LAYER_CHARS, STAGE_CHARS = 16, 17, 20  # that fit into a box; longer text is drawn smaller
GREEN, PURPLE = RUN_COLORS[2], RUN_COLORS[3]
COLORS = {"Conv": BLUE, "BatchNorm": ORANGE, "": GREEN}  # by kind of layer, any other PURPLE


Place = tuple[float, float]


class Branch(NamedTuple):
    """A path beside the main one: it leaves the node `start`, passes any `layers`, and joins the node `end`."""

    start: int
    layers: list[int]
    end: int


class Part(NamedTuple):
    """A box of the network: its text, the names of the blocks if it is a stage, and where it begins and ends."""

    lines: list[str]
    blocks: list[str]
    top: float
    bottom: float


def network(model: ResNet, name: str, image_shape: tuple[int, int, int]) -> Figure:
    """Draw a network and, beside it, a block: of the stages' first blocks, the earliest with the most layers."""
    traced = trace(model, image_shape)
    blocks = {block: graph(traced, block) for block in block_names(traced) if block.endswith("_block1")}
    opened = max(blocks, key=lambda block: len(blocks[block]))
    parts, layers = list(network_parts(graph(traced))), with_output(blocks[opened])
    main, *branches = paths(layers)
    block_bottom = TOP + ROW * (len(main.layers) + 1) + BOX
    height = MARGIN + max(parts[-1].bottom, block_bottom)
    width = SIDE + LAYER_WIDTH / 2 + MARGIN + (LAYER_WIDTH + MARGIN) * max(len(branches) - 1, 0)
    figure = Figure(figsize=(width, height), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    stage, number = re.findall(r"\d+", opened)
    draw_title(axes, LEFT, escape_line(name, MAX_LABEL_CHARS), f"{count_parameters(model, image_shape):,} parameters")
    draw_title(axes, (MAIN + SIDE) / 2, f"stage {stage}, block {number}", type(traced.modules[opened]).__name__)
    draw_parts(axes, parts)
    draw_opening(axes, next(part for part in parts if opened in part.blocks), width, block_bottom)
    draw_block(axes, layers, main, branches)
    return figure


def with_output(nodes: list[Node]) -> list[Node]:
    """Return the nodes and one more, the output, labelled with its shape like the input."""
    ends = [
        node._replace(label=f"{name} {shape_text(node)}") for name, node in (("input", nodes[0]), ("output", nodes[-1]))
    ]
    return [ends[0], *nodes[1:], ends[1]._replace(name="output", kind="", inputs=(len(nodes) - 1,))]


def network_parts(nodes: Sequence[Node]) -> Iterator[Part]:
    """Yield the input, the stem, each stage and the head, from top to bottom."""
    bottom = TOP - GAP
    for name, group in groupby(nodes, key=part_name):
        found, top = list(group), bottom + GAP
        first, last = found[0], found[-1]
        blocks = [node.name for node in found if name.startswith("stage")]
        if blocks:
            lines = [f"{name[:5]} {name[5:]}: {shape_text(last)}", f"{len(blocks)} \u00d7 {first.kind}"]
        else:
            lines = [f"{node.label} {shape_text(node)}" if node is nodes[0] else node.label for node in found]
        bottom = top + LINE * len(lines) + 2 * PAD
        yield Part(lines, blocks, top, bottom)


def part_name(node: Node) -> str:
    match = re.match(r"input$|stage\d+", node.name)
    return match[0] if match else "layers"


def shape_text(node: Node) -> str:
    return "\u00d7".join(map(str, node.shape))


def paths(nodes: Sequence[Node]) -> list[Branch]:
    """Return the longest path from the input to the output, then the branches beside it, longest first."""
    edges = {(start, end) for end, node in enumerate(nodes) for start in node.inputs}
    path = longest_path(edges, {*range(1, len(nodes) - 1)}, 0, len(nodes) - 1)
    found, unused, free = [], edges, {*range(1, len(nodes) - 1)}
    while path:
        found.append(Branch(path[0], path[1:-1], path[-1]))
        unused, free = unused - {*pairwise(path)}, free - {*path}
        ends = {(start, end) for start in {*range(len(nodes))} - free for end in {*range(len(nodes))} - free}
        path = max((longest_path(unused, free, *pair) for pair in sorted(ends)), key=len)
    return found


def longest_path(edges: set[tuple[int, int]], through: set[int], start: int, end: int) -> list[int]:
    """Return the longest path from `start` to `end` over nodes in `through`, [] if there is none."""
    longest = {start: [start]}
    for node in sorted({*through, end}):
        before = [longest[other] for other, one in sorted(edges) if one == node and other in longest]
        if before and node > start:
            longest[node] = [*max(before, key=len), node]
    return longest.get(end, []) if end > start else []


def draw_title(axes: Axes, x: float, first: str, second: str) -> None:
    size = (TEXT + 1) * min(1, TITLE_CHARS / len(first))
    axes.text(x, 0.18, first, size=size, weight="bold", ha="center", va="center", parse_math=False)
    axes.text(x, 0.38, second, size=TEXT, ha="center", va="center", color=GREY)


def draw_parts(axes: Axes, parts: Sequence[Part]) -> None:
    """Draw the boxes of the network, and at the left of each stage a cell for each of its blocks."""
    for above, below in pairwise(parts):
        draw_arrow(axes, [(LEFT, above.bottom), (LEFT, below.top)])
    for part in parts:
        center, height = (part.top + part.bottom) / 2, part.bottom - part.top
        color = BLUE if part.blocks else GREY
        draw_box(axes, (LEFT, center), (NETWORK_WIDTH, height), color)
        middle = LEFT + (CELL / 2 if part.blocks else 0)
        for row, line in enumerate(part.lines):
            draw_text(axes, (middle, part.top + PAD + LINE * (row + 0.5)), line, STAGE_CHARS)
        for row in range(len(part.blocks)):
            step = (height - 2 * PAD) / len(part.blocks)
            corner = LEFT - NETWORK_WIDTH / 2 + PAD, part.top + PAD + step * row
            axes.add_patch(Rectangle(corner, CELL, 0.8 * step, facecolor=BLUE, linewidth=0))


def draw_opening(axes: Axes, stage: Part, width: float, bottom: float) -> None:
    """Draw the frame around the opened block, and the lines to it from its stage."""
    left, right, top, bottom = MAIN - LAYER_WIDTH / 2 - 0.08, width - 0.03, TOP - 0.08, bottom + 0.08
    edge_of_stage = LEFT + NETWORK_WIDTH / 2
    for x, y in (
        ([edge_of_stage, left, left, edge_of_stage], [stage.top, top, bottom, stage.bottom]),
        ([left, right, right, left], [top, top, bottom, bottom]),
    ):
        axes.plot(x, y, color=GREY, linewidth=0.8, linestyle="--", dashes=(3, 2))


def draw_block(axes: Axes, nodes: Sequence[Node], main: Branch, branches: Sequence[Branch]) -> None:
    """Draw the layers of a block from top to bottom, and each branch in a column beside them."""
    column = [main.start, *main.layers, main.end]
    at = {node: (MAIN, TOP + BOX / 2 + ROW * row) for row, node in enumerate(column)}
    for above, below in pairwise(column):
        draw_arrow(axes, [edge(nodes, at, above, +1), edge(nodes, at, below, -1)])
    for number, branch in enumerate(branches):
        x = SIDE + number * (LAYER_WIDTH + MARGIN)
        top, bottom = edge(nodes, at, branch.start, +1)[1] + (ROW - BOX) / 3, at[branch.end][1]
        step = (bottom - top) / (len(branch.layers) + 1)
        at |= {node: (x, top + step * (row + 1)) for row, node in enumerate(branch.layers)}
        radius = MERGE if nodes[branch.end].name in MERGES else LAYER_WIDTH / 2
        corners = [(at[branch.start][0], top), (x, top)]
        for node in branch.layers:
            draw_arrow(axes, [*corners, edge(nodes, at, node, -1)])
            corners = [edge(nodes, at, node, +1)]
        draw_arrow(axes, [*corners, (x, bottom), (at[branch.end][0] + radius, bottom)])
    for node, place in at.items():
        draw_node(axes, nodes[node], place)


def edge(nodes: Sequence[Node], at: dict[int, Place], node: int, sign: int) -> Place:
    """Return the middle of the top (-1) or the bottom (+1) of a layer."""
    x, y = at[node]
    return x, y + sign * (MERGE if nodes[node].name in MERGES else BOX / 2)


def draw_node(axes: Axes, node: Node, place: Place) -> None:
    if node.name in MERGES:
        axes.add_patch(Circle(place, MERGE, facecolor="none", edgecolor="black", linewidth=1))
    else:
        color = GREY if node.name in ("input", "output") else COLORS.get(node.kind, PURPLE)
        draw_box(axes, place, (LAYER_WIDTH, BOX), color)
    label, long = node.label, len(node.label) > LAYER_CHARS
    draw_text(axes, place, ",\n".join(label.rsplit(", ", 1)) if long else label, LAYER_CHARS)


def draw_box(axes: Axes, center: Place, size: Place, color: str) -> None:
    corner = center[0] - size[0] / 2, center[1] - size[1] / 2
    shape = "round,pad=0,rounding_size=0.05"
    axes.add_patch(FancyBboxPatch(corner, *size, shape, facecolor=color, alpha=0.15, linewidth=0))
    axes.add_patch(FancyBboxPatch(corner, *size, shape, facecolor="none", edgecolor=color, linewidth=1))


def draw_text(axes: Axes, place: Place, text: str, longest: int) -> None:
    """Draw one or two lines of text, shrunk if a line has more than `longest` characters."""
    lines = text.split("\n")
    size = TEXT * min(1, longest / max(map(len, lines)), 1.6 / len(lines))
    below = 0.36 * size / 72 if len(lines) == 1 else 0  # so that words with and without descenders are in line
    align = "baseline" if below else "center"
    axes.text(place[0], place[1] + below, text, size=size, ha="center", va=align, linespacing=1, parse_math=False)


def draw_arrow(axes: Axes, points: Sequence[Place]) -> None:
    """Draw a line through `points` that ends in an arrowhead."""
    axes.plot(*zip(*points[:-1], strict=True), color="black", linewidth=0.9)
    style = dict(arrowstyle="-|>,head_width=0.18,head_length=0.3", shrinkA=0, shrinkB=0, linewidth=0.9, color="black")
    axes.annotate("", points[-1], points[-2], arrowprops=style)
