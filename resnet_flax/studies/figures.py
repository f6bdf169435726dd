"""Figures of studies, which are many runs of one recipe: the effects of settings and of the seed."""

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter

from resnet_flax.report.figures import (
    CHART_SIZE,
    DARK_INK,
    LIGHT_INK,
    MARKED_EPOCHS,
    History,
    axes_over_epochs,
    finish_axes,
    short_labels,
)
from resnet_flax.report.render import BLUE, DPI, GREY, ORANGE
from resnet_flax.report.tables import format_metric
from resnet_flax.studies.space import Range, Settings, Space
from resnet_flax.workdir.history import lower_is_better

Point = tuple[Settings, float]  # a trial's settings and its score, NaN if it failed
PANEL_COLUMNS, MAX_WIDTH = 3, 14  # inches
MIN_PANEL, CELL, CHARACTER = 3.0, (0.62, 0.4), 0.08  # inches: a side, (width, height), a character of a label
MAX_LEVEL_CHARS = 8  # characters of a label below an axis; longer ones are turned
MAX_SETTING_CHARS = 30
FAILED = "#e6e6e6"


@dataclass(frozen=True)
class Scores:
    """The scores of trials by `monitor`, with settings from `space`. At least one trial has not failed."""

    space: Space
    points: Sequence[Point]
    monitor: str

    def figure(self) -> Figure:
        """A line over one field, or a panel for each pair of fields; orange marks the best trial."""
        pairs = list(itertools.combinations(self.space.fields, 2))
        if not pairs:
            figure = Figure(figsize=CHART_SIZE, dpi=DPI, layout="constrained")
            self.draw_line(figure.subplots(), *self.space.fields)
            return figure
        width, height = map(max, zip(*(self.panel_size(*pair) for pair in pairs), strict=True))
        columns = max(1, min(len(pairs), PANEL_COLUMNS, int(MAX_WIDTH / width)))
        rows = math.ceil(len(pairs) / columns)
        figure = Figure(figsize=(width * columns + 1, height * rows), dpi=DPI, layout="constrained")
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, pair in zip(panels, pairs, strict=False):
            for which, name in zip("xy", pair, strict=True):
                self.label(axes, which, name)
            (self.draw_dots if self.has_range(pair) else self.draw_cells)(axes, *pair)
        for spare in panels[len(pairs) :]:
            spare.set_axis_off()
        bar = figure.colorbar(self.colors(), ax=panels, shrink=0.8)
        of_several = len(pairs) > 1 and not all(map(self.has_range, pairs))
        bar.set_label(self.monitor + ("\nin a cell, the best\nover the other fields" if of_several else ""))
        bar.ax.yaxis.set_major_formatter(lambda value, _: format_metric(self.monitor, value))
        return figure

    def has_range(self, names: Sequence[str]) -> bool:
        return any(isinstance(self.space.fields[name], Range) for name in names)

    def panel_size(self, x: str, y: str) -> tuple[float, float]:
        """Return (width, height) in inches, with room for the labels and a number in each cell."""
        across, down = self.levels(x), self.levels(y)
        below = max(map(len, across), default=0)
        return (
            max(MIN_PANEL, CELL[0] * len(across)) + CHARACTER * max(map(len, down), default=0),
            max(MIN_PANEL, CELL[1] * len(down)) + (CHARACTER * below / 2 if below > MAX_LEVEL_CHARS else 0),
        )

    def levels(self, name: str) -> list[str]:
        """Return the values of a field as labels, none for a range."""
        field = self.space.fields[name]
        return [] if isinstance(field, Range) else short_labels(field, MAX_SETTING_CHARS)

    def best(self, points: Sequence[Point]) -> Point:
        """Return the best of `points`, a failed one only if all have failed."""
        done = [point for point in points if not math.isnan(point[1])]
        choose = min if lower_is_better(self.monitor) else max
        return choose(done, key=lambda point: point[1]) if done else points[0]

    def colors(self) -> ScalarMappable:
        """Return a scale of blues, darker for better. None is as light as the background, where there is no trial."""
        scores = [score for _, score in self.points]
        blues = ListedColormap(matplotlib.colormaps["Blues"](np.linspace(0.2, 1, 256)))
        order = blues.reversed() if lower_is_better(self.monitor) else blues
        return ScalarMappable(Normalize(np.nanmin(scores), np.nanmax(scores)), order)

    def at(self, name: str, settings: Settings) -> float:
        """Return the position of a trial on the axis of a field."""
        field = self.space.fields[name]
        return float(settings[name]) if isinstance(field, Range) else field.index(settings[name])

    def label(self, axes: Axes, which: str, name: str) -> None:
        """Label the axis `which`, x or y, with the values of a field, or give it the scale of a range."""
        field = self.space.fields[name]
        axes.set(**{f"{which}label": self.space.label(name)})
        if isinstance(field, Range):
            if field.log:
                log_scale(axes, which, field)
            return
        turned = which == "x" and max(map(len, self.levels(name))) > MAX_LEVEL_CHARS
        style: dict[str, Any] = dict(rotation=30, ha="right", rotation_mode="anchor") if turned else {}
        axis_of(axes, which).set_ticks(range(len(field)), labels=self.levels(name), parse_math=False, **style)

    def draw_line(self, axes: Axes, name: str) -> None:
        self.label(axes, "x", name)
        axes.set_ylabel(self.monitor)
        axes.yaxis.set_major_formatter(lambda value, _: format_metric(self.monitor, value))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        trials = sorted((self.at(name, settings), score) for settings, score in self.points)
        done = [(x, score) for x, score in trials if not math.isnan(score)]
        axes.plot(*zip(*done, strict=True), marker="o", color=BLUE)
        settings, score = self.best(self.points)
        axes.plot(
            self.at(name, settings), score, "o", color=ORANGE, label=f"best: {format_metric(self.monitor, score)}"
        )
        for x, score in trials:
            if math.isnan(score):
                axes.axvline(x, color=GREY, linestyle=":", label="failed")
        labels = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        axes.legend(labels.values(), labels.keys(), frameon=False)

    def draw_dots(self, axes: Axes, x: str, y: str) -> None:
        """Draw a dot for each trial, a cross for one that failed."""
        colors = self.colors()
        best = self.best(self.points)
        for settings, score in self.points:
            at = self.at(x, settings), self.at(y, settings)
            if math.isnan(score):
                axes.plot(*at, "x", color=GREY)
            else:
                edge, width = (ORANGE, 3) if settings == best[0] else (GREY, 1)
                axes.plot(
                    *at, "o", color=colors.to_rgba(np.array(score)), mec=edge, mew=width, markersize=9, zorder=2 + width
                )
        axes.spines[["top", "right"]].set_visible(False)

    def draw_cells(self, axes: Axes, x: str, y: str) -> None:
        """Draw a heat map: in each cell the best score, "failed" if all trials have, nothing if there is none."""
        colors = self.colors()
        cells: defaultdict[tuple[float, float], list[Point]] = defaultdict(list)
        for settings, score in self.points:
            cells[self.at(x, settings), self.at(y, settings)].append((settings, score))
        for (column, row), points in cells.items():
            _, score = self.best(points)
            failed = math.isnan(score)
            color = to_rgba_array(FAILED)[0] if failed else colors.to_rgba(np.array(score))
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=color, edgecolor="white"))
            ink = LIGHT_INK if np.mean(color[:3]) < 0.6 else DARK_INK
            text = "failed" if failed else format_metric(self.monitor, score)
            axes.text(column, row, text, ha="center", va="center", size=9, color=ink)
        settings, _ = self.best(self.points)
        corner = self.at(x, settings) - 0.48, self.at(y, settings) - 0.48
        axes.add_patch(Rectangle(corner, 0.96, 0.96, fill=False, edgecolor=ORANGE, linewidth=3))
        axes.set(xlim=(-0.5, len(axes.get_xticks()) - 0.5), ylim=(-0.5, len(axes.get_yticks()) - 0.5))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)


def axis_of(axes: Axes, which: str) -> Axis:
    return axes.xaxis if which == "x" else axes.yaxis


def log_scale(axes: Axes, which: str, field: Range) -> None:
    """Give an axis a logarithmic scale with ticks such as 0.01, 0.02, 0.05; only powers of ten in a wide range."""
    axes.set(**{f"{which}scale": "log"})
    axis = axis_of(axes, which)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if field.high <= 20 * field.low else (1,)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def seed_curves(histories: Sequence[History], quantity: str) -> Figure:
    """The "loss" or "accuracy" of runs that differ in their seed: a thin line each, mean and standard deviation."""
    figure, axes = axes_over_epochs()
    common = min(map(len, histories))  # a run may stop early
    for prefix, label, color in (("train", "training", BLUE), ("val", "validation", ORANGE)):
        column = f"{prefix}_{quantity}"
        if column not in histories[0][0]:
            continue
        mark = "." if common < MARKED_EPOCHS else None
        for history in histories:
            points = [(row["epoch"], row[column]) for row in history]
            axes.plot(*zip(*points, strict=True), color=color, linewidth=0.6, alpha=0.5, marker=mark)
        values = np.array([[row[column] for row in history[:common]] for history in histories])
        epochs = np.arange(1, common + 1)
        mean, deviation = values.mean(0), values.std(0, ddof=1)
        axes.plot(epochs, mean, color=color, linewidth=2, label=f"{label}, mean of {len(histories)} seeds")
        if common == 1:  # a band would have no width
            axes.errorbar(epochs, mean, deviation, color=color, marker="_", markersize=12, capsize=5)
        axes.fill_between(epochs, mean - deviation, mean + deviation, color=color, alpha=0.25, linewidth=0)
    axes.set_title("bands and bars: ± one standard deviation", fontsize="medium", loc="left")
    finish_axes(axes, quantity)
    return figure
