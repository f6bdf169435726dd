"""The figures of a report, and the same ones as SVG."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from resnet_flax.report import evaluation, figures
from resnet_flax.report.render import THEME, png, svg
from resnet_flax.workdir.predictions import Predictions

ROWS = [{"epoch": epoch, "train_loss": 1 / epoch, "val_loss": 2 / epoch} for epoch in range(1, 6)]
NAMES = [
    "<script>alert('3')</script>",
    "\x1b[2J",
    "x" * 10_000,
    r"$\frac$",
    "_x_",
    'a id="b"',
    "#000000",
    "c",
    "d",
    "e",
]


def predictions_of(labels: np.ndarray, predicted: np.ndarray, confidence: float, classes: int = 10) -> Predictions:
    """Predictions with one confidence, the other classes equally likely."""
    rest = (1 - confidence) / (classes - 1)
    probabilities = np.where(np.eye(classes, dtype=bool)[predicted], confidence, rest)
    return Predictions(np.log(probabilities).astype(np.float32), labels.astype(np.int32))


def test_a_class_is_drawn_as_it_is_called():
    """Also names that Matplotlib would take for a formula, leave out of a legend or shrink everything else for."""
    found = predictions_of(np.arange(10), np.zeros(10, int), 0.5)
    matrix = figures.confusion_matrix(found, NAMES)
    mistakes = figures.mistakes(found, np.zeros((10, 32, 32, 3), np.uint8), NAMES)
    for figure in (matrix, mistakes):
        assert len(png(figure)) > 5_000
        assert figure.axes[0].get_window_extent().width > 0.1 * figure.bbox.width
    assert r"$\frac$" in [label.get_text() for label in matrix.axes[0].get_yticklabels()]
    assert "_x_\nas <script>alert(…, 50.0%" in [text.get_text() for text in mistakes.axes[0].texts]
    rows = [{"epoch": 1, "train_loss": 1.0, "val_loss": 1.0}]
    (legend,) = figures.compared_curves({"_first_": rows, "$second$": rows}, "loss").legends
    assert [text.get_text() for text in legend.get_texts()] == [" _first_", "$second$"]
    assert len(png(figures.text_figure("a row\n" * 10_000))) > 10_000


def test_curves_keep_their_room_beside_the_names_of_as_many_runs_as_there_are_colours():
    rows = [{"epoch": 1, "train_loss": 1.0, "val_loss": 1.0}]
    names = [f"{index:03}/{'x' * 200}" for index in range(figures.MAX_CURVES)]
    figure = figures.compared_curves(dict.fromkeys(names, rows), "loss")
    assert len(png(figure)) > 5_000
    curves, (legend,) = figure.axes[0].get_window_extent(), figure.legends
    assert curves.width > 0.7 * figure.bbox.width and curves.height > 2 * figure.dpi
    assert not curves.overlaps(legend.get_window_extent()) and legend.get_window_extent().y0 >= 0
    assert [len(text.get_text()) for text in legend.get_texts()] == [40] * figures.MAX_CURVES


def test_classes_that_begin_alike_keep_their_ends():
    grades = [f"diabetic_retinopathy_grade_{grade}" for grade in range(5)]
    for longest in (15, 20):
        labels = figures.short_labels(grades, longest)
        assert len(set(labels)) == 5 and {len(label) for label in labels} == {longest}
    assert figures.short_labels(["cat", "x" * 30]) == ["cat", "x" * 19 + "\u2026"]


def test_an_axis_of_one_epoch_has_no_parts_of_epochs():
    axes = figures.training_curves([{"epoch": 1, "train_loss": 1.0}], "loss", {}).axes[0]
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_svg_has_the_names_as_text_and_nothing_that_a_name_can_change():
    drawn = svg(figures.confusion_matrix(predictions_of(np.arange(10), np.zeros(10, int), 0.5), NAMES))
    texts = [
        "".join(text.itertext()) for text in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")
    ]
    assert {"<script>alert('3')<…", r"\x1b[2J", r"$\frac$", 'a id="b"', "#000000"} <= set(texts)
    assert "<script" not in drawn


def test_svg_takes_the_colours_of_the_page_and_is_the_same_every_time():
    figure = figures.training_curves(ROWS, "loss", {})
    drawn = svg(figure)
    assert drawn == svg(figures.training_curves(ROWS, "loss", {}))
    assert not set(THEME) & set(re.findall("#[0-9a-f]{6}", drawn))
    assert "var(--run0)" in drawn and "var(--run1)" in drawn and "currentColor" in drawn
    assert "metadata" not in drawn and "DejaVu" not in drawn
    ids = re.findall(r'\bid="(\w+)"', drawn)
    assert ids and len(set(ids)) == len(ids) and all(f"#{one}" in drawn for one in ids)


def test_a_hundred_classes_and_no_mistake_can_be_drawn():
    labels = np.arange(200) % 100
    certain = predictions_of(labels, labels, 0.98, 100)
    names = [f"class {number}" for number in range(100)]
    pixels = np.zeros((200, 32, 32, 3), np.uint8)
    matrix, mistakes = figures.confusion_matrix(certain, names), figures.mistakes(certain, pixels, names)
    for figure in (matrix, mistakes, figures.reliability(certain.calibration())):
        assert len(png(figure)) > 3_000
        assert len(svg(figure)) < 300_000
    assert "no mistakes" in [text.get_text() for text in mistakes.texts]
    assert evaluation.confusions(certain, names) == []


def test_names_of_hundreds_of_classes_do_not_overlap():
    labels = np.arange(300)
    axes = figures.confusion_matrix(predictions_of(labels, labels, 0.9, 300), [f"c{n}" for n in labels]).axes[0]
    for axis in (axes.xaxis, axes.yaxis):
        assert [label.get_text() for label in axis.get_ticklabels()] == [f"c{n}" for n in range(0, 300, 3)]
        assert axis.get_ticklocs().tolist() == [*range(0, 300, 3)]


def test_calibration_is_drawn_at_mean_confidence_and_accuracy():
    """With six of ten right at a confidence of 0.75: a point at (0.75, 0.6), 0.15 below the diagonal."""
    labels = np.zeros(10, int)
    found = predictions_of(labels, np.array([0] * 6 + [1] * 4), 0.75)
    top, bottom = figures.reliability(found.calibration()).axes
    diagonal, points = top.get_lines()
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert points.get_xydata() == pytest.approx(np.array([[0.75, 0.6]]))
    (gap,) = top.collections
    assert sorted(gap.get_paths()[0].vertices.flatten()) == pytest.approx([0.6, 0.75, 0.75, 0.75])
    assert sum(bar.get_height() for bar in bottom.patches) == 10


def test_one_epoch_is_a_point_and_not_an_empty_picture():
    lines = figures.training_curves(ROWS[:1], "loss", {}).axes[0].get_lines()
    assert [line.get_marker() for line in lines] == ["o", "o"]
