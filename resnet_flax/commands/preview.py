"""Draw augmented training images."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from ml_collections import FrozenConfigDict

from resnet_flax.config.checks import resolve_normalization
from resnet_flax.data.augment.policy import Policy
from resnet_flax.data.datasets.load import load_dataset
from resnet_flax.data.stream import Stream
from resnet_flax.errors import UserError
from resnet_flax.report import figures
from resnet_flax.text import escape_line, print_line

MAX_GRID = 50  # images or versions in a figure


def preview(config: FrozenConfigDict, workdir: Path, images: int, versions: int) -> None:
    """Draw the first `images` training images, and beside each its versions in the first `versions` epochs.

    They are exactly the pixels that training sees, with the normalisation undone. Written to WORKDIR/preview.png.
    """
    for name, number in (("images", images), ("versions", versions)):
        if not 1 <= number <= MAX_GRID:
            raise UserError(f"--{name} must be from 1 to {MAX_GRID}, not {number}")
    config = resolve_normalization(config)
    data = load_dataset(config.data)
    policy = Policy(config.data.policy)
    images = min(images, len(data.train))
    stream = Stream(data.train, policy, images, config.seed, concat_original=False)
    first = np.arange(images, dtype=np.int32)
    assert policy.normalization
    mean, std = (np.asarray(values, np.float32) for values in policy.normalization)
    columns = [data.train.images[:images] / np.float32(255)]
    for epoch in range(versions):
        batch = stream.batch(np, data.train.images, data.train.labels, epoch, first)
        columns.append(np.clip(batch["image"] * std + mean, 0, 1))

    figure = Figure(figsize=(0.9 * (versions + 1) + 0.9, 0.9 * images + 0.5), dpi=120, layout="constrained")
    grid = figure.subplots(images, versions + 1, squeeze=False)
    for row, label in zip(grid, data.train.labels, strict=False):
        name = figures.short_label(config.data.classes[label])
        row[0].set_ylabel(name, rotation="horizontal", ha="right", va="center", parse_math=False)
    for at, column in enumerate(columns):
        grid[0, at].set_title("original" if at == 0 else f"epoch {at}", fontsize="small")
        for axes, image in zip(grid[:, at], column, strict=True):
            axes.imshow(image, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "preview.png"
    figures.write_png(figure, path)
    print_line(f"{str(policy)!r}\ndrawn into {escape_line(path)}")
