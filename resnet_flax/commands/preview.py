"""Draw augmented training images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from ml_collections import FrozenConfigDict

from resnet_flax.config.checks import resolve_normalization
from resnet_flax.data.augment.mixing import Mixing, mixed
from resnet_flax.data.augment.policy import Policy
from resnet_flax.data.datasets.load import load_dataset
from resnet_flax.data.stream import Stream
from resnet_flax.errors import UserError
from resnet_flax.report import figures
from resnet_flax.text import escape_line, print_line

MAX_GRID = 50  # images or versions in a figure
CAPTION_CHARS = 10  # of a class name below an image, which is about that wide

Column = tuple[np.ndarray, list[str]]  # images (n, H, W, 3) float32, pixels from 0 to 1, and a caption for each


def preview(config: FrozenConfigDict, workdir: Path, images: int, versions: int) -> None:
    """Draw the first `images` training images, and beside each its versions in the first `versions` epochs.

    These are exactly the pixels that training sees, with the normalisation undone; if batches are mixed, they are mixed
    as if these images were the batch of the first steps. Written to WORKDIR/preview.png.
    """
    for name, number in (("images", images), ("versions", versions)):
        if not 1 <= number <= MAX_GRID:
            raise UserError(f"--{name} must be from 1 to {MAX_GRID}, not {number}")
    config = resolve_normalization(config)
    data = load_dataset(config.data)
    policy = Policy(config.data.policy)
    images = min(images, len(data.train))
    stream = Stream(data.train, policy, images, config.seed, concat_original=False)
    mixing, names = Mixing.of(config.train), figures.short_labels(config.data.classes)
    shorter = figures.short_labels(config.data.classes, CAPTION_CHARS)
    columns = [(data.train.images[:images] / np.float32(255), [""] * images)]
    columns += [version(stream, mixing, shorter, epoch) for epoch in range(versions)]
    lines = mixing.images if mixing.on else 0
    figure = draw_columns(columns, [names[label] for label in data.train.labels[:images]], lines)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "preview.png"
    figures.write_png(figure, path)
    print_line(f"augmentation: {policy}\npreview: {escape_line(path)}")
    if share := config.train.small_share:
        small = config.train.small_size
        print_line(f"note: the first {share:.0%} of the steps train on these images made {small} x {small}")


def draw_columns(columns: Sequence[Column], labels: Sequence[str], lines: int) -> Figure:
    """Draw the original images and a column for each epoch; a caption has at most `lines` lines."""
    height = 0.9 + 0.15 * lines  # inches of an image with its caption
    figure = Figure(figsize=(0.9 * len(columns) + 0.9, height * len(labels) + 0.5), dpi=120, layout="constrained")
    grid = figure.subplots(len(labels), len(columns), squeeze=False)
    for row, label in zip(grid, labels, strict=True):
        row[0].set_ylabel(label, rotation="horizontal", ha="right", va="center", parse_math=False)
    for at, (column, captions) in enumerate(columns):
        grid[0, at].set_title("original" if at == 0 else f"epoch {at}", fontsize="small")
        for axes, image, caption in zip(grid[:, at], column, captions, strict=True):
            axes.imshow(image, interpolation="nearest")
            axes.set_xlabel(caption, fontsize="x-small", parse_math=False)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    return figure


def version(stream: Stream, mixing: Mixing, names: Sequence[str], epoch: int) -> Column:
    """Return the first images as in `epoch`, pixels from 0 to 1, and their captions: classes and shares if mixed."""
    data, first = stream.split, np.arange(stream.batch_size, dtype=np.int32)
    batch = stream.batch(np, data.images, data.labels, epoch, first)
    images, *others = (np.roll(batch["image"], number, axis=0) for number in range(mixing.images))
    images, shares = mixed(np, mixing, stream.seed, epoch, (images, *others))
    parts = [np.squeeze(share).item() for share in shares]
    labels = [np.roll(batch["label"], number) for number in range(mixing.images)]
    captions = [caption([names[label] for label in ones], parts) for ones in zip(*labels, strict=True)]
    assert stream.policy.normalization
    mean, std = (np.asarray(values, np.float32) for values in stream.policy.normalization)
    return np.clip(images * std + mean, 0, 1), captions


def caption(names: Sequence[str], shares: Sequence[float]) -> str:
    """Return a line for each class that has a share of an image, "" for an image that is not mixed."""
    if shares[0] == 1:
        return ""
    return "\n".join(f"{share:.0%} {name}" for name, share in zip(names, shares, strict=True) if share > 0)
