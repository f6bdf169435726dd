"""List what there is: the recipes, the networks, pretrained or not, and the runs below ./runs."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from resnet_flax import models
from resnet_flax.config.checks import complete
from resnet_flax.config.defaults import get_config
from resnet_flax.config.recipes import load_recipe, recipe_names, recipe_summary
from resnet_flax.config.stored import read_config, runs_below
from resnet_flax.errors import UserError
from resnet_flax.report.facts import parameter_count
from resnet_flax.report.tables import percent, text_table
from resnet_flax.text import escape_line, print_line
from resnet_flax.training.restore import read_history
from resnet_flax.workdir.history import best_row
from resnet_flax.workdir.results import read_results
from resnet_flax.workdir.trained import pretrained_files, read_trained_config, read_trained_results

RUNS_HEADER = ["run", "network", "epochs", "val accuracy", "test accuracy"]
PRETRAINED_HEADER = ["pretrained", "network", "parameters", "test accuracy"]


class Line(NamedTuple):
    """The cells of a row of a table, and the text after them."""

    cells: Sequence[str]
    text: str = ""


def list() -> None:
    """Print recipes and networks with their parameters, and pretrained networks and runs with their accuracy."""
    print_line(table(["recipe", "network", "parameters"], map(recipe_line, recipe_names())))
    print_line(table(["network", "parameters"], map(network_line, models.NETWORKS)))
    print_line(table(PRETRAINED_HEADER, map(pretrained_line, pretrained_files())))
    if workdirs := sorted(runs_below(Path("runs"))):
        print_line(table(RUNS_HEADER, map(run_line, workdirs)))


def table(header: Sequence[str], lines: Iterable[Line]) -> str:
    cells, texts = zip(*lines, strict=True)
    rows = text_table(header, cells).splitlines()
    return "\n".join(f"{row}  {text}".rstrip() for row, text in zip(rows, ["", *texts], strict=True)) + "\n"


def recipe_line(name: str) -> Line:
    config = load_recipe(name)
    return Line([name, config.model.name, parameters(config)], recipe_summary(name))


def network_line(name: str) -> Line:
    config = get_config()
    config.model.name = name
    parts = models.architecture(name)
    blocks, widths = ("-".join(map(str, parts["blocks"])), "/".join(map(str, parts["widths"])))
    return Line([name, parameters(config)], f"{parts['block']} blocks {blocks}, {widths} channels")


def pretrained_line(weights: Path) -> Line:
    config, results = read_trained_config(weights), read_trained_results(weights)
    about = f"trained on {config.data.name} as {results['recipe']}"
    cells = [weights.parent.name, config.model.name, parameters(config), percent(results["test_accuracy"])]
    return Line(cells, about)


def parameters(config: ConfigDict) -> str:
    """Return the number of parameters; "-" if it depends on a folder of images that the config does not name."""
    try:
        completed = complete(config)
    except UserError:
        return "-"
    return f"{parameter_count(completed):,}"


def run_line(workdir: Path) -> Line:
    name = escape_line(workdir)
    try:
        config = complete(read_config(workdir))
        history = read_history(config, workdir)
    except UserError as problem:
        return Line([name, *"-" * (len(RUNS_HEADER) - 1)], escape_line(problem))
    best = best_row(history, config.train.monitor) or {}
    accuracies = best.get("val_accuracy"), read_results(workdir).get("test_accuracy")
    return Line([name, config.model.name, str(len(history)), *map(percent, accuracies)])
