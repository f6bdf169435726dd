"""Every picture of a report, each a function that returns a figure."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from ml_collections import FrozenConfigDict

from resnet_flax.optim import schedules
from resnet_flax.text import escape_line
from resnet_flax.workdir.predictions import Calibration, ClassScores, Predictions

matplotlib.use("agg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

BLUE, ORANGE, GREY = "#2066a8", "#c8682a", "#666666"
RUN_COLORS = (BLUE, ORANGE, "#2e8b57", "#8b4f9f", "#b03a48", "#7a6a1f", "#3a9aa8", "#444444")
MANY_CLASSES = 20  # from which on a matrix has no room for numbers
MISTAKE_COLUMNS, MAX_MISTAKES = 5, 25
MAX_LABEL_CHARS = 20  # characters of a class's name that there is room for
MAX_TEXT_ROWS = 1000  # of a table, as a picture

History = Sequence[Mapping[str, float]]  # a row an epoch, as in metrics.csv


def write_png(figure: Figure, path: Path) -> None:
    """Write a PNG. A name in a script that the font has not is drawn as boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(path, facecolor="white")


def short_label(name: str, longest: int = MAX_LABEL_CHARS) -> str:
    """The name of a class, for a picture; with parse_math=False, as one may be called $x$."""
    return escape_line(name, longest)


def axes_over_epochs() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 4.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def training_curves(history: History, quantity: str, results: Mapping) -> Figure:
    """Training and validation "loss" or "accuracy" over the epochs; the test split as the one point that it is."""
    figure, axes = axes_over_epochs()
    for prefix, label, color in (("train", "training", BLUE), ("val", "validation", ORANGE)):
        plot_column(axes, history, f"{prefix}_{quantity}", label=label, color=color)
    if f"test_{quantity}" in results:
        value = results[f"test_{quantity}"]
        label = f"test, once: {value:.2%}" if quantity == "accuracy" else f"test, once: {value:.4f}"
        axes.plot(results["chosen_epoch"], value, "*", markersize=13, color="black", label=label, zorder=3)
    finish_axes(axes, quantity)
    return figure


def compared_curves(histories: Mapping[str, History], quantity: str) -> Figure:
    """ "loss" or "accuracy" of several runs: validation in full lines, training dashed."""
    figure, axes = axes_over_epochs()
    for index, (name, history) in enumerate(histories.items()):
        color = RUN_COLORS[index % len(RUN_COLORS)]
        held_out = f"val_{quantity}" in history[0]
        name = f" {escape_line(name)}" if name.startswith("_") else escape_line(name)  # a legend leaves out _x
        plot_column(axes, history, f"val_{quantity}", label=name, color=color)
        label = None if held_out else f"{name} (training)"
        plot_column(
            axes, history, f"train_{quantity}", label=label, color=color, linestyle="--", alpha=0.6, linewidth=1
        )
    axes.set_title("validation; dashed: training", fontsize="medium", loc="left")
    finish_axes(axes, quantity)
    return figure


def plot_column(axes: Axes, history: History, column: str, **style) -> None:
    """A column of the history, if it has that."""
    if column in history[0]:
        mark = "o" if len(history) < 30 else None
        axes.plot(
            [row["epoch"] for row in history], [row[column] for row in history], marker=mark, markersize=4, **style
        )


def finish_axes(axes: Axes, quantity: str) -> None:
    axes.set_ylabel(quantity)
    if quantity == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    for label in axes.legend(frameon=False).get_texts():
        label.set_parse_math(False)


def learning_rate(history: History, config: FrozenConfigDict) -> Figure:
    """The learning rate at every step so far, and the momentum where it moves."""
    figure, axes = axes_over_epochs()
    steps_per_epoch = int(history[0]["step"] / history[0]["epoch"])
    span = schedules.Span(config.train.epochs, steps_per_epoch, config.schedule.per)
    steps = np.unique(np.linspace(0, history[-1]["step"] - 1, 2000).astype(np.int32))
    rate = np.asarray(schedules.learning_rate(config, span)(steps))
    axes.step(steps / steps_per_epoch, rate, where="post", color=BLUE, label="learning rate")
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    momentum = np.asarray(schedules.momentum(config, span)(steps))
    if momentum.min() < momentum.max():
        right = axes.twinx()
        right.spines["top"].set_visible(False)
        right.step(steps / steps_per_epoch, momentum, where="post", color=GREY, linestyle="--", label="momentum")
        right.set_ylabel("momentum (dashed)")
    return figure


def confusion_matrix(found: Predictions, classes: Sequence[str]) -> Figure:
    """True classes down, predicted ones across, coloured by the share of the row; precision, recall and F1 beside."""
    matrix = found.confusion()
    few = len(classes) <= MANY_CLASSES
    side = 1.6 + 0.55 * len(classes) if few else 10
    figure = Figure(figsize=(side + 2.6 * few, side), dpi=120, layout="constrained")
    axes, *rest = np.atleast_1d(figure.subplots(1, 1 + few, sharey=True, width_ratios=[side, 2.4] if few else None))
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    size = None if few else 5
    names, style = [short_label(name) for name in classes], dict(size=size, parse_math=False)
    axes.set_xticks(range(len(classes)), names, rotation=45 if few else 90, ha="right" if few else "center", **style)
    axes.set_yticks(range(len(classes)), names, **style)
    axes.set(xlabel="predicted", ylabel="true")
    axes.tick_params(length=0)
    if few:
        for row, column in np.argwhere(matrix):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{matrix[row, column]:,}", ha="center", va="center", size=8, color=color)
        add_class_scores(rest[0], ClassScores.of(matrix))
    return figure


def add_class_scores(axes: Axes, scores: ClassScores) -> None:
    """Three columns of numbers, in line with the rows of the matrix."""
    for column, (name, values) in enumerate(
        [("precision", scores.precision), ("recall", scores.recall), ("F1", scores.f1)]
    ):
        axes.text(column, -0.7, name, ha="center", size=8, weight="bold")
        for row, value in enumerate(values):
            axes.text(column, row, "-" if np.isnan(value) else f"{value:.1%}", ha="center", va="center", size=8)
    axes.set_xlim(-0.6, 2.6)
    axes.set_axis_off()


def mistakes(found: Predictions, images: np.ndarray, classes: Sequence[str]) -> Figure:
    """The most confident mistakes, each with its true class and what it was taken for."""
    worst, names = found.confident_mistakes(MAX_MISTAKES), [short_label(name, 15) for name in classes]
    rows = max(1, -(-len(worst) // MISTAKE_COLUMNS))
    figure = Figure(figsize=(1.6 * MISTAKE_COLUMNS, 1.95 * rows), dpi=120, layout="constrained")
    for axes in figure.subplots(rows, MISTAKE_COLUMNS, squeeze=False).flat:
        axes.set_axis_off()
    for axes, index in zip(figure.axes, worst, strict=False):
        axes.imshow(images[index], interpolation="nearest")
        taken = found.predicted[index]
        share = found.probabilities[index, taken]
        axes.set_title(f"{names[found.labels[index]]}\nas {names[taken]}, {share:.1%}", size=8, parse_math=False)
    if not len(worst):
        figure.text(0.5, 0.5, "no mistakes", ha="center", va="center")
    return figure


def reliability(calibration: Calibration) -> Figure:
    """Accuracy of each bin of confidence against the diagonal, and below it how many images there are."""
    figure = Figure(figsize=(5.2, 5.6), dpi=120, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3.5, 1])
    bins = len(calibration.counts)
    centres = (np.arange(bins) + 0.5) / bins
    filled = calibration.counts > 0
    top.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="confidence = accuracy")
    top.bar(centres[filled], calibration.accuracy[filled], 0.9 / bins, color=BLUE, alpha=0.8, label="accuracy")
    top.plot(calibration.confidence[filled], calibration.accuracy[filled], ".", color=ORANGE, label="mean confidence")
    top.set(ylabel="accuracy", ylim=(0, 1.02), xlim=(0, 1))
    top.set_title(f"expected calibration error {calibration.error:.2%}", fontsize="medium", loc="left")
    top.legend(frameon=False, loc="upper left")
    bottom.bar(centres, calibration.counts, 0.9 / bins, color=GREY)
    bottom.set(xlabel="confidence", ylabel="images")
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def text_figure(lines: str) -> Figure:
    """A table of text, as a picture."""
    rows = lines.rstrip("\n").split("\n")
    if len(rows) > MAX_TEXT_ROWS:
        rows = [*rows[: MAX_TEXT_ROWS // 2], "...", *rows[-MAX_TEXT_ROWS // 2 :]]
    figure = Figure(figsize=(0.4 + 0.075 * max(map(len, rows)), 0.3 + 0.165 * len(rows)), dpi=120)
    figure.text(0.2 / figure.get_figwidth(), 0.5, "\n".join(rows), family="monospace", size=9, va="center")
    return figure
