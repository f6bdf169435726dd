"""A report's sections about the predictions on a split."""

import re

import numpy as np
import pytest

from resnet_flax.report import evaluation
from resnet_flax.workdir.predictions import Predictions

NAMES = ["cat", "dog", "frog"]
# Three images of each class; one cat and two dogs are predicted as frogs.
LABELS = np.repeat(np.arange(3, dtype=np.int32), 3)
PREDICTED = np.array([0, 0, 2, 1, 2, 2, 2, 2, 2])
CONFIDENCE = np.array([0.9, 0.8, 0.7, 0.5, 0.6, 0.95, 0.85, 0.4, 0.99])


@pytest.fixture
def found() -> Predictions:
    rest = (1 - CONFIDENCE) / 2
    probabilities = np.where(np.eye(3, dtype=bool)[PREDICTED], CONFIDENCE[:, None], rest[:, None])
    return Predictions(np.log(probabilities).astype(np.float32), LABELS)


@pytest.fixture
def images() -> np.ndarray:
    """Each of its own colour."""
    return np.broadcast_to(np.arange(9, dtype=np.uint8)[:, None, None, None] * 20, (9, 32, 32, 3)).copy()


def text(html: str) -> str:
    return " ".join(re.sub("<[^>]+>", " ", html).split())


def test_the_matrix_is_there_in_counts_and_in_percent_of_the_true_class(found):
    counts, shares = evaluation.confusion_tables(found, NAMES)
    assert text(counts).endswith("cat dog frog cat 2 1 dog 1 2 frog 3")
    assert text(shares).endswith("cat dog frog cat 67 33 dog 33 67 frog 100")


def test_no_cell_with_an_image_is_shown_as_zero_percent():
    predicted = np.eye(2, dtype=np.float32)[[1] + [0] * 199]
    _, shares = evaluation.confusion_tables(Predictions(predicted, np.zeros(200, np.int32)), ["cat", "dog"])
    assert "<td" in shares and ">&lt;1</td>" in shares and ">0</td>" not in shares


def test_the_most_frequent_confusions_are_named(found):
    assert evaluation.confusions(found, NAMES) == [["dog → frog", "2", "66.67%"], ["cat → frog", "1", "33.33%"]]


def test_mistakes_and_doubts_are_shown_by_confidence(found, images):
    page = text(evaluation.examples_section(found, images, NAMES))
    assert page.startswith("Mistakes 3 of 9 images are misclassified. Most confident mistakes")
    surest, _, rest = page.partition("Least confident predictions")
    assert surest.endswith("frog 95.0% true: dog frog 70.0% true: cat frog 60.0% true: dog ")
    unsure, _, by_class = rest.partition("Most confident mistakes by true class")
    assert unsure.startswith(" frog 40.0% correct dog 50.0% correct frog 60.0% true: dog")
    assert unsure.endswith("frog 99.0% correct ")
    assert by_class == " cat, recall 66.67% frog 70.0% dog, recall 33.33% frog 95.0% frog 60.0%"


@pytest.mark.parametrize(("size", "kind"), [(8, "png"), (32, "png"), (48, "png"), (64, "jpeg"), (1024, "jpeg")])
def test_images_of_any_size_are_small_on_the_page(size, kind):
    noise = np.random.RandomState(0).randint(0, 256, (size, size, 3), np.uint8)
    element = evaluation.thumbnail(noise)
    assert f"data:image/{kind};base64," in element
    assert len(element) < 15_000


def test_top_k_counts_the_true_class_among_the_most_probable():
    log_probabilities = np.log(np.array([[0.5, 0.3, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1]], np.float32))
    found = Predictions(log_probabilities, np.array([1, 3], np.int32))
    assert [evaluation.top_k_accuracy(found, k) for k in (1, 2, 3, 4)] == [0, 0.5, 0.5, 1]
    assert [evaluation.top_k(classes) for classes in (2, 5, 6, 10, 20, 100)] == [0, 0, 3, 3, 5, 5]


def test_top_1_is_accuracy_where_classes_are_equally_probable():
    found = Predictions(np.log(np.full((10, 10), 0.1, np.float32)), np.arange(10, dtype=np.int32))
    assert evaluation.top_k_accuracy(found, 1) == found.accuracy == 0.1
