"""Compare several runs: one table and their curves."""

from pathlib import Path

from ml_collections import FrozenConfigDict

from resnet_flax import models
from resnet_flax.data.datasets.load import image_shape
from resnet_flax.report import figures
from resnet_flax.report import html as page
from resnet_flax.report.report import best_validation, write_figure
from resnet_flax.report.tables import decimal, percent, text_table
from resnet_flax.text import print_line
from resnet_flax.training.restore import read_history
from resnet_flax.workdir.folder import Job
from resnet_flax.workdir.history import EpochRow
from resnet_flax.workdir.predictions import wilson_interval
from resnet_flax.workdir.results import read_results

COMPARISON_HEADER = ["run", "val acc", "val loss", "epoch", "test acc", "95 % interval", "train acc", "parameters"]


def write_comparison(runs: list[Job], folder: Path) -> None:
    """Print a table of several runs, best validation accuracy first, and draw their curves over each other."""
    histories = {str(workdir): read_history(config, workdir) for config, workdir in runs}
    ranked = sorted(
        runs, key=lambda run: -(best_validation(histories[str(run[1])]) or {"val_accuracy": -1})["val_accuracy"]
    )
    rows = [comparison_row(config, workdir, histories[str(workdir)]) for config, workdir in ranked]
    folder.mkdir(parents=True, exist_ok=True)
    for quantity in ("loss", "accuracy"):
        write_figure(folder, quantity, figures.compared_curves(histories, quantity))
    text = text_table(COMPARISON_HEADER, rows)
    (folder / "comparison.txt").write_text(text, encoding="utf-8")
    pictures = [page.picture(folder / f"{name}.png", f"{name} after each epoch") for name in ("accuracy", "loss")]
    parts = [
        page.paragraph("Sorted by the best validation accuracy; the epoch is the one that has it."),
        page.table(COMPARISON_HEADER, rows),
        page.section("Training", page.pair(*pictures)),
    ]
    (folder / "comparison.html").write_text(page.document(f"{len(runs)} runs compared", parts), encoding="utf-8")
    print_line(f"{text}comparison: {folder}")


def comparison_row(config: FrozenConfigDict, workdir: Path, history: list[EpochRow]) -> list[str]:
    best, results = best_validation(history) or history[-1], read_results(workdir)
    interval = "-"
    if "test_accuracy" in results:
        count = results["test_examples"]
        interval = " - ".join(map(percent, wilson_interval(round(results["test_accuracy"] * count), count)))
    model = models.build(config)
    parameters = models.count_parameters(model, image_shape(config.data))
    return [
        str(workdir),
        percent(best.get("val_accuracy")),
        decimal(best.get("val_loss")),
        f"{best['epoch']:.0f}",
        percent(results.get("test_accuracy")),
        interval,
        percent(best["train_accuracy"]),
        f"{parameters:,}",
    ]
