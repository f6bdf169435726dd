"""Draw test accuracy against the FLOPs of training: python -m benchmarks.flops

The points are the networks of the reports at their stated accuracy, the recorded runs of this project, and published
trainings from scratch. Writes docs/images/accuracy.png.

The FLOPs of training are recipes.training_flops times the images trained on, each counted in every epoch.
"""

import itertools
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from benchmarks import accuracy, command_line, recipes, record, runs
from benchmarks.pictures import write_palette

PICTURE = recipes.ROOT / "docs" / "images" / "accuracy.png"
REPORT, HERE, PUBLISHED = "report", "this project", "published"
STYLES = {  # color and marker of each kind of point
    REPORT: ("#c05000", "s"),
    HERE: ("#1f5fae", "o"),
    PUBLISHED: ("#707070", "^"),
}
TRAINING_IMAGES = {"preact": 40_000}  # those of a report's epoch; the other reports trained on 50,000
# Training FLOPs per image of pre-activation or basic blocks 3-3-3 of 64/128/256 channels, by recipes.training_flops.
RESNET20_WIDE = 3.886e9
# (Name, FLOPs, test accuracy in percent), of:
# - airbench, means of many runs, with six views of each image, and the PFLOPs that its README states:
#   github.com/KellerJordan/cifar10-airbench (Jordan, 2024, arXiv:2404.00498), which also states the standard training
#   of a ResNet-18 of 11 million parameters.
# - WRN-20-4 and CutMix, 300 epochs, medians of 3 runs, 4.56 % and 3.62 % errors: github.com/hysts/pytorch_cutmix
# - ResNet-20 of width 64, 750,000 steps of 128 images, one run, the best of ten evaluations:
#   github.com/vgripon/SOTA-routine, main.py
PUBLISHED_TRAININGS = (
    ("airbench94", 0.36e15, 94.01),
    ("airbench95", 1.4e15, 95.01),
    ("airbench96_faster", 3.1e15, 96.00),
    ("airbench96", 4.9e15, 96.03),
    ("ResNet-18, 11 M parameters", 32.3e15, 96.0),
    ("WRN-20-4", RESNET20_WIDE * 300 * 50_000, 95.44),
    ("WRN-20-4, CutMix", RESNET20_WIDE * 300 * 50_000, 96.38),
    ("ResNet-20, width 64", RESNET20_WIDE * 750_000 * 128, 97.97),
)
LINE = dict(arrowstyle="-", color="#b0b0b0", linewidth=0.6)
# Directions (x, y) and distances in pixels at which a label may lie from its point: the first free place is taken.
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
DISTANCES = (9, 18, 30, 45, 65)


class Point(NamedTuple):
    label: str
    kind: str  # a key of STYLES
    flops: float  # of the training
    percent: float  # test accuracy


def points(results: Path = record.RESULTS) -> list[Point]:
    """Return everything that is drawn."""
    published = (Point(label, PUBLISHED, flops, percent) for label, flops, percent in PUBLISHED_TRAININGS)
    return [*of_runs(results), *of_reports(), *published]


def of_reports() -> Iterator[Point]:
    """Yield each network of a report at each stated accuracy: one in the text and one in the log are two points."""
    for name in recipes.RECIPES:
        config = recipes.config(recipes.as_reported(name))
        images = TRAINING_IMAGES.get(name, 50_000) * config.train.epochs * (2 if config.data.concat_original else 1)
        for text in filter(None, accuracy.reported(name).split(", ")):
            number, _, where = text.partition(" ")
            early = ", up to 100 epochs" if config.train.patience else ""  # early stopping: it does not say when
            label = f"{name}{early}{f', {where}' if where else ''}"
            yield Point(label, REPORT, recipes.training_flops(config) * images, float(number))


def of_runs(results: Path) -> Iterator[Point]:
    """Yield the mean of the recorded runs of each recipe, and each finished run of a changed recipe.

    Changed runs with a teacher are left out: their FLOPs include neither its predictions nor its own training.
    """
    found = runs.read(results)
    for group in accuracy.groups(found):
        flops = statistics.mean(recipes.training_flops(run.config) * run.images for run in group.runs)
        yield Point(group.recipe, HERE, flops, 100 * statistics.mean(group.values("test_accuracy")))
        views = group.values("tta_accuracy")
        if len(views) == len(group.runs):
            yield Point(f"{group.recipe}, six views", HERE, flops, 100 * statistics.mean(views))
    for run in found:
        if run.changes and not run.config.train.teacher and "test_accuracy" in run.results:
            flops = recipes.training_flops(run.config) * run.images
            yield Point(f"{run.recipe} changed", HERE, flops, 100 * run.results["test_accuracy"])


def listed(drawn: list[Point]) -> str:
    """Return a line for each point; the picture keeps them, so that a test can tell whether it is up to date."""
    return "\n".join(f"{point.label}: {point.percent:.2f} %, {point.flops:.3g} FLOPs" for point in drawn)


def draw(drawn: list[Point]) -> Figure:
    """Return the figure, with a label at every point."""
    figure = Figure(figsize=(9, 5.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for kind, (color, marker) in STYLES.items():
        mine = [point for point in drawn if point.kind == kind]
        axes.plot([p.flops / 1e15 for p in mine], [p.percent for p in mine], marker, color=color, label=kind)
    axes.set_xscale("log")
    axes.set(xlabel="FLOPs of the training, in 10$^{15}$", ylabel="test accuracy on CIFAR-10, %")
    axes.margins(x=0.14, y=0.08)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right")
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # labels are placed where everything else stands still
    add_labels(axes, drawn)
    return figure


def add_labels(axes: Axes, drawn: list[Point]) -> None:
    """Write each label where it covers no point and no other label; a line leads from a distant one to its point."""
    at = [axes.transData.transform((point.flops / 1e15, point.percent)) for point in drawn]
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in at] + [axes.get_legend().get_window_extent()]
    for (x, y), point in zip(at, drawn, strict=True):
        color = STYLES[point.kind][0]
        text = axes.annotate(point.label, (0, 0), xycoords="figure pixels", fontsize=8, color=color)
        box, distance = free_place(x, y, text.get_window_extent(), taken, axes.bbox)
        text.set_position((box.x0, box.y0))
        taken.append(box)
        if distance > DISTANCES[0]:
            end = (min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1))
            axes.annotate("", (x, y), end, "figure pixels", arrowprops=LINE)


def free_place(x: float, y: float, size: Bbox, taken: list[Bbox], within: Bbox) -> tuple[Bbox, int]:
    """Return the first free place for a label of `size` beside a pixel, or else the last one, and its distance."""
    for distance, (right, up) in itertools.product(DISTANCES, DIRECTIONS):
        left = x + right * distance + (right - 1) / 2 * size.width
        bottom = y + up * distance + (up - 1) / 2 * size.height
        box = Bbox.from_bounds(left, bottom, size.width, size.height)
        if within.containsx(box.x0) and within.containsx(box.x1) and not box.count_overlaps(taken):
            break
    return box, distance


def main() -> int:
    parser = command_line.parser(__doc__)
    parser.add_argument("--output", type=Path, default=PICTURE, help="the picture")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="the folder of all results")
    arguments = parser.parse_args()
    drawn = points(arguments.results)
    write_palette(draw(drawn), arguments.output, Points=listed(drawn))
    print(arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(main))
