"""The figures of the report of a run, one function each."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import MaxNLocator, PercentFormatter
from ml_collections import FrozenConfigDict

from resnet_flax.files import atomic_write
from resnet_flax.optim import schedules
from resnet_flax.report.render import BLUE, DPI, GREY, ORANGE, RUN_COLORS, png
from resnet_flax.text import end_of_line, escape_line
from resnet_flax.workdir.predictions import Calibration, ClassScores, Predictions

CHART_SIZE = (5.2, 3.3)  # inches, in which text is legible on a phone
DARK_INK, LIGHT_INK = "#111111", "#fefefe"  # text on a coloured background, the same on every screen
MAX_LABELS = 100  # of an axis of a matrix
MANY_CLASSES = 20  # above this, the cells of a matrix are too small for numbers
TILES_A_ROW, MAX_TILE_CHARS, MAX_MISTAKES = 5, 22, 25
TILE_SIDE = 1.5  # inches
MAX_LABEL_CHARS = 20  # characters of a class name
MAX_RUN_CHARS = 40  # characters of a run's name
MAX_TEXT_ROWS = 1000  # rows of a table drawn as a picture
LEGEND_ROW = 0.21  # inches
MAX_CURVES = len(RUN_COLORS)  # in a comparison of runs
QUANTITIES = ("accuracy", "loss")  # of which there are curves, in their order on a page
MARKED_EPOCHS = 30  # a curve of fewer epochs has a marker at each

History = Sequence[Mapping[str, float]]  # one row per epoch, as in metrics.csv


def write_png(figure: Figure, path: Path) -> None:
    with atomic_write(path, "wb") as file:
        file.write(png(figure))


def short_labels(names: Sequence[str], longest: int = MAX_LABEL_CHARS) -> list[str]:
    """Return class names for a figure; where two would be the same, their ends are kept, too.

    Draw them with parse_math=False: a class may be called $x$.
    """
    labels = [escape_line(name, longest) for name in names]
    if len(set(labels)) == len(set(names)):
        return labels
    begin = longest // 3
    lines = list(map(escape_line, names))
    return [
        line if len(line) <= longest else f"{line[:begin]}\u2026{line[begin + 1 - longest :]}"  # the middle is left out
        for line in lines
    ]


def axes_over_epochs() -> tuple[Figure, Axes]:
    figure = Figure(figsize=CHART_SIZE, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure, axes


def training_curves(history: History, quantity: str, results: Mapping, training: str = "training") -> Figure:
    """Training and validation "loss" or "accuracy" over the epochs; the test split, evaluated once, is a point.

    `training` is the label of the training curve.
    """
    figure, axes = axes_over_epochs()
    for prefix, label, color in (("train", training, BLUE), ("val", "validation", ORANGE)):
        plot_column(axes, history, f"{prefix}_{quantity}", label=label, color=color)
    if f"test_{quantity}" in results:
        value = results[f"test_{quantity}"]
        label = f"test, once: {value:.2%}" if quantity == "accuracy" else f"test, once: {value:.4f}"
        axes.plot(results["chosen_epoch"], value, "*", markersize=12, color="black", label=label, zorder=3)
    finish_axes(axes, quantity)
    return figure


def compared_curves(histories: Mapping[str, History], quantity: str) -> Figure:
    """The "loss" or "accuracy" of at most MAX_CURVES runs: validation as solid lines, training dashed."""
    figure, axes = axes_over_epochs()
    for color, (name, history) in zip(RUN_COLORS, histories.items(), strict=False):
        held_out = f"val_{quantity}" in history[0]
        name = run_label(name)
        plot_column(axes, history, f"val_{quantity}", label=name, color=color)
        label = None if held_out else f"{name} (training)"
        plot_column(
            axes, history, f"train_{quantity}", label=label, color=color, linestyle="--", alpha=0.6, linewidth=1
        )
    axes.set_title("validation; dashed: training", fontsize="medium", loc="left")
    label_axes(axes, quantity)
    figure.set_figheight(CHART_SIZE[1] + LEGEND_ROW * len(histories))
    plain_text(figure.legend(frameon=False, loc="outside lower left"))  # among the curves it could hide them
    return figure


def run_label(name: str) -> str:
    """Return a run's name for a legend, which would omit one that begins with _; of a long name the end is kept."""
    label = end_of_line(name, MAX_RUN_CHARS)
    return f" {label}" if label.startswith("_") else label


def plot_column(axes: Axes, history: History, column: str, **style) -> None:
    """Plot a column if the history has it."""
    if column in history[0]:
        mark = "o" if len(history) < MARKED_EPOCHS else None
        axes.plot(
            [row["epoch"] for row in history], [row[column] for row in history], marker=mark, markersize=4, **style
        )


def finish_axes(axes: Axes, quantity: str) -> None:
    """Label the axes of curves and add a legend to them."""
    label_axes(axes, quantity)
    plain_text(axes.legend(frameon=False))


def label_axes(axes: Axes, quantity: str) -> None:
    axes.set_ylabel(quantity)
    if quantity == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def plain_text(legend: Legend) -> None:
    """Draw names in a legend as they are: a run may be called $x$."""
    for label in legend.get_texts():
        label.set_parse_math(False)


def learning_rate(history: History, config: FrozenConfigDict) -> Figure:
    """The learning rate at every step so far, and the momentum if it changes."""
    figure, axes = axes_over_epochs()
    steps_per_epoch = int(history[0]["step"] / history[0]["epoch"])
    span = schedules.Span(config.train.epochs, steps_per_epoch, config.schedule.per)
    steps = np.unique(np.linspace(0, history[-1]["step"] - 1, 1000).astype(np.int32))
    rate = schedules.learning_rate(config, span)(steps)
    axes.step(steps / steps_per_epoch, rate, where="post", color=BLUE)
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    momentum = schedules.momentum(config, span)(steps)
    if momentum.min() < momentum.max():
        right = axes.twinx()
        right.spines["top"].set_visible(False)
        right.step(steps / steps_per_epoch, momentum, where="post", color=GREY, linestyle="--")
        right.set_ylabel("momentum (dashed)")
    return figure


def confusion_matrix(predictions: Predictions, classes: Sequence[str]) -> Figure:
    """True classes down, predicted ones across, coloured by share of the row; for few classes also their scores."""
    matrix = predictions.confusion()
    few = len(classes) <= MANY_CLASSES
    side = 1.6 + 0.55 * len(classes) if few else 10
    figure = Figure(figsize=(side + 2.6 * few, side), dpi=120, layout="constrained")
    axes, *rest = np.atleast_1d(figure.subplots(1, 1 + few, sharey=True, width_ratios=[side, 2.4] if few else None))
    shares = row_shares(matrix)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    size = None if few else 5
    names, style = short_labels(classes), dict(size=size, parse_math=False)
    labelled = range(0, len(classes), -(-len(classes) // MAX_LABELS))
    names = [names[at] for at in labelled]
    axes.set_xticks(labelled, names, rotation=45 if few else 90, ha="right" if few else "center", **style)
    axes.set_yticks(labelled, names, **style)
    axes.set(xlabel="predicted", ylabel="true")
    axes.tick_params(length=0)
    if few:
        for row, column in np.argwhere(matrix):
            color = LIGHT_INK if shares[row, column] > 0.5 else DARK_INK
            axes.text(column, row, f"{matrix[row, column]:,}", ha="center", va="center", size=8, color=color)
        add_class_scores(rest[0], ClassScores.of(matrix))
    return figure


def row_shares(matrix: np.ndarray) -> np.ndarray:
    """Return a matrix of counts with each row divided by its sum."""
    return matrix / np.maximum(matrix.sum(1, keepdims=True), 1)


def add_class_scores(axes: Axes, scores: ClassScores) -> None:
    """Draw three columns of numbers in line with the rows of the matrix."""
    for column, (name, values) in enumerate(
        [("precision", scores.precision), ("recall", scores.recall), ("F1", scores.f1)]
    ):
        axes.text(column, -0.7, name, ha="center", size=8, weight="bold")
        for row, value in enumerate(values):
            axes.text(column, row, "-" if np.isnan(value) else f"{value:.1%}", ha="center", va="center", size=8)
    axes.set_xlim(-0.6, 2.6)
    axes.set_axis_off()


def mistakes(predictions: Predictions, images: np.ndarray, classes: Sequence[str]) -> Figure:
    """The most confident mistakes, each with its true class and the predicted one."""
    worst, names = predictions.confident_mistakes(MAX_MISTAKES), short_labels(classes, 15)
    predicted, shares = predictions.predicted[worst], predictions.probabilities[worst].max(1)
    captions = [
        [names[predictions.labels[index]], f"as {names[label]}, {share:.1%}"]
        for index, label, share in zip(worst, predicted, shares, strict=True)
    ]
    if not captions:
        figure = Figure(figsize=(1.6 * TILES_A_ROW, 1.95), dpi=120)
        figure.text(0.5, 0.5, "no mistakes", ha="center", va="center")
        return figure
    return image_tiles([images[index] for index in worst], captions)


def image_tiles(images: Sequence[np.ndarray], captions: Sequence[Sequence[str]]) -> Figure:
    """Images (H, W, 3) uint8 in rows of TILES_A_ROW, each below the lines of its caption.

    They share one Axes, in inches: one for each would take ten times as long to draw.
    """
    rows = -(-len(images) // TILES_A_ROW)
    above = 0.1 + 0.15 * max(map(len, captions))  # inches between an image and the one above it
    width, height = 1.6 * TILES_A_ROW, (TILE_SIDE + above) * rows + 0.1
    figure = Figure(figsize=(width, height), dpi=120)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(index, TILES_A_ROW)
        top, left = row * (TILE_SIDE + above) + above, column * 1.6 + (1.6 - TILE_SIDE) / 2
        tall, wide = TILE_SIDE * np.array(image.shape[:2]) / max(image.shape[:2])
        axes.imshow(image, interpolation="nearest", extent=(left, left + wide, top + tall, top))
        text = "\n".join(caption)
        axes.text(left + wide / 2, top - 0.05, text, size=8, ha="center", va="bottom", parse_math=False)
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure


def reliability(calibration: Calibration) -> Figure:
    """Each bin of confidence as a point (mean confidence, accuracy), with its gap to the diagonal and image count."""
    figure = Figure(figsize=(CHART_SIZE[0], 4.2), dpi=DPI, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3.5, 1])
    filled = calibration.counts > 0
    confidence, accuracy = calibration.confidence[filled], calibration.accuracy[filled]
    top.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
    top.vlines(confidence, accuracy, confidence, color=ORANGE, linewidth=4, alpha=0.5, label="gap")
    top.plot(confidence, accuracy, "o-", color=BLUE, markersize=4, label="a bin of images")
    top.set(ylabel="accuracy", ylim=(0, 1.02), xlim=(0, 1))
    top.yaxis.set_major_formatter(PercentFormatter(1.0))
    top.legend(frameon=False, loc="upper left")
    bins = len(calibration.counts)
    bottom.bar((np.arange(bins) + 0.5) / bins, calibration.counts, 0.9 / bins, color=GREY)
    bottom.set(xlabel="confidence", ylabel="images")
    bottom.xaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def text_figure(lines: str) -> Figure:
    """A table of text as a picture; of a very long one, the beginning and the end."""
    rows = lines.rstrip("\n").split("\n")
    if len(rows) > MAX_TEXT_ROWS:
        rows = [*rows[: MAX_TEXT_ROWS // 2], "...", *rows[-MAX_TEXT_ROWS // 2 :]]
    figure = Figure(figsize=(0.4 + 0.075 * max(map(len, rows)), 0.3 + 0.165 * len(rows)), dpi=120)
    figure.text(0.2 / figure.get_figwidth(), 0.5, "\n".join(rows), family="monospace", size=9, va="center")
    return figure
