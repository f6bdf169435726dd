"""Predictions of a network for labelled images, and all metrics that follow from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import NormalDist

import numpy as np

from resnet_flax.errors import Damaged, reason
from resnet_flax.files import MAX_UNPACKED_BYTES, atomic_write, read_npz

CALIBRATION_BINS = 15
Z = NormalDist().inv_cdf(0.975)  # of 95 % intervals


@dataclass(frozen=True)
class Predictions:
    """Log-probabilities (n, classes) float32 that a network predicts for n images, and their labels (n,) int32."""

    log_probabilities: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Probabilities, (n, classes) float32."""
        return np.exp(self.log_probabilities)

    @cached_property
    def predicted(self) -> np.ndarray:
        """Most probable class of each image, (n,) int32."""
        return self.log_probabilities.argmax(1).astype(np.int32)

    @property
    def correct(self) -> int:
        return int(np.sum(self.predicted == self.labels))

    @property
    def accuracy(self) -> float:
        return self.correct / len(self)

    @property
    def confidence(self) -> float:
        """Mean probability of the predicted class."""
        return float(self.probabilities.max(1).mean(dtype=np.float64))

    @property
    def loss(self) -> float:
        """Mean cross-entropy, in nats."""
        found = self.log_probabilities[np.arange(len(self)), self.labels]
        return 0.0 - float(found.mean(dtype=np.float64))  # 0 for certainty, not -0

    def confusion(self) -> np.ndarray:
        """Return how many images of a class (row) are predicted as a class (column): (classes, classes) int64."""
        classes = self.log_probabilities.shape[1]
        return np.bincount(self.labels * classes + self.predicted, minlength=classes**2).reshape(classes, classes)

    def confident_mistakes(self, count: int) -> np.ndarray:
        """Return the indices of at most `count` wrongly classified images, most confident first: (k,)."""
        wrong = np.flatnonzero(self.predicted != self.labels)
        confidence = self.log_probabilities[wrong].max(1)
        return wrong[np.argsort(-confidence, kind="stable")[:count]]

    def calibration(self) -> "Calibration":
        """Return accuracy by confidence in bins of equal width (Guo et al. 2017, On Calibration of Modern Networks)."""
        confidence = self.probabilities.max(1).astype(np.float64)
        bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
        counts = np.bincount(bins, minlength=CALIBRATION_BINS)
        filled = np.maximum(counts, 1)
        mean_confidence = np.bincount(bins, confidence, CALIBRATION_BINS) / filled
        accuracy = np.bincount(bins, self.predicted == self.labels, CALIBRATION_BINS) / filled
        return Calibration(mean_confidence, accuracy, counts)


@dataclass(frozen=True)
class Calibration:
    """Mean confidence, accuracy and number of images of each bin; the first two are 0 in an empty bin."""

    confidence: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: |confidence - accuracy| of a bin, weighted by its images."""
        return float(np.sum(np.abs(self.confidence - self.accuracy) * self.counts) / self.counts.sum())


@dataclass(frozen=True)
class ClassScores:
    """Precision, recall and F1 of each class, (classes,) float64; NaN where a denominator is 0."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray  # images of the class, int64

    @classmethod
    def of(cls, confusion: np.ndarray) -> "ClassScores":
        hits, support, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
        with np.errstate(invalid="ignore"):
            return cls(hits / predicted, hits / support, 2 * hits / (support + predicted), support)


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (Wilson, 1927), which, unlike Wald's, is valid near 0 and 1."""
    share = correct / count
    centre = share + Z * Z / (2 * count)
    spread = Z * np.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    scale = 1 + Z * Z / count
    return max(0.0, float((centre - spread) / scale)), min(1.0, float((centre + spread) / scale))


def accuracy_difference(one: Predictions, other: Predictions) -> tuple[float, float, float]:
    """Return the accuracy of `one` minus that of `other` on the same images, and its 95 % interval: (value, low, high).

    Only images that exactly one of the two classifies correctly count, so the interval is narrower than those of the
    two accuracies suggest. Half an image is added to each of the four cases (Agresti & Min, 2005, Statistics in
    Medicine).
    """
    right, others = (found.predicted == found.labels for found in (one, other))
    won, lost = int(np.sum(right & ~others)), int(np.sum(others & ~right))
    count, differing = len(one) + 2, won + lost + 1
    centre = (won - lost) / count
    spread = Z * np.sqrt(differing / count - centre * centre) / np.sqrt(count)
    return (won - lost) / len(one), max(-1.0, float(centre - spread)), min(1.0, float(centre + spread))


def mean_log_probabilities(log_probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """Return the logarithm of the mean of several probabilities, given their logarithms (n, classes) float32."""
    stacked = np.stack(log_probabilities)
    largest = stacked.max(0)  # factored out, so that nothing underflows
    return largest + np.log(np.exp(stacked - largest).mean(0))


def write_predictions(predictions: Predictions, path: Path, **about: str | int) -> None:
    """Write an .npz with probabilities, log_probabilities, labels, and the scalars `about` them."""
    with atomic_write(path, "wb") as file:
        np.savez(
            file,
            probabilities=predictions.probabilities,
            log_probabilities=predictions.log_probabilities,
            labels=predictions.labels,
            **about,  # type: ignore[arg-type]
        )


def read_predictions(path: Path, classes: int | None = None) -> tuple[Predictions, dict]:
    """Return the predictions that write_predictions has written, and the scalars about them.

    Raises Damaged if they are not valid predictions, or not of `classes` classes if given.
    """
    try:
        arrays = read_npz(path, max(MAX_UNPACKED_BYTES, path.stat().st_size))  # it is not compressed
        about = {name: array.item() for name, array in arrays.items() if array.ndim == 0}
        return check_predictions(Predictions(arrays["log_probabilities"], arrays["labels"]), classes), about
    except (ValueError, KeyError) as error:
        raise damaged_predictions(path, reason(error)) from None


def damaged_predictions(path: Path, why: str) -> Damaged:
    """Return the error for a damaged file of predictions."""
    results = path.with_name("results.json")
    return Damaged(f"{path} is damaged ({why}): delete {results} and the training command recreates both")


def check_predictions(found: Predictions, classes: int | None) -> Predictions:
    """Return `found` if it is valid; ValueError if not."""
    values, labels = found.log_probabilities, found.labels
    if values.dtype != np.float32 or labels.dtype != np.int32 or values.ndim != 2 or labels.shape != values.shape[:1]:
        raise ValueError("its arrays do not match")
    if not values.size or classes not in (None, values.shape[1]) or not np.all(values <= 1e-3):
        raise ValueError("it contains invalid probabilities")
    if labels.min() < 0 or labels.max() >= values.shape[1]:
        raise ValueError("it contains invalid labels")
    return found


@dataclass(frozen=True)
class SplitPredictions:
    """Predictions of the state after `step` for the split `text`, the config's `role` ("test" or "validation")."""

    predictions: Predictions
    role: str
    text: str
    step: int


def write_split_predictions(evaluated: SplitPredictions, workdir: Path) -> None:
    """Write report/predictions.npz."""
    path = workdir / "report" / "predictions.npz"
    path.parent.mkdir(exist_ok=True)
    write_predictions(evaluated.predictions, path, role=evaluated.role, split=evaluated.text, step=evaluated.step)


def read_split_predictions(workdir: Path, classes: int) -> SplitPredictions | None:
    """Return what write_split_predictions has written; None if there is no such file. Raises Damaged."""
    path = workdir / "report" / "predictions.npz"
    if not path.exists():
        return None
    found, about = read_predictions(path, classes)
    role, text, step = (about.get(name) for name in ("role", "split", "step"))
    if role not in ("test", "validation") or not isinstance(text, str) or not isinstance(step, int):
        raise damaged_predictions(path, "it does not say which split it is about")
    return SplitPredictions(found, role, text, step)
