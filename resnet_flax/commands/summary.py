"""Print the layers, data and memory of a config, and the checkpoints of a run; draw its network."""

import textwrap
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import FrozenConfigDict

from resnet_flax import models
from resnet_flax.config.checks import complete, normalized_like
from resnet_flax.config.stored import read_config
from resnet_flax.data.augment.policy import Policy
from resnet_flax.data.datasets.load import ROLES, image_shape, training_text
from resnet_flax.errors import UserError
from resnet_flax.files import atomic_write
from resnet_flax.models import layers
from resnet_flax.models.resnet import ResNet
from resnet_flax.optim import optimizers
from resnet_flax.report.tables import MAX_NAME_CHARS, decimal, percent, text_table
from resnet_flax.text import escape_line, print_line
from resnet_flax.training.restore import finished_epochs
from resnet_flax.training.step import cross_entropy, init_state
from resnet_flax.workdir.checkpoints import steps_in
from resnet_flax.workdir.history import best_row
from resnet_flax.workdir.results import read_results

LINE_WIDTH = 110  # characters of a line
MANY = 10_007  # a number of images that no other dimension has: no network is so wide
CHECKPOINTS_HEADER = ["checkpoint", "epoch", "val acc", "val loss", ""]


def summary(config: FrozenConfigDict, workdir: Path, picture: bool, output: str) -> None:
    """Print the network of `config`, its memory and data, and the checkpoints of `workdir` if it is a run of `config`.

    With `picture`, also draw the network into `output`, .png or .svg, by default network.png in `workdir`. Reads no
    data. Raises UserError, after printing, for a network over its budget.
    """
    if output and not picture:
        raise UserError("--output is the file of --picture: add --picture, too")
    if picture:
        write_picture(config, Path(output) if output else workdir / "network.png")
    model = models.build(config)
    shape = image_shape(config.data)
    parts = [layers.layer_table(model, shape), text_table(["training memory", "MiB"], memory_rows(config, model))]
    parts.append(data_lines(config))
    if is_run_of(config, workdir):
        parts.append(checkpoints_text(config, workdir))
    print_line("\n".join(parts).rstrip())
    models.count_within_budget(model, config.model, shape)


def write_picture(config: FrozenConfigDict, path: Path) -> None:
    """Draw the network into `path`. Raises UserError if its extension is neither .png nor .svg."""
    from resnet_flax.report import network, render  # Matplotlib takes a quarter of a second

    formats = {".png": render.png, ".svg": render.svg_file}
    if path.suffix.lower() not in formats:
        raise UserError(f"--output={path} must end in one of {', '.join(formats)}")
    figure = network.network(models.build(config), config.model.name, image_shape(config.data))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, "wb") as file:
            file.write(formats[path.suffix.lower()](figure))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    print_line(f"network written to {path}")


def memory_rows(config: FrozenConfigDict, model: ResNet) -> list[list[str]]:
    """Return what a training step keeps in memory, from shapes alone; XLA needs more for single operations."""
    size, shape = config.train.batch_size, image_shape(config.data)
    averaged = config.train.ema_decay > 0
    state = jax.eval_shape(partial(init_state, model, optimizers.build(config.optimizer), config.seed, shape, averaged))
    parts = {
        "parameters": bytes_of(state.params),
        "gradients": bytes_of(state.params),
        "parameters perturbed by SAM": bytes_of(state.params) * (config.train.sam_radius > 0),
        "optimizer": bytes_of(state.opt_state),
        "running statistics": bytes_of(state.batch_stats),
        "average of the weights": bytes_of(state.average),
        f"activations of {size:,} images, {model.dtype.name}": size * activation_bytes(model, shape),
    }
    rows = {name: count for name, count in parts.items() if count} | {"total, about": sum(parts.values())}
    return [[name, f"{count / 2**20:,.1f}"] for name, count in rows.items()]


def activation_bytes(model: ResNet, shape: tuple[int, int, int]) -> int:
    """Return the bytes per image that the forward pass keeps for the backward pass, as JAX differentiates it.

    XLA may recompute or fuse some of it; a test keeps this within a factor of 1.5 of what XLA allocates on a CPU.
    """
    variables = models.variable_shapes(model, shape)

    def backward(variables, images, labels):
        def loss(params):
            key = {"dropout": jax.random.key(0)}
            inputs = {**variables, "params": params}
            logits, _ = model.apply(inputs, images, train=True, mutable=["batch_stats"], rngs=key)
            return cross_entropy(logits, jax.nn.one_hot(labels, logits.shape[-1])).mean()

        return jax.vjp(loss, variables["params"])[1]  # a pytree of all that is kept

    images = jax.ShapeDtypeStruct((MANY, *shape), jnp.float32)
    kept = jax.eval_shape(backward, variables, images, jax.ShapeDtypeStruct((MANY,), jnp.int32))
    return bytes_of([leaf for leaf in jax.tree.leaves(kept) if MANY in leaf.shape]) // MANY  # the others are parameters


def bytes_of(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def data_lines(config: FrozenConfigDict) -> str:
    """Return the lines about the data: splits, images, normalisation and classes."""
    data, normalization = config.data, Policy(config.data.policy).normalization
    if normalization:
        mean, std = (", ".join(f"{value:g}" for value in values) for values in normalization)
        normalized = f"mean {mean} and standard deviation {std}"
    else:
        normalized = "the mean and standard deviation of the training images, computed when training starts"
    texts = {"train": training_text(data)} | {role: data[role] for role in ROLES[1:]}
    splits = ", ".join(f"{role} {escape_line(text) or '(none)'}" for role, text in texts.items())
    names = [escape_line(name, MAX_NAME_CHARS) for name in data.classes]
    lines = [
        f"data: {data.name}{f' in {escape_line(data.dir)}' if data.dir else ''}; {splits}",
        f"images: {data.image_size} x {data.image_size}, RGB, normalised by {normalized}",
        textwrap.fill(f"{len(data.classes)} classes: {', '.join(names)}", LINE_WIDTH, subsequent_indent="  "),
    ]
    return "\n".join(lines) + "\n"


def is_run_of(config: FrozenConfigDict, workdir: Path) -> bool:
    """Return whether `workdir` holds a run of exactly this config."""
    try:
        stored = complete(read_config(workdir))
    except UserError:
        return False
    return normalized_like(config, stored) == stored


def checkpoints_text(config: FrozenConfigDict, workdir: Path) -> str:
    """Return a table of the checkpoints, newest first, with the validation results of their epochs."""
    steps = steps_in(workdir / "checkpoints")
    if not steps:
        return f"{escape_line(workdir)} has no checkpoint yet\n"
    history = finished_epochs(config, workdir)
    best = best_row(history, config.train.monitor)
    rows = []
    for step in steps:
        row = next((row for row in history if row["step"] == step), {})
        mark = f"best {config.train.monitor}" if best and best["step"] == step else ""
        epoch = f"{row['epoch']:.0f}" if row else "-"
        rows.append([f"step {step:,}", epoch, percent(row.get("val_accuracy")), decimal(row.get("val_loss")), mark])
    results = read_results(workdir)
    tested = f"test accuracy {results['test_accuracy']:.2%}\n" if "test_accuracy" in results else ""
    return text_table(CHECKPOINTS_HEADER, rows) + tested
