"""The pictures of a run, from what its workdir holds."""

import csv
import json
from pathlib import Path

import matplotlib
import numpy as np
from ml_collections import FrozenConfigDict

from resnet_flax.errors import UserError
from resnet_flax.optim import schedules

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

BLUE, ORANGE, GREY = "#2066a8", "#c8682a", "#666666"


def read_history(workdir: Path) -> list[dict[str, float]]:
    """The rows of a workdir's metrics.csv; a column without validation is left out."""
    path = workdir / "metrics.csv"
    if not path.exists():
        raise UserError(f"{workdir} holds no run: there is no {path.name} in it")
    with open(path, newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def draw(config: FrozenConfigDict, workdir: Path) -> None:
    """Draw loss.png, accuracy.png and learning_rate.png into the workdir's `report`, for the epochs so far."""
    history = read_history(workdir)
    if not history:
        raise UserError(f"{workdir} has no finished epoch to report on yet")
    folder = workdir / "report"
    folder.mkdir(exist_ok=True)
    results_file = folder / "results.json"
    results = json.loads(results_file.read_text()) if results_file.exists() else {}
    for quantity in ("loss", "accuracy"):
        figure, axes = new_figure()
        draw_curves(axes, history, quantity, results)
        save(figure, folder / f"{quantity}.png")
    figure, axes = new_figure()
    draw_schedules(axes, history, config)
    save(figure, folder / "learning_rate.png")
    print(f"report: {folder}", flush=True)


def new_figure() -> tuple[plt.Figure, Axes]:
    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=120, layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path)
    plt.close(figure)


def draw_curves(axes: Axes, history: list[dict[str, float]], quantity: str, results: dict) -> None:
    """Training and validation over the epochs; the test split as the one point that it is."""
    epochs = [row["epoch"] for row in history]
    mark = "o" if len(epochs) < 30 else None
    for prefix, label, color in (("train", "training", BLUE), ("val", "validation", ORANGE)):
        if f"{prefix}_{quantity}" in history[0]:
            values = [row[f"{prefix}_{quantity}"] for row in history]
            axes.plot(epochs, values, label=label, color=color, marker=mark, markersize=4)
    if f"test_{quantity}" in results:
        value = results[f"test_{quantity}"]
        text = f"{value:.2%}" if quantity == "accuracy" else f"{value:.4f}"
        axes.plot(
            results["chosen_epoch"], value, "*", markersize=13, color="black", label=f"test, once: {text}", zorder=3
        )
    axes.set_ylabel(quantity)
    if quantity == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(frameon=False)


def draw_schedules(axes: Axes, history: list[dict[str, float]], config: FrozenConfigDict) -> None:
    """The learning rate at every step so far, and the momentum where it moves."""
    steps_per_epoch = int(history[0]["step"] / history[0]["epoch"])
    span = schedules.Span(config.train.epochs, steps_per_epoch, config.schedule.per)
    steps = np.unique(np.linspace(0, history[-1]["step"] - 1, 2000).astype(np.int32))
    rate = np.asarray(schedules.learning_rate(config, span)(steps))
    axes.step(steps / steps_per_epoch, rate, where="post", color=BLUE, label="learning rate")
    axes.set_ylabel("learning rate")
    momentum = np.asarray(schedules.momentum(config, span)(steps))
    if momentum.min() < momentum.max():
        right = axes.twinx()
        right.spines["top"].set_visible(False)
        right.step(steps / steps_per_epoch, momentum, where="post", color=GREY, linestyle="--", label="momentum")
        right.set_ylabel("momentum (dashed)")
