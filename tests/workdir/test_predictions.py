"""Numbers from predictions, compared with scikit-learn's and with those counted by hand."""

import numpy as np
import pytest
from sklearn import metrics

from resnet_flax.errors import UserError
from resnet_flax.workdir import predictions
from resnet_flax.workdir.predictions import (
    ClassScores,
    Predictions,
    accuracy_difference,
    mean_log_probabilities,
    read_predictions,
    wilson_interval,
    write_predictions,
)


def draw(count: int = 200, classes: int = 4, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, classes)) * 2
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    labels = np.where(rng.random(count) < 0.6, logits.argmax(1), rng.integers(0, classes, count))
    return Predictions(log_probabilities.astype(np.float32), labels.astype(np.int32))


def test_scores_equal_those_of_scikit_learn():
    found = draw()
    np.testing.assert_array_equal(found.confusion(), metrics.confusion_matrix(found.labels, found.predicted))
    assert found.accuracy == metrics.accuracy_score(found.labels, found.predicted)
    exact = np.exp(found.log_probabilities.astype(float))
    theirs = metrics.log_loss(found.labels, exact / exact.sum(1, keepdims=True))
    assert found.loss == pytest.approx(theirs, rel=1e-5)
    scores = ClassScores.of(found.confusion())
    theirs = metrics.precision_recall_fscore_support(found.labels, found.predicted)
    for ours, expected in zip((scores.precision, scores.recall, scores.f1, scores.support), theirs, strict=True):
        np.testing.assert_allclose(ours, expected)


def test_the_loss_of_certainty_is_0():
    certain = Predictions(np.array([[0, -np.inf]], np.float32), np.array([0]))
    assert f"{certain.loss:.4f}" == "0.0000"


def test_a_class_without_images_has_no_score():
    scores = ClassScores.of(np.array([[3, 0, 0], [1, 2, 0], [0, 0, 0]]))
    assert np.isnan([scores.precision[2], scores.recall[2], scores.f1[2]]).all()
    assert scores.precision[0] == 3 / 4


def predict(right: np.ndarray) -> Predictions:
    """Return predictions of class 1 for images of class 1 that are `right`, of class 0 for the others."""
    return Predictions(np.log(np.where(right[:, None], [0.1, 0.9], [0.9, 0.1])).astype(np.float32), np.ones_like(right))


def test_the_difference_of_two_accuracies_is_that_of_paired_answers():
    # Agresti (Categorical Data Analysis, matched pairs): of 1,600 people asked twice, 794 approved both times, 150 the
    # first time only, 86 the second time only; the difference is -0.04, its interval -0.06 to -0.02.
    first, second = (np.repeat(right, [794, 150, 86, 570]) for right in ([1, 1, 0, 0], [1, 0, 1, 0]))
    one, other = predict(second), predict(first)
    assert accuracy_difference(one, other) == pytest.approx((-0.04, -0.06, -0.02), abs=2e-3)
    difference, low, high = accuracy_difference(other, one)
    assert (-difference, -high, -low) == pytest.approx(accuracy_difference(one, other))
    same, low, high = accuracy_difference(one, one)
    assert same == 0 and -0.003 < low == -high < -0.0005  # not without any doubt, as few images may differ


def test_a_difference_and_its_interval_are_at_most_all_images():
    labels = np.zeros(15, np.int32)
    right, wrong = (Predictions(np.log(np.full((15, 2), row, np.float32)), labels) for row in ([0.9, 0.1], [0.1, 0.9]))
    difference, low, high = accuracy_difference(right, wrong)
    assert difference == high == 1 and 0 < low < 1


def test_wilson_interval():
    # Newcombe (1998), table I: 81 of 263 is 0.2553 to 0.3662, 0 of 20 is 0 to 0.1611, 29 of 29 is 0.8830 to 1.
    for (correct, count), expected in {(81, 263): (0.2553, 0.3662), (0, 20): (0, 0.1611), (29, 29): (0.883, 1)}.items():
        assert wilson_interval(correct, count) == pytest.approx(expected, abs=5e-5)


def test_calibration_error_by_hand():
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.4, 0.6], [0.4, 0.6]], np.float32)
    calibration = Predictions(np.log(probabilities), np.array([0, 1, 1, 1])).calibration()
    assert calibration.counts.sum() == 4
    assert calibration.error == pytest.approx((abs(0.95 - 0.5) * 2 + abs(0.6 - 1) * 2) / 4, abs=1e-6)


def test_most_confident_mistakes_come_first():
    found = draw()
    worst = found.confident_mistakes(5)
    assert (found.predicted[worst] != found.labels[worst]).all()
    confidence = found.probabilities[worst].max(1)
    assert (np.diff(confidence) <= 0).all()
    assert confidence[0] == found.probabilities[found.predicted != found.labels].max()
    assert len(found.confident_mistakes(10_000)) == len(found) - found.correct


def test_mean_of_probabilities_is_exact_even_if_they_underflow():
    members = [draw(seed=seed).log_probabilities for seed in range(3)]
    np.testing.assert_allclose(
        np.exp(mean_log_probabilities(members)), np.mean([np.exp(m) for m in members], 0), rtol=1e-5
    )
    assert mean_log_probabilities([np.full((1, 2), -1000, np.float32)] * 2).tolist() == [[-1000, -1000]]


def test_predictions_are_read_as_they_were_written(tmp_path):
    found = draw()
    write_predictions(found, tmp_path / "predictions.npz", split="test", step=3)
    again, about = read_predictions(tmp_path / "predictions.npz")
    assert about == {"split": "test", "step": 3}
    np.testing.assert_array_equal(again.log_probabilities, found.log_probabilities)
    np.testing.assert_array_equal(again.labels, found.labels)
    with np.load(tmp_path / "predictions.npz") as arrays:
        assert arrays["probabilities"].dtype == np.float32
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.npz"]


def test_predictions_of_any_number_of_images_and_classes_are_read(tmp_path, monkeypatch):
    write_predictions(draw(), tmp_path / "predictions.npz")
    monkeypatch.setattr(predictions, "MAX_UNPACKED_BYTES", 10)
    assert read_predictions(tmp_path / "predictions.npz")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.0])
def test_predictions_with_invalid_probabilities_are_refused(value, tmp_path):
    found = draw()
    found.log_probabilities[1, 1] = value
    with np.errstate(invalid="ignore"):
        write_predictions(found, tmp_path / "predictions.npz")
    with pytest.raises(UserError, match="it contains invalid probabilities"):
        read_predictions(tmp_path / "predictions.npz")
