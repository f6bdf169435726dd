"""What is to be said about a run, and about several: pictures, tables and one page, from what workdirs hold.

Imports Matplotlib, which takes a quarter of a second: training does without until it is over.
"""

from pathlib import Path

from matplotlib.figure import Figure
from ml_collections import FrozenConfigDict

from resnet_flax import config as configs
from resnet_flax import models, pictures, predictions
from resnet_flax import report_page as page
from resnet_flax.data import sources
from resnet_flax.errors import UserError
from resnet_flax.models import table
from resnet_flax.predictions import wilson
from resnet_flax.results import Answers, Rows, find_answers, read_history, read_results
from resnet_flax.tables import CLASS_HEADER, as_text, class_rows, number, share
from resnet_flax.text import say

Run = tuple[FrozenConfigDict, Path]  # a complete config and its workdir


def report(runs: list[Run], output: str) -> None:
    """Draw the report of one run, also while it trains, or compare several in the folder `output`."""
    if len(runs) == 1:
        draw(*runs[0])
    else:
        compare(runs, Path(output) if output else runs[0][1].parent / "comparison")


def draw(config: FrozenConfigDict, workdir: Path) -> None:
    """Make the workdir's `report` for the epochs so far: PNG pictures, summary.txt and report.html.

    Raises UserError where no epoch is finished. What is said about single images is about the test split once the run
    is finished, from the evaluation that training ended with; before, and without a test split, about validation.
    """
    history = read_history(config, workdir)
    folder = workdir / "report"
    folder.mkdir(exist_ok=True)
    results = read_results(workdir)
    layers = table.as_text(models.build(config.model, len(config.data.classes)), sources.image_shape(config.data))
    (folder / "summary.txt").write_text(layers)
    save(folder, "loss", pictures.curves(history, "loss", results))
    save(folder, "accuracy", pictures.curves(history, "accuracy", results))
    save(folder, "learning_rate", pictures.learning_rate(history, config))
    save(folder, "epochs", pictures.text(as_text(EPOCH_HEADER, epoch_rows(history))))
    save(folder, "summary", pictures.text(layers))
    parts = [*headline(config, history, results), curves_section(folder)]
    answers = find_answers(config, workdir, bool(results))
    parts += answers_sections(config, folder, answers) if answers else []
    parts += [
        page.section("Epochs", page.table(EPOCH_HEADER, epoch_rows(history))),
        page.section("Layers", page.preformatted(layers)),
        page.folded("Config", page.preformatted(configs.to_json(config))),
    ]
    (folder / "report.html").write_text(page.page(workdir.absolute().name, parts), encoding="utf-8")
    say(f"report: {folder}")


def save(folder: Path, name: str, figure: Figure) -> None:
    pictures.save(figure, folder / f"{name}.png")


def headline(config: FrozenConfigDict, history: Rows, results: dict) -> list[str]:
    """What was trained, how far it is, and the numbers that matter."""
    epochs, planned = int(history[-1]["epoch"]), config.train.epochs
    if results:
        state = f"finished after {epochs} epochs; epoch {results['chosen_epoch']:.0f} was chosen"
    else:
        state = f"after {epochs} of at most {planned} epochs"
    about = (
        f"{config.model.name} on {config.data.name}, {config.optimizer.name}, {config.schedule.name} schedule, {state}"
    )
    shown = {}
    if "test_accuracy" in results:
        count = results["test_examples"]
        low, high = wilson(round(results["test_accuracy"] * count), count)
        shown["test accuracy"] = f"{results['test_accuracy']:.2%}"
        shown["95 % interval"] = f"{low:.2%} - {high:.2%}"
        shown["test loss"] = f"{results['test_loss']:.4f}"
    if best := best_validation(history):
        shown["best validation accuracy"] = f"{best['val_accuracy']:.2%}"
    shown["training accuracy"] = f"{history[-1]['train_accuracy']:.2%}"
    model = models.build(config.model, len(config.data.classes))
    shown["parameters"] = f"{models.count_parameters(model, sources.image_shape(config.data)):,}"
    return [page.paragraph(about), page.numbers(shown)]


def best_validation(history: Rows) -> dict[str, float] | None:
    rows = [row for row in history if "val_accuracy" in row]
    return max(rows, key=lambda row: row["val_accuracy"]) if rows else None


def curves_section(folder: Path) -> str:
    figures = [
        page.picture(folder / "loss.png", "Loss after each epoch"),
        page.picture(folder / "accuracy.png", "Accuracy after each epoch"),
        page.picture(folder / "learning_rate.png", "Learning rate at every step"),
    ]
    return page.section("Training", page.pair(*figures))


def answers_sections(config: FrozenConfigDict, folder: Path, answers: Answers) -> list[str]:
    """Classes, mistakes and calibration, on one split."""
    found, classes = answers.found, config.data.classes
    about = f"the {answers.role} split ({answers.text}, {len(found):,} images, step {answers.step:,})"
    save(folder, "confusion", pictures.confusion(found, classes))
    save(folder, "reliability", pictures.reliability(found.calibration()))
    matrix = page.picture(folder / "confusion.png", "Images of each true class (row) taken for each class (column)")
    error = found.calibration().error
    reliability = page.picture(folder / "reliability.png", f"Expected calibration error {error:.2%}, in 15 bins")
    parts = [
        page.section(
            "Classes", page.paragraph(f"On {about}."), matrix, page.table(CLASS_HEADER, class_rows(found, classes))
        )
    ]
    try:
        _, split = sources.load_split(config.data, answers.role)
    except UserError as absent:
        say(f"no picture of mistakes: {absent}")
    else:
        if len(split) != len(found):
            raise predictions.damaged(
                folder / "predictions.npz", f"it is not about the {len(split):,} images there are"
            )
        save(folder, "mistakes", pictures.mistakes(found, split.images, classes))
        shown = page.picture(folder / "mistakes.png", "The wrong answers given with most confidence", chart=False)
        parts.append(page.section("Most confident mistakes", shown))
    return [*parts, page.section("Calibration", reliability)]


EPOCH_HEADER = ["epoch", "learning rate", "train loss", "train acc", "val loss", "val acc"]
COMPARISON_HEADER = ["run", "val acc", "val loss", "epoch", "test acc", "95 % interval", "train acc", "parameters"]


def epoch_rows(history: Rows) -> list[list[str]]:
    return [
        [
            f"{row['epoch']:.0f}",
            f"{row['learning_rate']:.3g}",
            number(row["train_loss"]),
            share(row["train_accuracy"]),
            number(row.get("val_loss")),
            share(row.get("val_accuracy")),
        ]
        for row in history
    ]


def compare(runs: list[Run], folder: Path) -> None:
    """Print a table of several runs, best validation accuracy first, and draw their curves over each other."""
    histories = {str(workdir): read_history(config, workdir) for config, workdir in runs}
    ranked = sorted(
        runs, key=lambda run: -(best_validation(histories[str(run[1])]) or {"val_accuracy": -1})["val_accuracy"]
    )
    rows = [comparison_row(config, workdir, histories[str(workdir)]) for config, workdir in ranked]
    folder.mkdir(parents=True, exist_ok=True)
    for quantity in ("loss", "accuracy"):
        save(folder, quantity, pictures.compared_curves(histories, quantity))
    text = as_text(COMPARISON_HEADER, rows)
    (folder / "comparison.txt").write_text(text, encoding="utf-8")
    figures = [page.picture(folder / f"{name}.png", f"{name} after each epoch") for name in ("accuracy", "loss")]
    parts = [
        page.paragraph("Sorted by the best validation accuracy; the epoch is the one that has it."),
        page.table(COMPARISON_HEADER, rows),
        page.section("Training", page.pair(*figures)),
    ]
    (folder / "comparison.html").write_text(page.page(f"{len(runs)} runs compared", parts), encoding="utf-8")
    say(f"{text}comparison: {folder}")


def comparison_row(config: FrozenConfigDict, workdir: Path, history: Rows) -> list[str]:
    best, results = best_validation(history) or history[-1], read_results(workdir)
    interval = "-"
    if "test_accuracy" in results:
        count = results["test_examples"]
        interval = " - ".join(map(share, wilson(round(results["test_accuracy"] * count), count)))
    model = models.build(config.model, len(config.data.classes))
    parameters = models.count_parameters(model, sources.image_shape(config.data))
    return [
        str(workdir),
        share(best.get("val_accuracy")),
        number(best.get("val_loss")),
        f"{best['epoch']:.0f}",
        share(results.get("test_accuracy")),
        interval,
        share(best["train_accuracy"]),
        f"{parameters:,}",
    ]
