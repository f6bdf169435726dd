"""The test accuracy of recorded runs, as text and tables for the documents."""

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks import recipes, runs
from benchmarks.record import is_cpu
from benchmarks.runs import Recorded
from benchmarks.tables import minutes, span, spread, table

UNMEASURED = "not yet measured"
HEADER = (
    "recipe",
    "its report, %",
    "test accuracy, %",
    "with six views, %",
    "n",
    "epochs",
    "training images",
    "time of a run",
    "device",
    "commit",
)


class Group(NamedTuple):
    """Finished runs that differ only in their seeds, on accelerators of one kind or on CPUs."""

    recipe: str
    runs: list[Recorded]

    @property
    def device(self) -> str:
        return " or ".join(sorted({run.device for run in self.runs}))

    def values(self, name: str) -> list:
        return [run.results[name] for run in self.runs if run.results.get(name) is not None]

    def accuracy(self, field: str = "test_accuracy") -> str:
        """Return a field's mean and deviation in percent, "" unless all runs have it."""
        found = self.values(field)
        return spread([100 * value for value in found]) if len(found) == len(self.runs) else ""

    def accuracies(self) -> str:
        """Return the accuracy, that with the published records' views if it was measured, and the number of runs."""
        views = f", {tta} % with six views" if (tta := self.accuracy("tta_accuracy")) else ""
        return f"{self.accuracy()} %{views} (n = {len(self.runs)})"

    def seconds(self) -> str:
        found = self.values("training_seconds")
        return " to ".join(dict.fromkeys(minutes(bound) for bound in (min(found), max(found)))) if found else ""


def groups(found: Sequence[Recorded]) -> list[Group]:
    """Return the finished runs of unchanged recipes, grouped, in the order of recipes.variants.

    The accuracy does not depend on the CPU, but an accelerator computes in lower precision.
    """
    order, together = recipes.variants(), dict[tuple[int, str], list[Recorded]]()
    for run in found:
        if "test_accuracy" in run.results and not run.changes:
            device = "" if is_cpu(run.results["device"]) else run.results["device"]
            together.setdefault((order.index(run.recipe), device), []).append(run)
    return [Group(some[0].recipe, some) for _, some in sorted(together.items())]


def reported(recipe: str) -> str:
    """Return the accuracy that the report of a recipe's network states, "" without a report."""
    name = recipe.partition(":")[0]
    return recipes.REPORTED.get(recipe) or recipes.REPORTED.get(recipes.as_reported(name), "")


def trained(found: Sequence[Recorded]) -> str:
    """Return a row for each group of runs: mean and deviation over the seeds, beside its report."""
    rows = [
        [
            group.recipe,
            reported(group.recipe),
            group.accuracy(),
            group.accuracy("tta_accuracy"),
            f"{len(group.runs)}",
            span(group.values("epochs")),
            span(group.values("train_examples")),
            group.seconds(),
            group.device,
            ", ".join(sorted(set(group.values("code")))),
        ]
        for group in groups(found)
    ]
    return table(HEADER, rows) if rows else ""


def changed(found: Sequence[Recorded]) -> str:
    """Return a line for each finished run whose config is not that of any recipe."""
    return "".join(changed_line(run) for run in found if "test_accuracy" in run.results and run.changes)


def changed_line(run: Recorded) -> str:
    results = run.results
    tested = f"{results['test_accuracy']:.2%} of {results['test_examples']:,} test images"
    time = f" in {minutes(results['training_seconds'])}" if "training_seconds" in results else ""
    plural = "s" if results["epochs"] > 1 else ""
    epochs = f"{results['epochs']} epoch{plural} on {results['train_examples']:,} images"
    made = f"on {run.device}, commit {results['code']}"
    return f"- {link(run)}: {tested} after {epochs}{time} {made}.\n  `{run.command()}`\n"


def unfinished(found: Sequence[Recorded]) -> str:
    """Return a line for each run in progress: how far it is, and the command that continues it."""
    return "".join(unfinished_line(run) for run in found if not run.results)


def unfinished_line(run: Recorded) -> str:
    last = run.history[-1]
    scores = [f"training accuracy {last['train_accuracy']:.2%}"]
    scores += [f"validation accuracy {last['val_accuracy']:.2%}"] if "val_accuracy" in last else []
    epoch = f"epoch {last['epoch']:.0f} of {run.config.train.epochs}"
    return f"- {link(run)}: {epoch}, {', '.join(scores)}.\n  `{run.command()}`\n"


def link(run: Recorded) -> str:
    """Return a link from docs/ to the folder of a run."""
    return f"[{run.path.name}](../benchmarks/results/{runs.RUNS}/{run.path.name})"


def statement(name: str, found: Sequence[Recorded]) -> str:
    """Return the statement in the docstring of configs/NAME.py on the accuracy that this project has measured."""
    measured = [
        f"{group.recipe} {group.accuracies()[:-1]}, {group.device})"
        for group in groups(found)
        if group.recipe.partition(":")[0] == name
    ]
    return f"This project: {'; '.join(measured) or UNMEASURED}."
