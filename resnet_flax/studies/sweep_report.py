"""The report of a sweep: its trials, best first, as tables and a figure, and the command that trains the winner."""

import csv
import io
import math
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from resnet_flax.config.stored import config_to_json
from resnet_flax.data.datasets.load import load_split
from resnet_flax.report import html
from resnet_flax.report.files import Files
from resnet_flax.report.html import Tile
from resnet_flax.report.tables import decimal, format_metric, percent, text_table
from resnet_flax.studies import figures
from resnet_flax.studies.space import Plan, Settings
from resnet_flax.text import first_few
from resnet_flax.verbs import PROGRAM
from resnet_flax.workdir.history import lower_is_better
from resnet_flax.workdir.predictions import wilson_interval

MAX_ROWS_PRINTED = 20  # rows on the terminal; the page and the CSV have all
RESULTS = ("val_accuracy", "val_loss", "train_accuracy", "train_loss", "chosen_epoch", "epochs", "parameters")
SCORE_COLUMNS = ("val acc", "95 % interval", "val loss", "epoch", "train acc")
STATES = ("complete", "running", "waiting", "fail")  # in the order of the table
OPTIMISTIC = "The best of many trials looks better on validation than it is; the test split gives an honest number."
INTERVALS = "Intervals are those of an accuracy on {:,} images."


@dataclass(frozen=True)
class Outcome:
    """A trial, counted from 1, in one of STATES. A complete one has `results`, a failed one a `reason`."""

    number: int
    settings: Settings
    state: str
    results: dict
    reason: str


def write_sweep_report(plan: Plan, outcomes: Sequence[Outcome]) -> str:
    """Write sweep.csv and, once a trial is complete, sweep.png and sweep.html; return a summary to print."""
    ranked, files = ranking(plan, outcomes), Files()
    files.text("sweep.csv", csv_table(plan, ranked))
    state = progress(plan, ranked)
    if not ranked or ranked[0].state != "complete":
        files.write(plan.workdir)
        return f"\n{state}: no complete trial in {plan.workdir} yet"
    examples = len(load_split(plan.config.data, "validation")[1])
    header = ["trial", *map(plan.space.label, plan.space.fields), *SCORE_COLUMNS]
    rows = [trial_row(one, examples) for one in ranked]
    parts = [
        html.paragraph(f"{plan.config.model.name} on {plan.config.data.name}, {plan.method}: {state}. {OPTIMISTIC}"),
        *winner_parts(plan, ranked[0]),
        html.section("Settings", settings_chart(plan, ranked, files)),
        html.section("Trials", html.table(header, rows), html.paragraph(INTERVALS.format(examples))),
        *failure_parts(plan, ranked),
        html.folded("Config", html.preformatted(config_to_json(plan.config))),
    ]
    files.text("sweep.html", html.document(plan.workdir.absolute().name, parts))
    files.write(plan.workdir)
    lines = first_few(text_table(header, rows).splitlines(), 1 + MAX_ROWS_PRINTED)
    return "\n".join(["", *lines, state, *winner_lines(plan, ranked[0]), f"report: {plan.workdir / 'sweep.html'}"])


def progress(plan: Plan, outcomes: Sequence[Outcome]) -> str:
    counts = Counter(one.state for one in outcomes)
    text = f"{counts['complete']} of {plan.trials} trials complete, {counts['fail']} failed"
    return text + (f", {counts['running']} running" if counts["running"] else "")


def ranking(plan: Plan, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return complete trials by the monitored metric, best first, ties by loss, then unfinished and failed ones."""

    def place(one: Outcome) -> tuple[float, ...]:
        if one.state != "complete":
            return (STATES.index(one.state),)
        score, loss = one.results[plan.monitor], one.results["val_loss"]
        return STATES.index(one.state), score if lower_is_better(plan.monitor) else -score, loss

    return sorted(outcomes, key=place)


def trial_row(outcome: Outcome, examples: int) -> list[str]:
    results = outcome.results
    start = [str(outcome.number), *outcome.settings.values()]
    if outcome.state != "complete":
        return [*start, "failed" if outcome.state == "fail" else outcome.state, "-", "-", "-", "-"]
    low, high = wilson_interval(round(results["val_accuracy"] * examples), examples)
    return [
        *start,
        percent(results["val_accuracy"]),
        f"{percent(low)} to {percent(high)}",
        decimal(results["val_loss"]),
        f"{results['chosen_epoch']:.0f}",
        percent(results["train_accuracy"]) + (" (mixed images)" if "train_accuracy_of" in results else ""),
    ]


def csv_table(plan: Plan, ranked: Sequence[Outcome]) -> str:
    """Return a row for each trial, best first, with the full names of the fields."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["trial", "state", *plan.space.fields, *RESULTS, "reason", "run"])
    for one in ranked:
        results = [one.results.get(name, "") for name in RESULTS]
        run = plan.folder(one.settings)
        writer.writerow([one.number, one.state, *one.settings.values(), *results, one.reason, run])
    return file.getvalue()


def settings_chart(plan: Plan, ranked: Sequence[Outcome], files: Files) -> str:
    points = [
        (one.settings, one.results[plan.monitor] if one.state == "complete" else math.nan)
        for one in ranked
        if one.state in ("complete", "fail")
    ]
    figure = figures.Scores(plan.space, points, plan.monitor).figure()
    return files.chart("sweep", figure, f"{plan.monitor} of the trials")


def failure_parts(plan: Plan, ranked: Sequence[Outcome]) -> list[str]:
    rows = [[plan.space.describe(one.settings), one.reason] for one in ranked if one.state == "fail"]
    return [html.section("Failed", html.table(["trial", "reason"], rows, "wrap"))] if rows else []


def winner_parts(plan: Plan, best: Outcome) -> list[str]:
    score = Tile(
        f"best {plan.monitor}", format_metric(plan.monitor, best.results[plan.monitor]), f"trial {best.number}"
    )
    settings = [Tile(plan.space.label(field), value) for field, value in best.settings.items()]
    command = " \\\n    ".join([PROGRAM, *map(shlex.quote, winner_words(plan, best))])
    return [html.tiles([score, *settings]), html.section("To train and test the winner", html.preformatted(command))]


def winner_lines(plan: Plan, best: Outcome) -> list[str]:
    score = format_metric(plan.monitor, best.results[plan.monitor])
    return [
        f"best {plan.monitor} {score}: {plan.space.describe(best.settings)}; to train and test it:",
        f"  {PROGRAM} {shlex.join(winner_words(plan, best))}",
    ]


def winner_words(plan: Plan, best: Outcome) -> list[str]:
    """Return the flags that train the best trial again, with the recipe's test split."""
    return [*plan.space.words(best.settings), f"--workdir={plan.workdir / 'best'}"]
