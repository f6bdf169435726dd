"""One training step and one evaluation step, as pure functions of arrays."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from resnet_flax.data.augment.mixing import UNMIXED, Mixing
from resnet_flax.errors import UserError
from resnet_flax.models.resnet import Variables, part_of
from resnet_flax.training.batch import mix_batch
from resnet_flax.training.distillation import Teacher
from resnet_flax.training.packing import together
from resnet_flax.training.resizing import Resizing

Batch = dict[str, jax.Array]  # "image" (batch, H, W, 3) and, in training, "label" (batch,) int32


class TrainState(struct.PyTreeNode):
    """Everything that training changes. Random numbers need no state: they follow from the seed and the step."""

    step: jax.Array  # () int32, optimizer steps done
    params: chex.ArrayTree
    batch_stats: chex.ArrayTree
    opt_state: chex.ArrayTree
    average: chex.ArrayTree  # the moving average of params and batch_stats, {} if none is kept

    @classmethod
    def start(cls, params, batch_stats, optimizer: optax.GradientTransformation, averaged: bool) -> "TrainState":
        """Return the state before the first step, with an average of the weights if `averaged`."""
        average = jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats}) if averaged else {}
        return cls(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params), average)

    @property
    def variables(self) -> Variables:
        """The params and batch_stats that the network predicts with: their average if one is kept."""
        return self.average or self.unaveraged

    @property
    def unaveraged(self) -> Variables:
        """The params and batch_stats that are trained."""
        return {"params": self.params, "batch_stats": self.batch_stats}


@struct.dataclass
class Totals:
    """Sums over the examples of an epoch so far; they stay on the device until they are read."""

    loss: jax.Array  # () float32
    correct: jax.Array  # () int32
    count: jax.Array  # () int32
    nonfinite_step: jax.Array  # () int32, the first step with a loss or gradient that is not finite, or -1

    @classmethod
    def zero(cls) -> "Totals":
        zero = jnp.zeros((), jnp.int32)
        return cls(jnp.zeros((), jnp.float32), zero, zero, zero - 1)

    def means(self) -> tuple[float, float]:
        """Return (mean loss, accuracy), which need at least one example; waits for the device."""
        count = int(self.count)
        return float(self.loss) / count, int(self.correct) / count


def init_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    seed: chex.Numeric,
    image_shape: tuple,
    averaged: bool = False,
    statistics: chex.ArrayTree | None = None,
) -> TrainState:
    """Return the initial state for images of `image_shape` (height, width, 3), with their models.statistics."""
    variables = model.init(jax.random.key(seed), jnp.zeros((1, *image_shape)), train=False)
    batch_stats = variables.get("batch_stats", {}) | (statistics or {})
    return TrainState.start(variables["params"], batch_stats, optimizer, averaged)


def cross_entropy(logits: jax.Array, targets: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Return the loss of each example, (batch,) float32, from logits and target probabilities, (batch, classes) each.

    `smoothing` moves that share of the target to all classes evenly, as torch.nn.CrossEntropyLoss does.
    """
    chex.assert_equal_shape([logits, targets])
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, smoothing))


def train_step(
    state: TrainState,
    totals: Totals,
    batch: Batch,
    teacher_variables: tuple[chex.ArrayTree, ...] = (),
    kernels: Sequence[jax.Array] = (),
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    seed: chex.Numeric,
    hyperparams: dict[str, chex.Numeric] | None = None,
    label_smoothing: float = 0.0,
    resizing: Resizing | None = None,
    sam_radius: float = 0.0,
    ema_decay: float = 0.0,
    mixing: Mixing = UNMIXED,
    teacher: Teacher | None = None,
    frozen: Sequence[str] = (),
    axis_name: str | None = None,
) -> tuple[TrainState, Totals]:
    """Take an optimizer step on the mean loss of the batch, and then update the weights' average if there is one.

    The parameters of the parts `frozen` stay unchanged, even by weight decay; `model` must freeze the same ones.
    Under jit the batch is global; under a mapped axis `axis_name` it is this device's share, and sums run over the
    axis. `teacher_variables` are those of the networks of `teacher`, which are not trained. `kernels` are the state's
    `kernels_in` the dtype of the network, if the caller has them. `hyperparams` are keywords of the optimizer's update,
    if it takes any.
    """
    check_labels(batch["label"], len(batch["image"]))
    dropout_key = jax.random.fold_in(jax.random.key(seed), state.step)
    with jax.named_scope("mixing"):
        examples = mix_batch(batch, mixing, seed, state.step, axis_name)
    with jax.named_scope("teacher"):
        softened = teacher.probabilities(teacher_variables, examples.image) if teacher else None

    kept = {name: layer for name, layer in state.params.items() if part_of(name) in frozen}

    def forward(params, images):
        variables = {"params": params, "batch_stats": state.batch_stats}
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": dropout_key})

    if resizing is not None:
        forward = resizing.apply(forward, state.step)

    def loss_fn(params):
        logits, updates = forward(params | jax.lax.stop_gradient(kept), examples.image)
        losses = cross_entropy(logits, examples.targets(logits.shape[-1]), label_smoothing)
        if teacher is not None and softened is not None:
            losses = teacher.loss(losses, logits, softened)
        return losses.mean(), (losses, logits, updates.get("batch_stats", {}))

    def gradient_at(params):
        found, outputs = jax.grad(loss_fn, has_aux=True)(params)
        found = jax.tree.map(lambda gradient, param: gradient.astype(param.dtype), found, state.params)
        return found if axis_name is None else jax.lax.pmean(found, axis_name), outputs

    gradients, (losses, logits, batch_stats) = gradient_at(with_kernels(state.params, kernels))
    if sam_radius:
        gradients, _ = gradient_at(perturbed(state.params, gradients, sam_radius))
    gradients = together(gradients)
    right = logits.argmax(-1) == examples.dominant_labels()
    loss, correct = jnp.stack([losses, right.astype(jnp.float32)]).sum(1)  # in one kernel
    sums = (loss, correct.astype(jnp.int32), jnp.array(len(losses)))
    if axis_name is not None:
        sums = jax.lax.psum(sums, axis_name)
    with jax.named_scope("optimizer"):  # its name in profiles
        update = optax.with_extra_args_support(optimizer).update
        updates, opt_state = update(gradients, state.opt_state, state.params, **(hyperparams or {}))
        params = optax.apply_updates(state.params, updates) | kept
    finite = jnp.isfinite(sums[0]) & jnp.isfinite(sum_of_squares(gradients))
    first_bad = jnp.where((totals.nonfinite_step < 0) & ~finite, state.step, totals.nonfinite_step)
    state = TrainState(state.step + 1, params, batch_stats, opt_state, state.average)
    if state.average:
        state = state.replace(average=moved_average(state.average, state.unaveraged, ema_decay, state.step))
    return (
        state,
        Totals(totals.loss + sums[0], totals.correct + sums[1], totals.count + sums[2], first_bad),
    )


def kernels_in(dtype: Any, params: chex.ArrayTree) -> list[jax.Array]:
    """Return the kernels of all convolutions, converted to `dtype`."""
    return [leaf.astype(dtype) for leaf in jax.tree.leaves(params) if leaf.ndim == 4]


def with_kernels(params: chex.ArrayTree, kernels: Sequence[jax.Array]) -> chex.ArrayTree:
    """Return `params` with `kernels`, as `kernels_in` returns them, in place of its own; () keeps its own."""
    rest = iter(kernels)
    return jax.tree.map(lambda leaf: next(rest, leaf) if leaf.ndim == 4 else leaf, params)


def check_labels(labels: jax.Array, count: int) -> None:
    """Raise UserError unless `labels` are `count` integers; their values are unknown when a step is compiled."""
    if labels.shape != (count,) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise UserError(f"labels must be integers of shape ({count},), not {labels.dtype} of shape {labels.shape}")


def check_pixels(images: jax.Array) -> None:
    """Raise UserError unless `images` are uint8 (batch, H, W, 3)."""
    if images.dtype != jnp.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise UserError(
            "images must be uint8 (0 to 255) of shape (batch, height, width, 3), which the step normalises itself, "
            f"not {images.dtype} of shape {images.shape}"
        )


def perturbed(params: chex.ArrayTree, gradients: chex.ArrayTree, radius: float) -> chex.ArrayTree:
    """Return the weights at distance `radius` from `params` along the gradients.

    Sharpness-aware minimisation (Foret et al., 2021) updates `params` with the gradient there. Losses and BatchNorm's
    statistics are those of the first pass, at `params`, as in the usual implementations.
    """
    scale = radius / (jnp.sqrt(sum_of_squares(gradients)) + 1e-12)
    return jax.tree.map(lambda param, gradient: param + scale * gradient, params, gradients)


def sum_of_squares(tree: chex.ArrayTree) -> jax.Array:
    """Return the sum of the squares of all elements, () float32.

    Sums over each output channel of a convolution first, which a GPU does in passing where the gradient is used, then
    over all at once. Without the barrier XLA would split the latter into a sum, and a kernel, for each leaf.
    """
    squares = [leaf * leaf for leaf in jax.tree.leaves(tree)]
    parts = [square.sum((0, 1, 2)) if square.ndim == 4 else square.ravel() for square in squares]
    return jnp.sum(jax.lax.optimization_barrier(jnp.concatenate(parts)))


def moved_average(average: chex.ArrayTree, new: chex.ArrayTree, decay: float, step: jax.Array) -> chex.ArrayTree:
    """Return decay x average + (1 - decay) x new, at step `step` (from 1).

    The first moves use the decay n / (9 + n) at the n-th while that is less, so that the random start is soon forgotten
    (tf.train.ExponentialMovingAverage with num_updates). With a decay above 0.999, a step would move a float32 number
    by less than its rounding: the average then moves only at every k-th step, with the decay of k steps, about 0.999.
    """
    every = max(1, round(math.log(0.999) / math.log(decay)))
    moves = step // every
    keep = jnp.minimum(decay**every, moves / (9.0 + moves))
    moved = jax.tree.map(lambda old, now: now + keep * (old - now), average, new)
    if every == 1:
        return moved
    return jax.tree.map(lambda old, new: jnp.where(step % every == 0, new, old), average, moved)


def eval_step(
    variables: chex.ArrayTree,
    batch: Batch,
    *,
    model: nn.Module,
    normalize: Callable[[jax.Array], jax.Array],
    axis_name: str | None = None,
) -> jax.Array:
    """Return the log-probability of each class, (batch, classes) float32, with BatchNorm's running statistics.

    Images are uint8; `normalize` maps them to what the network was trained on. Under a mapped axis `axis_name` each
    device returns the rows of all.
    """
    check_pixels(batch["image"])
    logits: Any = model.apply(variables, normalize(batch["image"]), train=False)
    return all_rows(jax.nn.log_softmax(logits), axis_name)


def feature_step(
    variables: chex.ArrayTree,
    batch: Batch,
    *,
    model: nn.Module,
    normalize: Callable[[jax.Array], jax.Array],
    axis_name: str | None = None,
) -> jax.Array:
    """Return the pooled features before the last layer, (batch, channels) float32; the arguments are eval_step's."""
    check_pixels(batch["image"])
    _, sown = model.apply(variables, normalize(batch["image"]), train=False, mutable=["intermediates"])
    return all_rows(sown["intermediates"]["features"][0], axis_name)


def all_rows(rows: jax.Array, axis_name: str | None) -> jax.Array:
    """Return the rows of all devices, given those of this one under a mapped axis `axis_name`, or all without one."""
    return rows if axis_name is None else jax.lax.all_gather(rows, axis_name, tiled=True)
