"""Compare several runs: one table, what differs between them, and their curves."""

import os
from functools import partial
from pathlib import Path

import numpy as np
from ml_collections import FrozenConfigDict

from resnet_flax.config.defaults import flatten
from resnet_flax.data.augment.mixing import Mixing
from resnet_flax.data.datasets.fingerprint import EvaluatedSplit, same_images
from resnet_flax.report import figures, html
from resnet_flax.report.facts import MAX_VALUE_CHARS, chosen_row, interval_text, parameter_count, run_facts
from resnet_flax.report.files import Files
from resnet_flax.report.tables import decimal, difference_text, percent, text_table
from resnet_flax.text import escape_line, print_line
from resnet_flax.training.restore import read_history
from resnet_flax.workdir.folder import Job
from resnet_flax.workdir.history import EpochRow
from resnet_flax.workdir.identity import recorded_contents
from resnet_flax.workdir.predictions import Predictions, read_split_predictions
from resnet_flax.workdir.results import read_results

COMPARISON_HEADER = ["run", "val acc", "val loss", "epoch", "test acc", "95 % interval", "train acc", "parameters"]
DIFFERENCE_HEADER = ["test accuracy", "points (95 % interval)"]


def write_comparison(runs: list[Job], folder: Path) -> None:
    """Print a table of several runs, best validation accuracy first, and what differs; write these and their curves."""
    histories = {run.workdir: read_history(run.config, run.workdir) for run in runs}
    results = {run.workdir: read_results(run.workdir) for run in runs}

    def accuracy(run: Job) -> float:
        return chosen_row(run.config, histories[run.workdir]).get("val_accuracy", -1)

    ranked = sorted(runs, key=accuracy, reverse=True)
    names = [str(run.workdir) for run in ranked]
    rows = [comparison_row(*run, histories[run.workdir], results[run.workdir]) for run in ranked]
    differences = difference_rows([run for run in ranked if results[run.workdir]])
    different = differing_rows(ranked, [results[run.workdir] for run in ranked])
    tables = [(COMPARISON_HEADER, rows), (DIFFERENCE_HEADER, differences), (["", *names], different)]
    text = "\n".join(text_table(header, found) for header, found in tables if found)
    files = Files()
    files.text("comparison.txt", text)
    drawn = ranked[: figures.MAX_CURVES]
    curves = {name: histories[run.workdir] for name, run in zip(short_names(drawn), drawn, strict=True)}
    which = f" of the best {len(drawn)} of {len(ranked)} runs" if len(drawn) < len(ranked) else ""
    parts = [
        html.paragraph("Sorted by validation accuracy. Each run is shown at its chosen epoch, whose weights it keeps."),
        html.table(COMPARISON_HEADER, rows, "wrap"),
        html.table(DIFFERENCE_HEADER, differences) if differences else "",
        files.curves(partial(figures.compared_curves, curves), which=which),
        html.section("What differs", html.table(["", *names], different, "wrap")) if different else "",
    ]
    files.text("comparison.html", html.document(f"{len(runs)} runs compared", parts))
    files.write(folder)
    print_line(f"{text}comparison: {folder}")


def short_names(runs: list[Job]) -> list[str]:
    """Return the workdir of each run relative to the folder that they have in common."""
    workdirs = [run.workdir.absolute() for run in runs]
    common = os.path.commonpath([workdir.parent for workdir in workdirs])
    return [str(workdir.relative_to(common)) for workdir in workdirs]


def comparison_row(config: FrozenConfigDict, workdir: Path, history: list[EpochRow], results: dict) -> list[str]:
    chosen, images = chosen_row(config, history), " (mixed images)" if Mixing.of(config.train).on else ""
    return [
        str(workdir),
        percent(chosen.get("val_accuracy")),
        decimal(chosen.get("val_loss")),
        f"{chosen['epoch']:.0f}",
        percent(results.get("test_accuracy")),
        interval_text(results) if "test_accuracy" in results else "-",
        percent(chosen["train_accuracy"]) + images,
        f"{parameter_count(config):,}",
    ]


def difference_rows(runs: list[Job]) -> list[list[str]]:
    """Return by how much the test accuracy of each finished run differs from the first's, if the images agree."""
    tested = [(run, found) for run in runs if (found := test_predictions(run))]
    return [
        [f"{run.workdir} minus {tested[0][0].workdir}", difference_text(found, tested[0][1])]
        for run, found in tested[1:]
        if np.array_equal(found.labels, tested[0][1].labels) and same_images(tested_by(run), tested_by(tested[0][0]))
    ]


def tested_by(run: Job) -> EvaluatedSplit:
    """Return what the test split of a finished run contained, as its newest checkpoint recorded."""
    return EvaluatedSplit(run.config.data, recorded_contents(run.workdir, "test"))


def test_predictions(run: Job) -> Predictions | None:
    """Return the predictions of a finished run for its test split, None if there are none."""
    saved = read_split_predictions(run.workdir, len(run.config.data.classes))
    return saved.predictions if saved and saved.role == "test" else None


def differing_rows(runs: list[Job], results: list[dict]) -> list[list[str]]:
    """Return a row for each field of the config and each fact about the training in which runs differ."""
    columns = [
        flatten(run.config.to_dict()) | run_facts(run.config, found) for run, found in zip(runs, results, strict=True)
    ]
    rows = {name: [column.get(name, "-") for column in columns] for column in columns for name in column}
    return [
        [name, *(escape_line(value, MAX_VALUE_CHARS) for value in values)]
        for name, values in rows.items()
        if any(value != values[0] for value in values)
    ]
