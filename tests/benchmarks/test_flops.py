"""The plot of accuracy against FLOPs has every point, and its labels can be read."""

import itertools

import pytest
from matplotlib.text import Annotation
from PIL import Image

from benchmarks import flops, recipes


@pytest.mark.parametrize(
    ("recipe", "gigaflops"),
    # The third is airbench94's network, whose README states 0.36e15 FLOPs for 9.9 epochs of 50,000 images.
    [("resnet_443", 4.79), ("preact", 0.836), ("speed94", 0.36e15 / 10 / 50_000 / 1e9)],
)
def test_training_flops(recipe, gigaflops):
    assert recipes.training_flops(recipes.config(recipe)) == pytest.approx(gigaflops * 1e9, rel=0.005)


def test_training_flops_of_one_convolution_by_hand():
    one = ["--config.data.name=cifar10", "--config.model.blocks=(1,)", "--config.model.widths=(8,)"]
    pixels, stem, block, head = 32 * 32, 9 * 3 * 8, 2 * 9 * 8 * 8, 8 * 10
    assert recipes.training_flops(recipes.config("resnet_443", one)) == 3 * 2 * (pixels * (stem + block) + head)


def test_steps_on_small_images_have_fewer_training_flops():
    some = ["--config.data.name=cifar10"]
    full, small = (
        recipes.training_flops(recipes.config("preact", [*some, f"--config.data.image_size={size}"]))
        for size in (32, 24)
    )
    mixed = recipes.training_flops(recipes.config("preact", [*some, "--config.train.small_share=0.75"]))
    assert mixed == round(0.25 * full + 0.75 * small)


def test_every_report_is_drawn_and_no_label_covers_another_or_a_point():
    drawn = flops.points()
    crowd = [flops.Point(f"a run {n}", flops.HERE, 1e15 * (8 + n), 93 + n / 9) for n in range(6)]
    figure = flops.draw([*drawn, *crowd])
    (axes,) = figure.axes
    texts = [child for child in axes.get_children() if isinstance(child, Annotation) and child.get_text()]
    assert [text.get_text() for text in texts] == [point.label for point in (*drawn, *crowd)]
    labels = [point.label for point in drawn if point.kind == flops.REPORT]
    assert len(labels) == 7 and "resnet_353, in its log" in labels and "preact, up to 100 epochs" in labels
    boxes = [text.get_window_extent() for text in texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    at = [axes.transData.transform((point.flops / 1e15, point.percent)) for point in (*drawn, *crowd)]
    assert not any(box.contains(*point) for box in boxes for point in at)


def test_flops_of_a_report_count_every_image():
    found = {point.label: point.flops for point in flops.of_reports()}
    assert found["resnet_443"] == pytest.approx(4.79e9 * 75 * 50_000, rel=0.001)
    assert found["preact, up to 100 epochs"] == pytest.approx(0.836e9 * 100 * 40_000, rel=0.001)
    assert found["resnet18_w42"] == pytest.approx(1.4376e9 * 80 * 100_000, rel=0.001)


def test_the_picture_is_of_the_recorded_runs():
    text = Image.open(flops.PICTURE).text["Points"]
    assert text == flops.listed(flops.points()), "python -m benchmarks.flops draws it"
