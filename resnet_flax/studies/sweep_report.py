"""What a sweep has found: a table best first, a picture, a page, and the command that trains the winner."""

import csv
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from resnet_flax.config.stored import config_to_json
from resnet_flax.data.datasets.load import load_split
from resnet_flax.files import atomic_write
from resnet_flax.report import html as page
from resnet_flax.report.report import write_figure
from resnet_flax.report.tables import decimal, format_metric, percent, text_table
from resnet_flax.studies import figures
from resnet_flax.studies.space import Plan, Settings
from resnet_flax.workdir.predictions import wilson_interval

MAX_ROWS_PRINTED = 20  # rows on the terminal; the page and the CSV have all
RESULTS = ("val_accuracy", "val_loss", "train_accuracy", "train_loss", "chosen_epoch", "epochs", "parameters")
SCORE_COLUMNS = ("val acc", "95 % interval", "val loss", "epoch", "train acc")
OPTIMISTIC = "The best of many trials looks better on validation than it is; the test split says what it is worth."
INTERVAL = "The interval is that of an accuracy on {:,} images."


@dataclass(frozen=True)
class Outcome:
    """A trial, counted from 1: waiting, running, complete (it has `results`) or a fail (it has a `reason`)."""

    number: int
    settings: Settings
    state: str
    results: dict
    reason: str


def write_sweep_report(plan: Plan, outcomes: Sequence[Outcome]) -> str:
    """Write sweep.csv and, once a trial is complete, sweep.png and sweep.html; return what there is to say."""
    ranked = ranking(plan, outcomes)
    write_csv(plan, ranked)
    complete, failed, running = (
        [one for one in ranked if one.state == state] for state in ("complete", "fail", "running")
    )
    state = f"{len(complete)} of {plan.trials} trials complete, {len(failed)} failed"
    state += f", {len(running)} begun" if running else ""
    if not complete:
        return f"\n{state}: nothing to choose from in {plan.workdir}"
    points = [(one.settings, one.results.get(plan.monitor, math.nan)) for one in (*complete, *failed)]
    write_figure(plan.workdir, "sweep", figures.Scores(plan.space, points, plan.monitor).figure())
    examples = len(load_split(plan.config.data, "validation")[1])
    header = ["trial", *map(plan.space.label, plan.space.fields), *SCORE_COLUMNS]
    rows = [trial_row(one, examples) for one in ranked]
    best, score = complete[0], format_metric(plan.monitor, complete[0].results[plan.monitor])
    command = winner_command(plan, best)
    parts = [
        page.paragraph(f"{plan.config.model.name} on {plan.config.data.name}, {plan.method}: {state}. {OPTIMISTIC}"),
        page.numbers({f"best {plan.monitor}": score} | {plan.space.label(k): v for k, v in best.settings.items()}),
        page.section("To train and test the winner", page.preformatted(" \\\n    ".join(map(shlex.quote, command)))),
        page.section("Settings", page.picture(plan.workdir / "sweep.png", f"{plan.monitor} of the trials")),
        page.section("Trials", page.table(header, rows), page.paragraph(INTERVAL.format(examples))),
        *([page.section("Failed", page.table(["trial", "reason"], reasons(plan, failed)))] if failed else []),
        page.folded("Config", page.preformatted(config_to_json(plan.config))),
    ]
    path = plan.workdir / "sweep.html"
    path.write_text(page.document(plan.workdir.absolute().name, parts), encoding="utf-8")
    more = f"and {len(rows) - MAX_ROWS_PRINTED} more in sweep.csv\n" if len(rows) > MAX_ROWS_PRINTED else ""
    return (
        f"\n{text_table(header, rows[:MAX_ROWS_PRINTED])}{more}{state}\nbest {plan.monitor} {score}: "
        f"{plan.space.describe(best.settings)}; to train and test it:\n  {shlex.join(command)}\nreport: {path}"
    )


def reasons(plan: Plan, failed: Sequence[Outcome]) -> list[list[str]]:
    return [[plan.space.describe(one.settings), one.reason] for one in failed]


def ranking(plan: Plan, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Complete trials, the best first (of equal accuracy by loss), then unfinished ones, then those that failed."""

    def place(one: Outcome) -> tuple[float, ...]:
        accuracy, loss = (one.results.get(name, 0) for name in ("val_accuracy", "val_loss"))
        order = ["complete", "running", "waiting", "fail"].index(one.state)
        return (order, loss) if plan.monitor == "val_loss" else (order, -accuracy, loss)

    return sorted(outcomes, key=place)


def trial_row(outcome: Outcome, examples: int) -> list[str]:
    found = outcome.results
    start = [str(outcome.number), *outcome.settings.values()]
    if not found:
        return [*start, "failed" if outcome.state == "fail" else outcome.state, "-", "-", "-", "-"]
    low, high = wilson_interval(round(found["val_accuracy"] * examples), examples)
    return [
        *start,
        percent(found["val_accuracy"]),
        f"{percent(low)} - {percent(high)}",
        decimal(found["val_loss"]),
        f"{found['chosen_epoch']:.0f}",
        percent(found["train_accuracy"]),
    ]


def write_csv(plan: Plan, ranked: Sequence[Outcome]) -> None:
    """sweep.csv: a row for each trial, best first, with the full names of the fields."""
    with atomic_write(plan.workdir / "sweep.csv") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", *plan.space.fields, *RESULTS, "reason", "run"])
        for one in ranked:
            found = [one.results.get(name, "") for name in RESULTS]
            run = plan.folder(one.settings)
            writer.writerow([one.number, one.state, *one.settings.values(), *found, one.reason, run])


def winner_command(plan: Plan, best: Outcome) -> list[str]:
    """The command line that trains the best trial again, with the test split that the recipe has."""
    words = [*plan.space.words(best.settings), f"--workdir={plan.workdir / 'best'}"]
    return ["python", "-m", "resnet_flax.main", *words]
