"""What a network says about labelled images, and every number that follows from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import NormalDist

import numpy as np

from resnet_flax.errors import Damaged, reason
from resnet_flax.files import atomic_write, read_npz
from resnet_flax.workdir import predictions

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Predictions:
    """The log-probabilities (n, classes) float32 that a network gives n images, and their labels (n,) int32."""

    log_probabilities: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """(n, classes) float32."""
        return np.exp(self.log_probabilities)

    @cached_property
    def predicted(self) -> np.ndarray:
        """The most probable class of each image, (n,) int32."""
        return self.log_probabilities.argmax(1).astype(np.int32)

    @property
    def correct(self) -> int:
        return int(np.sum(self.predicted == self.labels))

    @property
    def accuracy(self) -> float:
        return self.correct / len(self)

    @property
    def loss(self) -> float:
        """The mean cross-entropy, in nats."""
        return -float(self.log_probabilities[np.arange(len(self)), self.labels].mean(dtype=np.float64))

    def confusion(self) -> np.ndarray:
        """(classes, classes) int64: how many images of a class (row) were taken for a class (column)."""
        classes = self.log_probabilities.shape[1]
        return np.bincount(self.labels * classes + self.predicted, minlength=classes**2).reshape(classes, classes)

    def confident_mistakes(self, count: int) -> np.ndarray:
        """At most `count` wrongly classified images, the most confident first: (k,) indices."""
        wrong = np.flatnonzero(self.predicted != self.labels)
        confidence = self.log_probabilities[wrong].max(1)
        return wrong[np.argsort(-confidence, kind="stable")[:count]]

    def calibration(self) -> "Calibration":
        """Confidence against accuracy in bins of equal width (Guo et al., 2017, On calibration of modern networks)."""
        confidence = self.probabilities.max(1).astype(np.float64)
        bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
        counts = np.bincount(bins, minlength=CALIBRATION_BINS)
        filled = np.maximum(counts, 1)
        mean_log_probabilities = np.bincount(bins, confidence, CALIBRATION_BINS) / filled
        accuracy = np.bincount(bins, self.predicted == self.labels, CALIBRATION_BINS) / filled
        return Calibration(mean_log_probabilities, accuracy, counts)


@dataclass(frozen=True)
class Calibration:
    """Mean confidence, accuracy and number of images of each bin; the first two are 0 where the last is."""

    confidence: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error: |confidence - accuracy| of a bin, weighted by its images."""
        return float(np.sum(np.abs(self.confidence - self.accuracy) * self.counts) / self.counts.sum())


@dataclass(frozen=True)
class ClassScores:
    """Of each class, (classes,) float64: precision, recall and F1, NaN where there is nothing to divide by."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray  # int64, how many images there are

    @classmethod
    def of(cls, confusion: np.ndarray) -> "ClassScores":
        hits, support, taken = np.diag(confusion), confusion.sum(1), confusion.sum(0)
        with np.errstate(invalid="ignore"):
            return cls(hits / taken, hits / support, 2 * hits / (support + taken), support)


def wilson_interval(correct: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of a proportion (Wilson, 1927): unlike the textbook one it holds near 0 and 1 too."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = correct / count
    centre = share + z * z / (2 * count)
    spread = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, float((centre - spread) / scale)), min(1.0, float((centre + spread) / scale))


def mean_log_probabilities(log_probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """The logarithm of the mean of probabilities, each given as its logarithm (n, classes) float32."""
    stacked = np.stack(log_probabilities)
    largest = stacked.max(0)  # taken out, so that nothing underflows
    return largest + np.log(np.exp(stacked - largest).mean(0))


def write_predictions(predictions: Predictions, path: Path, **about: str | int) -> None:
    """Write an .npz with probabilities, log_probabilities, labels, and what else is said `about` them."""
    with atomic_write(path, "wb") as file:
        np.savez(
            file,
            probabilities=predictions.probabilities,
            log_probabilities=predictions.log_probabilities,
            labels=predictions.labels,
            **about,  # type: ignore[arg-type]
        )


def read_predictions(path: Path, classes: int | None = None) -> tuple[Predictions, dict]:
    """The predictions that `save` wrote, and what it was told about them.

    Raises Damaged where they are not what a network of so many `classes` says.
    """
    try:
        arrays = read_npz(path)
        about = {name: array.item() for name, array in arrays.items() if array.ndim == 0}
        return check_predictions(Predictions(arrays["log_probabilities"], arrays["labels"]), classes), about
    except (ValueError, KeyError) as error:
        raise damaged_predictions(path, reason(error)) from None


def damaged_predictions(path: Path, why: str) -> Damaged:
    again = f"without {path.with_name('results.json')} the training command writes both again"
    return Damaged(f"{path} is damaged ({why}): {again}")


def check_predictions(found: Predictions, classes: int | None) -> Predictions:
    """`found` if it is sound; ValueError where it is not."""
    values, labels = found.log_probabilities, found.labels
    if values.dtype != np.float32 or labels.dtype != np.int32 or values.ndim != 2 or labels.shape != values.shape[:1]:
        raise ValueError("its arrays do not fit each other")
    if not values.size or classes not in (None, values.shape[1]) or not np.all(values <= 1e-3):
        raise ValueError("its probabilities are none")
    if labels.min() < 0 or labels.max() >= values.shape[1]:
        raise ValueError("its labels are none")
    return found


@dataclass(frozen=True)
class SplitPredictions:
    """What the network says about the split `text`, which is the config's "test" or "validation"."""

    found: Predictions
    role: str
    text: str
    step: int


def write_split_predictions(answers: SplitPredictions, workdir: Path) -> None:
    """Save `answers` as report/predictions.npz."""
    path = workdir / "report" / "predictions.npz"
    path.parent.mkdir(exist_ok=True)
    predictions.write_predictions(answers.found, path, role=answers.role, split=answers.text, step=answers.step)
