"""Draw the README's picture from a finished run: python -m benchmarks.pictures --workdir=runs/preact

Its panels are the accuracy of every epoch, the confusion matrix, the most confident mistakes, and augmented training
images, all drawn by the functions that draw a run's report. Needs the run's dataset. Records the run as benchmarks.runs
does, and writes docs/images/run.png, which names it, so that benchmarks.readme can write the caption.
"""

import contextlib
import io
import sys
import tempfile
from pathlib import Path

import matplotlib.image
import numpy as np
from matplotlib.figure import Figure
from ml_collections import FrozenConfigDict
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from benchmarks import command_line, recipes, record, runs
from resnet_flax.commands.preview import preview
from resnet_flax.config.checks import complete
from resnet_flax.config.stored import read_config
from resnet_flax.data.datasets.load import load_split
from resnet_flax.errors import UserError
from resnet_flax.report import figures
from resnet_flax.training.restore import read_history
from resnet_flax.workdir.predictions import Predictions, read_predictions
from resnet_flax.workdir.results import read_results

PICTURE = recipes.ROOT / "docs" / "images" / "run.png"
MISTAKES, PREVIEWED, VERSIONS = 10, 4, 6  # images in the last two panels
WIDTH, TITLES, DPI = 16, 1.1, 100  # inches, of which a column's two titles take some; pixels per inch
PANEL = 7.8  # inches, so that text is about equally large in all panels
COLORS = 256  # of the palette, which takes a third of the bytes


def panels(config: FrozenConfigDict, workdir: Path) -> dict[str, np.ndarray]:
    """Return title -> pixels (H, W, 4) of each panel; UserError without a finished run and its dataset."""
    results = read_results(workdir)
    if "test_accuracy" not in results:
        raise UserError(f"{workdir} is not finished or has no test split: train it to the end first")
    found, _ = read_predictions(workdir / "report" / "predictions.npz")
    _, split = load_split(config.data, "test")
    worst = found.confident_mistakes(MISTAKES)
    mistakes = figures.mistakes(
        Predictions(found.log_probabilities[worst], found.labels[worst]), split.images[worst], config.data.classes
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        preview(config, Path(folder), PREVIEWED, VERSIONS)
        augmented = matplotlib.image.imread(Path(folder) / "preview.png")
    return {
        "Accuracy of every epoch": pixels(figures.training_curves(read_history(config, workdir), "accuracy", results)),
        f"Confusion matrix of {len(found):,} test images": pixels(figures.confusion_matrix(found, config.data.classes)),
        "Most confident mistakes: true class, prediction": pixels(mistakes),
        "Augmented training images": augmented,
    }


def pixels(figure: Figure) -> np.ndarray:
    width, height = figure.get_size_inches()
    figure.set_size_inches(PANEL, PANEL * height / width)
    file = io.BytesIO()
    figure.savefig(file, facecolor="white", dpi=2 * DPI)
    file.seek(0)
    return matplotlib.image.imread(file)


def montage(pictures: dict[str, np.ndarray]) -> Figure:
    """Return a figure of two columns of equal height, each with two panels of its width."""
    curves, matrix, mistakes, augmented = pictures.items()
    columns = [[curves, augmented], [matrix, mistakes]]
    slopes = [[picture.shape[0] / picture.shape[1] for _, picture in column] for column in columns]
    left, right = map(sum, slopes)
    figure = Figure(figsize=(WIDTH, WIDTH * left * right / (left + right) + TITLES), dpi=DPI, layout="constrained")
    for part, column, heights in zip(figure.subfigures(1, 2, width_ratios=[right, left]), columns, slopes, strict=True):
        for axes, (title, picture) in zip(part.subplots(2, 1, height_ratios=heights), column, strict=True):
            axes.imshow(picture, interpolation="lanczos")
            axes.set_title(title, fontsize=15, pad=10)
            axes.set_axis_off()
    return figure


def write_palette(figure: Figure, path: Path, **about: str) -> None:
    """Write a PNG with a palette, to keep it small, and with texts `about` it."""
    file, texts = io.BytesIO(), PngInfo()
    figure.savefig(file, facecolor="white")
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, text in about.items():
        texts.add_text(name, text)
    image = Image.open(file).convert("RGB")
    image.quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True, pnginfo=texts)


def main() -> int:
    parser = command_line.parser(__doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="the workdir of a finished run")
    parser.add_argument("--output", type=Path, default=PICTURE, help="the picture")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="the folder of all results")
    arguments = parser.parse_args()
    picture = montage(panels(complete(read_config(arguments.workdir)), arguments.workdir))
    write_palette(picture, arguments.output, Run=runs.record(arguments.workdir, arguments.results).name)
    print(f"{arguments.output}: python -m benchmarks.readme writes its caption")
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(main))
