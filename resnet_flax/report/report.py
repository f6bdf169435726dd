"""What is to be said about a run, and about several: pictures, tables and one page, from what workdirs hold.

Imports Matplotlib, which takes a quarter of a second: training does without until it is over.
"""

from pathlib import Path

from matplotlib.figure import Figure
from ml_collections import FrozenConfigDict

from resnet_flax import models
from resnet_flax.config.stored import config_to_json
from resnet_flax.data.datasets.load import image_shape, load_split
from resnet_flax.errors import UserError
from resnet_flax.models.layers import layer_table
from resnet_flax.report import figures
from resnet_flax.report import html as page
from resnet_flax.report.ensure import results_digest
from resnet_flax.report.tables import CLASS_HEADER, class_rows, decimal, percent, text_table
from resnet_flax.text import print_line
from resnet_flax.training.classifier import Classifier
from resnet_flax.training.restore import read_history, restore_checkpoint
from resnet_flax.workdir import predictions
from resnet_flax.workdir.history import EpochRow
from resnet_flax.workdir.predictions import SplitPredictions, wilson_interval, write_split_predictions
from resnet_flax.workdir.results import read_results


def write_report(config: FrozenConfigDict, workdir: Path) -> None:
    """Make the workdir's `report` for the epochs so far: PNG pictures, summary.txt and report.html.

    Raises UserError where no epoch is finished. What is said about single images is about the test split once the run
    is finished, from the evaluation that training ended with; before, and without a test split, about validation.
    """
    history = read_history(config, workdir)
    folder = workdir / "report"
    folder.mkdir(exist_ok=True)
    digest, results = results_digest(workdir), read_results(workdir)
    layers = layer_table(models.build(config), image_shape(config.data))
    (folder / "summary.txt").write_text(layers)
    write_figure(folder, "loss", figures.training_curves(history, "loss", results))
    write_figure(folder, "accuracy", figures.training_curves(history, "accuracy", results))
    write_figure(folder, "learning_rate", figures.learning_rate(history, config))
    write_figure(folder, "epochs", figures.text_figure(text_table(EPOCH_HEADER, epoch_rows(history))))
    write_figure(folder, "summary", figures.text_figure(layers))
    parts = [*headline(config, history, results), curves_section(folder)]
    answers = predictions_to_report(config, workdir, bool(results))
    parts += answers_sections(config, folder, answers) if answers else []
    parts += [
        page.section("Epochs", page.table(EPOCH_HEADER, epoch_rows(history))),
        page.section("Layers", page.preformatted(layers)),
        page.folded("Config", page.preformatted(config_to_json(config))),
    ]
    (folder / "report.html").write_text(page.document(workdir.absolute().name, parts, digest), encoding="utf-8")
    print_line(f"report: {folder}")


def write_figure(folder: Path, name: str, figure: Figure) -> None:
    figures.write_png(figure, folder / f"{name}.png")


def headline(config: FrozenConfigDict, history: list[EpochRow], results: dict) -> list[str]:
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
        low, high = wilson_interval(round(results["test_accuracy"] * count), count)
        shown["test accuracy"] = f"{results['test_accuracy']:.2%}"
        shown["95 % interval"] = f"{low:.2%} - {high:.2%}"
        shown["test loss"] = f"{results['test_loss']:.4f}"
    if best := best_validation(history):
        shown["best validation accuracy"] = f"{best['val_accuracy']:.2%}"
    shown["training accuracy"] = f"{history[-1]['train_accuracy']:.2%}"
    model = models.build(config)
    shown["parameters"] = f"{models.count_parameters(model, image_shape(config.data)):,}"
    return [page.paragraph(about), page.numbers(shown)]


def best_validation(history: list[EpochRow]) -> dict[str, float] | None:
    rows = [row for row in history if "val_accuracy" in row]
    return max(rows, key=lambda row: row["val_accuracy"]) if rows else None


def curves_section(folder: Path) -> str:
    pictures = [
        page.picture(folder / "loss.png", "Loss after each epoch"),
        page.picture(folder / "accuracy.png", "Accuracy after each epoch"),
        page.picture(folder / "learning_rate.png", "Learning rate at every step"),
    ]
    return page.section("Training", page.pair(*pictures))


def answers_sections(config: FrozenConfigDict, folder: Path, answers: SplitPredictions) -> list[str]:
    """Classes, mistakes and calibration, on one split."""
    found, classes = answers.found, config.data.classes
    about = f"the {answers.role} split ({answers.text}, {len(found):,} images, step {answers.step:,})"
    write_figure(folder, "confusion", figures.confusion_matrix(found, classes))
    write_figure(folder, "reliability", figures.reliability(found.calibration()))
    matrix = page.picture(folder / "confusion.png", "Images of each true class (row) taken for each class (column)")
    error = found.calibration().error
    reliability = page.picture(folder / "reliability.png", f"Expected calibration error {error:.2%}, in 15 bins")
    parts = [
        page.section(
            "Classes", page.paragraph(f"On {about}."), matrix, page.table(CLASS_HEADER, class_rows(found, classes))
        )
    ]
    try:
        _, split = load_split(config.data, answers.role)
    except UserError as absent:
        print_line(f"no picture of mistakes: {absent}")
    else:
        if len(split) != len(found):
            raise predictions.damaged_predictions(
                folder / "predictions.npz", f"it is not about the {len(split):,} images there are"
            )
        write_figure(folder, "mistakes", figures.mistakes(found, split.images, classes))
        shown = page.picture(folder / "mistakes.png", "The wrong answers given with most confidence", chart=False)
        parts.append(page.section("Most confident mistakes", shown))
    return [*parts, page.section("Calibration", reliability)]


EPOCH_HEADER = ["epoch", "learning rate", "train loss", "train acc", "val loss", "val acc"]


def epoch_rows(history: list[EpochRow]) -> list[list[str]]:
    return [
        [
            f"{row['epoch']:.0f}",
            f"{row['learning_rate']:.3g}",
            decimal(row["train_loss"]),
            percent(row["train_accuracy"]),
            decimal(row.get("val_loss")),
            percent(row.get("val_accuracy")),
        ]
        for row in history
    ]


def predictions_to_report(config: FrozenConfigDict, workdir: Path, finished: bool) -> SplitPredictions | None:
    """The answers that a finished run has kept, or else those of its best checkpoint so far on validation, kept now.

    None where nothing is held out: the test split is not looked at before the end.
    """
    path = workdir / "report" / "predictions.npz"
    if finished and path.exists():
        found, about = predictions.read_predictions(path, len(config.data.classes))
        role, text, step = (about.get(name) for name in ("role", "split", "step"))
        if role not in ("test", "validation") or not isinstance(text, str) or not isinstance(step, int):
            raise predictions.damaged_predictions(path, "it does not say what it is about")
        return SplitPredictions(found, role, text, step)
    if not config.data.validation:
        return None
    checkpoint = restore_checkpoint(config, workdir)
    text, split = load_split(config.data, "validation")
    found = Classifier(config).evaluate(checkpoint.tree["state"], split)
    answers = SplitPredictions(found, "validation", text, checkpoint.step)
    write_split_predictions(answers, workdir)
    return answers
