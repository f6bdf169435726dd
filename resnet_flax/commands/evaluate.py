"""How good trained networks are on a split: accuracy with an interval, loss, and a table of the classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ml_collections import FrozenConfigDict

from resnet_flax.data.datasets.arrays import Split
from resnet_flax.data.datasets.load import find_arrays, load_split
from resnet_flax.data.datasets.splits import parse_split, share_examples
from resnet_flax.errors import UserError, lookup
from resnet_flax.report.tables import CLASS_HEADER, class_rows, decimal, percent, text_table
from resnet_flax.text import print_line
from resnet_flax.training.classifier import EVALUATION_BATCH, Classifier
from resnet_flax.training.restore import restore_checkpoint
from resnet_flax.workdir import predictions
from resnet_flax.workdir.folder import Job
from resnet_flax.workdir.predictions import Predictions, wilson_interval

ScoreRow = tuple[str, Predictions]  # of a table: what it is called, and what it shows
View = Callable[[list[np.ndarray]], list[np.ndarray]]

SHIFT = 2  # pixels
SCORES_HEADER = ["network", "accuracy", "95 % interval", "loss", "correct"]


def flip(views: list[np.ndarray]) -> list[np.ndarray]:
    """Each view and its mirror image."""
    return [*views, *(view[:, :, ::-1] for view in views)]


def shift(views: list[np.ndarray]) -> list[np.ndarray]:
    """Each view, and moved by two pixels to each side; black comes in, as where a training image is cropped."""
    moves = [(0, 0), (-SHIFT, 0), (SHIFT, 0), (0, -SHIFT), (0, SHIFT)]
    return [shift_images(view, *by) for view in views for by in moves]


def shift_images(images: np.ndarray, down: int, right: int) -> np.ndarray:
    """Images (n, H, W, 3) moved by at most SHIFT pixels, with black where nothing was."""
    height, width = images.shape[1:3]
    padded = np.pad(images, [(0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)])
    return padded[:, SHIFT - down : SHIFT - down + height, SHIFT - right : SHIFT - right + width]


VIEWS: dict[str, View] = {"flip": flip, "shift": shift}


def evaluate(jobs: list[Job], split: str, checkpoint: str, tta: str) -> None:
    """Print how good the networks of `jobs` are on `split`, and, of several, their ensemble (mean of probabilities).

    `split` is as sources.load_split reads it, `checkpoint` as classifier.restore does. `tta`, test-time augmentation,
    is some of VIEWS with commas between: the mean over these views is printed beside the plain result.
    """
    chosen = [lookup("view for --tta", name, VIEWS) for name in tta.split(",") if name]
    classes = jobs[0].config.data.classes
    found = [score_run(job, split, checkpoint, chosen) for job in jobs]
    for (config, workdir), judged in zip(jobs, found, strict=True):
        if config.data.classes != classes or not np.array_equal(judged.views[0].labels, found[0].views[0].labels):
            raise UserError(f"{workdir} has other classes or images than {jobs[0].workdir}: no ensemble of the two")
    names = [str(workdir) for _, workdir in jobs]
    rows = with_ensemble(names, [judged.views[0] for judged in found])
    name, predicted = rows[-1]
    if chosen:
        suffix = f", {len(found[0].views)} views"
        rows += with_ensemble([name + suffix for name in names], [ensemble(judged.views) for judged in found], suffix)
    rows += [
        (f"{run}, unaveraged", judged.unaveraged) for run, judged in zip(names, found, strict=True) if judged.unaveraged
    ]
    print_line("\n" + text_table(SCORES_HEADER, score_rows(rows)))
    print_line(f"{name}\n" + text_table(CLASS_HEADER, class_rows(predicted, classes)).rstrip())


@dataclass(frozen=True)
class ScoredRun:
    """What a run's network says about a split: about the images as they are, then about each further view of them."""

    views: list[Predictions]
    unaveraged: Predictions | None  # what the trained weights say where the network answers with an average of them


def score_run(job: Job, split: str, checkpoint: str, views: Sequence[View]) -> ScoredRun:
    """What a run's network says about a split and some views of it."""
    config, workdir = job
    text, examples = load_split(config.data, split)
    found = restore_checkpoint(config, workdir, checkpoint)
    state = found.tree["state"]
    print_line(f"{workdir}: {text} of {config.data.name}, checkpoint {checkpoint} (step {found.step:,})")
    if trained_on(config, text):
        print_line(f"note: {workdir} was trained on {config.data.train}, so this says little about new images")
    classifier = Classifier(config, min(EVALUATION_BATCH, len(examples)))
    shown = [examples.images]
    for view in views:
        shown = view(shown)
    return ScoredRun(
        [classifier.evaluate(state, Split(images, examples.labels)) for images in shown],
        classifier.evaluate(state.trained, examples) if state.average else None,
    )


def ensemble(found: Sequence[Predictions]) -> Predictions:
    """The mean of the probabilities that several networks, or one of several views, give the same images."""
    return Predictions(predictions.mean_log_probabilities([one.log_probabilities for one in found]), found[0].labels)


def with_ensemble(
    names: Sequence[str], members: Sequence[Predictions], suffix: str = ""
) -> list[tuple[str, Predictions]]:
    """The members by name and, where there are several, their ensemble."""
    rows = list(zip(names, members, strict=True))
    return rows if len(rows) == 1 else [*rows, (f"ensemble of {len(rows)}{suffix}", ensemble(members))]


def trained_on(config: FrozenConfigDict, split: str) -> bool:
    """Whether some of `split`, written as TFDS does, are training examples."""
    folder = find_arrays(config.data)
    return share_examples(parse_split(split, folder), parse_split(config.data.train, folder))


def score_rows(rows: Sequence[ScoreRow]) -> list[list[str]]:
    """Accuracy with its 95 % interval, and loss, of each row."""
    table = []
    for name, found in rows:
        interval = " - ".join(map(percent, wilson_interval(found.correct, len(found))))
        table.append(
            [name, percent(found.accuracy), interval, decimal(found.loss), f"{found.correct:,} / {len(found):,}"]
        )
    return table
