"""Score trained networks on a split: accuracy with an interval, loss, and a table of the classes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from resnet_flax.config.checks import complete
from resnet_flax.data.augment.policy import Policy
from resnet_flax.data.datasets.arrays import Split
from resnet_flax.data.datasets.fingerprint import (
    EvaluatedSplit,
    SplitContents,
    examples_of,
    place,
    same_images,
    share_examples,
)
from resnet_flax.data.datasets.load import find_arrays, load_split, training_text
from resnet_flax.errors import UserError, lookup
from resnet_flax.report.tables import CLASS_HEADER, class_rows, decimal, difference_text, percent, text_table
from resnet_flax.text import print_line
from resnet_flax.training.classifier import Classifier, batch_size
from resnet_flax.training.leakage import leakage_notes, trained_on
from resnet_flax.training.restore import restore_checkpoint
from resnet_flax.workdir import hub, predictions
from resnet_flax.workdir.folder import Job
from resnet_flax.workdir.predictions import Predictions, wilson_interval
from resnet_flax.workdir.trained import display_name, read_trained_config

ScoreRow = tuple[str, Predictions]  # the name of a network, or of several, and its predictions

SCORES_HEADER = ["network", "accuracy", "95 % interval", "loss", "correct"]
DIFFERENCE = "points above the first (95 % interval)"


class View(NamedTuple):
    """Images as a network is shown them, and the weight of its logits in the mean over all views."""

    images: np.ndarray  # uint8 (n, H, W, 3)
    weight: float = 1.0


def flip(views: Sequence[View]) -> list[View]:
    """Return each view and its mirror image, with equal weights."""
    return [View(side, weight / 2) for images, weight in views for side in (images, images[:, :, ::-1])]


def shift(views: Sequence[View]) -> list[View]:
    """Return each view, with half of its weight, and moved by a pixel to the upper left and to the lower right.

    Flipped, these are the six views and weights with which the records for CIFAR-10 are measured. Source:
    github.com/KellerJordan/cifar10-airbench, airbench94_muon.py.
    """
    shifted = []
    for images, weight in views:
        padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect")
        moved = (padded[:, 2:, 2:], padded[:, :-2, :-2])
        shifted += [View(images, weight / 2), *(View(other, weight / 4) for other in moved)]
    return shifted


class Augmentation(NamedTuple):
    """A kind of test-time augmentation, and the operations of a policy that prepare a network for it."""

    extend: Callable[[Sequence[View]], list[View]]
    operations: tuple[str, ...]


AUGMENTATIONS = {  # in the order in which they are applied
    "shift": Augmentation(shift, ("crop", "translate", "affine")),
    "flip": Augmentation(flip, ("flip",)),
}


def evaluate(jobs: list[Job], split: str, checkpoint: str, tta: str) -> None:
    """Print the scores of the networks of `jobs` on `split` and, of several, of their ensemble (mean probabilities).

    `split` is as in load.find_slice, `checkpoint` as in restore_checkpoint. `tta`, test-time augmentation, is a list of
    AUGMENTATIONS, separated by commas: the score of the mean over these views is printed beside the plain one.
    """
    asked = [name for name in tta.split(",") if name]
    for name in asked:
        lookup("view for --tta", name, AUGMENTATIONS)
    augmentations = {name: kind for name, kind in AUGMENTATIONS.items() if name in asked}
    classes = jobs[0].config.data.classes
    scores = [score_job(job, split, checkpoint, augmentations) for job in jobs]
    names = [display_name(job.workdir) for job in jobs]
    for name, job, score in zip(names, jobs, scores, strict=True):
        same = np.array_equal(score.plain.labels, scores[0].plain.labels) and same_images(score.split, scores[0].split)
        if job.config.data.classes != classes or not same:
            raise UserError(f"{name} has different classes or images from {names[0]}: evaluate them separately")
    rows = add_ensemble(list(zip(names, [score.plain for score in scores], strict=True)))
    title, chosen = rows[-1]
    if augmentations:
        suffix = f", {len(scores[0].views)} views"
        means = [(f"{name}{suffix}", score.mean) for name, score in zip(names, scores, strict=True)]
        rows += add_ensemble(means, suffix)
    rows += [(f"{name}, unaveraged", one.unaveraged) for name, one in zip(names, scores, strict=True) if one.unaveraged]
    header = [*SCORES_HEADER, DIFFERENCE] if len(rows) > 1 else SCORES_HEADER
    print_line("\n" + text_table(header, score_rows(rows)))
    print_line(f"{title}\n" + text_table(CLASS_HEADER, class_rows(chosen, classes)).rstrip())


class JobScores(NamedTuple):
    """The predictions of a job's network on a split."""

    split: EvaluatedSplit
    views: list[Predictions]  # of the images as they are, then of each further view
    weights: list[float]  # of the views
    unaveraged: Predictions | None  # of the trained weights, if the network predicts with an average of them

    @property
    def plain(self) -> Predictions:
        return self.views[0]

    @property
    def mean(self) -> Predictions:
        return over_views(self.views, self.weights)


def score_job(job: Job, split: str, checkpoint: str, augmentations: dict[str, Augmentation]) -> JobScores:
    """Return the predictions of a job's network on a split and on some views of it."""
    config, workdir = job
    text, examples = load_split(config.data, split)
    found = restore_checkpoint(config, workdir, checkpoint)
    state = found.tree["state"]
    which = "" if workdir.is_file() else f", checkpoint {checkpoint} (step {found.step:,})"
    print_line(f"{display_name(workdir)}: {text} of {data_name(config.data)}{which}")
    recorded = found.run.get("data", {})
    notes = [training_note(job, split, recorded.get("train"))]
    if not hub.repository_of(workdir):  # whose config is another's, and may name networks to download
        notes += leakage_notes(config, [split])
    for note in filter(None, [*notes, *augmentation_notes(job, augmentations)]):
        print_line(f"note: {note}")
    classifier = Classifier(config, batch_size(len(examples)))
    views = [View(examples.images)]
    for augmentation in augmentations.values():
        views = augmentation.extend(views)
    return JobScores(
        EvaluatedSplit(config.data, examples_of(config.data, find_arrays(config.data), split)),
        [classifier.evaluate(state.variables, Split(view.images, examples.labels)) for view in views],
        [view.weight for view in views],
        classifier.evaluate(state.unaveraged, examples) if state.average else None,
    )


def training_note(job: Job, split: str, trained: SplitContents | None) -> str:
    """Return a warning if some examples of `split` were trained on, "" if not.

    `trained` are the training examples as recorded in the checkpoint. Older checkpoints lack them: then the data are
    taken to be the same if their name, folder and image size are.
    """
    now, then = job.config.data, complete(read_trained_config(job.workdir)).data
    folder = find_arrays(now)
    evaluated = examples_of(now, folder, split)
    there = trained_on(then, folder) if place(now) == place(then) else None
    training = f"{display_name(job.workdir)} was trained on {training_text(then)}"
    if (known := trained or there) and share_examples(evaluated, known):
        return f"{training} of these data, so this says little about new images"
    if there and share_examples(evaluated, there):
        return f"{data_name(now)} has changed since {training}: it may hold training images"
    return ""


def augmentation_notes(job: Job, augmentations: dict[str, Augmentation]) -> list[str]:
    """Return a warning for each augmentation for which training has not prepared the network."""
    trained, policy = display_name(job.workdir), Policy(job.config.data.policy)
    operations = {step.name for step in (*policy.before, *policy.after)}
    return [
        f"{trained} was trained without {' or '.join(augmentation.operations)}: --tta={name} may lower its accuracy"
        for name, augmentation in augmentations.items()
        if not operations & set(augmentation.operations)
    ]


def data_name(config: ConfigDict) -> str:
    """Return the name of a dataset and, if `config.data` has one, its folder."""
    return f"{config.name} in {config.dir}" if config.dir else config.name


def ensemble(members: Sequence[Predictions]) -> Predictions:
    """Return the mean probabilities of several networks for the same images."""
    mean = predictions.mean_log_probabilities([member.log_probabilities for member in members])
    return Predictions(mean, members[0].labels)


def over_views(views: Sequence[Predictions], weights: Sequence[float]) -> Predictions:
    """Return the predictions from the mean logits of one network over several views of the same images."""
    logits = np.average([view.log_probabilities for view in views], 0, weights)  # up to a constant per image
    return Predictions(np.asarray(jax.nn.log_softmax(logits.astype(np.float32))), views[0].labels)


def add_ensemble(rows: list[ScoreRow], suffix: str = "") -> list[ScoreRow]:
    """Return the rows of single networks and, if there are several, one of their ensemble."""
    if len(rows) == 1:
        return rows
    return [*rows, (f"ensemble of {len(rows)}{suffix}", ensemble([found for _, found in rows]))]


def score_rows(rows: Sequence[ScoreRow]) -> list[list[str]]:
    """Return the cells of each row under SCORES_HEADER and, if there are several, its DIFFERENCE from the first."""
    table = []
    first = rows[0][1]
    for name, found in rows:
        interval = " to ".join(map(percent, wilson_interval(found.correct, len(found))))
        counts = f"{found.correct:,} / {len(found):,}"
        difference = ["" if found is first else difference_text(found, first)] if len(rows) > 1 else []
        table.append([name, percent(found.accuracy), interval, decimal(found.loss), counts, *difference])
    return table
