"""The report of a run: figures, tables and a page, from what its workdir holds.

Imports Matplotlib, which takes a quarter of a second, so training imports it only at its end.
"""

from pathlib import Path

import numpy as np
from ml_collections import FrozenConfigDict

from resnet_flax import models
from resnet_flax.config.stored import config_to_json
from resnet_flax.data.augment.mixing import Mixing
from resnet_flax.data.datasets.fingerprint import examples_of
from resnet_flax.data.datasets.load import ROLES, find_arrays, image_shape, load_split, training_text
from resnet_flax.errors import UserError
from resnet_flax.models.layers import layer_table
from resnet_flax.models.resnet import ResNet
from resnet_flax.report import evaluation, figures, html
from resnet_flax.report.facts import chosen_row, interval_text, parameter_count, run_facts
from resnet_flax.report.files import Files
from resnet_flax.report.html import Tile
from resnet_flax.report.network import network
from resnet_flax.report.tables import decimal, percent, text_table
from resnet_flax.text import print_line
from resnet_flax.training.batch import MIXED_ACCURACY
from resnet_flax.training.classifier import Classifier
from resnet_flax.training.restore import read_history, restore_checkpoint
from resnet_flax.workdir.history import EpochRow
from resnet_flax.workdir.identity import recorded_contents
from resnet_flax.workdir.predictions import SplitPredictions, damaged_predictions, read_split_predictions
from resnet_flax.workdir.results import read_results, results_digest

EPOCH_HEADER = ["epoch", "learning rate", "train loss", "train acc", "val loss", "val acc"]


def write_report(config: FrozenConfigDict, workdir: Path) -> None:
    """Write the folder `report` of `workdir`, about the epochs so far: PNG files, summary.txt and report.html.

    Raises UserError if no epoch is finished. The images shown are those of the test split once the run is finished,
    with the predictions made at the end of training; before that, and without a test split, those for validation.

    If training ends meanwhile, the report is drawn again, so that no report of an unfinished run remains.
    """
    folder = workdir / "report"
    drawn = None
    while drawn != (digest := results_digest(workdir)):
        files, drawn = draw_report(config, workdir, digest), digest
        if results_digest(workdir) == digest:
            files.write(folder)
    print_line(f"report: {folder}")


def draw_report(config: FrozenConfigDict, workdir: Path, digest: str) -> Files:
    """Return the files of a report, report.html last."""
    results, history = read_results(workdir), read_history(config, workdir)
    found = predictions_to_report(config, workdir, bool(results))
    model = models.build(config)
    files, layers = Files(), layer_table(model, image_shape(config.data))
    files.text("summary.txt", layers)
    files.picture("summary", figures.text_figure(layers))
    files.picture("epochs", figures.text_figure(text_table(EPOCH_HEADER, epoch_rows(history))))
    parts = [*headline(config, history, results, found), curves_section(files, config, history, results)]
    parts += prediction_sections(files, config, workdir, found, results) if found else []
    parts += [
        run_section(files, config, history, results),
        html.section("Epochs", html.table(EPOCH_HEADER, epoch_rows(history), "long")),
        network_section(files, config, model, layers),
        html.folded("Config", html.preformatted(config_to_json(config))),
    ]
    files.text("report.html", html.document(workdir.absolute().name, parts, digest))
    return files


def headline(
    config: FrozenConfigDict, history: list[EpochRow], results: dict, found: SplitPredictions | None
) -> list[str]:
    """Return what was trained, how far it is, and the numbers that matter."""
    chosen, epochs = chosen_row(config, history), int(history[-1]["epoch"])
    count = f"{epochs} epoch{'s' if epochs > 1 else ''}"
    choice = f"chosen by {config.train.monitor}" if config.data.validation else "the last, as nothing is held out"
    state = f"finished after {count}" if results else f"after {count} of at most {config.train.epochs}"
    about = (
        f"{config.model.name} on {config.data.name}, {config.optimizer.name}, {config.schedule.name} schedule, "
        f"{state}; the weights are those of epoch {chosen['epoch']:.0f}, {choice}."
    )
    return [
        html.paragraph(about),
        html.tiles([*accuracy_tiles(config, chosen, results, found), *cost_tiles(config, results)]),
    ]


def accuracy_tiles(
    config: FrozenConfigDict, chosen: EpochRow, results: dict, found: SplitPredictions | None
) -> list[Tile]:
    epoch, tiles = f"epoch {chosen['epoch']:.0f}", []
    if "test_accuracy" in results:
        tiles += [Tile("test accuracy", percent(results["test_accuracy"]), f"95 % interval {interval_text(results)}")]
        tiles += [Tile("test loss", decimal(results["test_loss"]), f"{results['test_examples']:,} images")]
    if found and (k := evaluation.top_k(found.predictions.log_probabilities.shape[1])):
        accuracy = evaluation.top_k_accuracy(found.predictions, k)
        tiles += [Tile(f"{found.role} top-{k} accuracy", percent(accuracy), f"true class among the {k} most probable")]
    if "val_accuracy" in chosen:
        tiles += [Tile("validation accuracy", percent(chosen["val_accuracy"]), epoch)]
    about = f"{epoch}, of {MIXED_ACCURACY}" if Mixing.of(config.train).on else epoch
    return [*tiles, Tile("training accuracy", percent(chosen["train_accuracy"]), about)]


def cost_tiles(config: FrozenConfigDict, results: dict) -> list[Tile]:
    parameters = parameter_count(config)
    facts = run_facts(config, results)
    tiles = [Tile("parameters", f"{parameters:,}", f"{4 * parameters / 2**20:.1f} MiB in float32")]
    if "training time" in facts:
        tiles += [Tile("training time", facts["training time"], facts.get("device", ""))]
    if "images per second" in facts:
        tiles += [Tile("images per second", facts["images per second"], "in training")]
    return tiles


def curves_section(files: Files, config: FrozenConfigDict, history: list[EpochRow], results: dict) -> str:
    training = "training, mixed images" if Mixing.of(config.train).on else "training"
    return files.curves(lambda quantity: figures.training_curves(history, quantity, results, training))


def prediction_sections(
    files: Files, config: FrozenConfigDict, workdir: Path, found: SplitPredictions, results: dict
) -> list[str]:
    """Return classes, mistakes and calibration on one split; no mistakes if its images are missing."""
    classes = config.data.classes
    about = f"the {found.role} split ({found.text}, {len(found.predictions):,} images, step {found.step:,})"
    tested = results.get("test_examples")
    if found.role == "test" and tested not in (None, len(found.predictions)):
        path = workdir / "report" / "predictions.npz"
        about_others = f"it is about {len(found.predictions):,} images, and the results about {tested:,}"
        raise damaged_predictions(path, about_others)
    sections = [evaluation.classes_section(files, found.predictions, classes, about)]
    try:
        _, split = load_split(config.data, found.role)
    except UserError as absent:
        print_line(f"mistakes are not shown: {absent}")
    else:
        evaluated = recorded_contents(workdir, found.role)
        now = examples_of(config.data, find_arrays(config.data), found.role)
        if np.array_equal(split.labels, found.predictions.labels) and evaluated in (None, now):
            files.picture("mistakes", figures.mistakes(found.predictions, split.images, classes))
            sections += [evaluation.examples_section(found.predictions, split.images, classes)]
        else:
            print_line(f"mistakes are not shown: the {found.role} split has changed since it was evaluated")
    return [*sections, evaluation.calibration_section(files, found.predictions)]


def run_section(files: Files, config: FrozenConfigDict, history: list[EpochRow], results: dict) -> str:
    """Return how the run was trained: data, settings, device, time."""
    data, optimizer, mixing = config.data, config.optimizer, Mixing.of(config.train)
    splits = {"train split": training_text(data)} | {f"{role} split": data[role] or "none" for role in ROLES[1:]}
    named = {
        "network": f"{config.model.name}, blocks {config.model.blocks}, widths {config.model.widths}",
        "data": data.name,
        **splits,
        "augmentation": data.policy,
        **({"mixing": str(mixing)} if mixing.on else {}),
        **({"teacher": teacher_text(config)} if config.train.teacher else {}),
        "optimizer": f"{optimizer.name}, learning rate {optimizer.learning_rate:g}",
        "schedule": f"{config.schedule.name}, updated every {config.schedule.per}",
        "batch size": f"{config.train.batch_size:,}",
        **run_facts(config, results),
    }
    rate = files.chart("learning_rate", figures.learning_rate(history, config), "Learning rate at every step")
    return html.section("Run", html.pair(html.facts(named), rate))


def teacher_text(config: FrozenConfigDict) -> str:
    train = config.train
    return f"{train.teacher}, {train.teacher_weight:g} of the loss, temperature {train.teacher_temperature:g}"


def network_section(files: Files, config: FrozenConfigDict, model: ResNet, layers: str) -> str:
    """Return the network as a drawing and as a table of its layers."""
    figure = network(model, config.model.name, image_shape(config.data))
    drawn = files.chart("network", figure, "Stem, stages and head, and the layers of one block")
    return html.section("Network", drawn, html.titled("Layers", html.preformatted(layers)))


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
    """Return the predictions that a finished run saved, or those of the best checkpoint so far on validation.

    The latter are not saved: predictions.npz belongs to training. Returns None if nothing is held out, as the test
    split is not looked at before the end.
    """
    if finished and (saved := read_split_predictions(workdir, len(config.data.classes))):
        return saved
    if not config.data.validation:
        return None
    checkpoint = restore_checkpoint(config, workdir)
    text, split = load_split(config.data, "validation")
    found = Classifier(config).evaluate(checkpoint.tree["state"].variables, split)
    return SplitPredictions(found, "validation", text, checkpoint.step)
