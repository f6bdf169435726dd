"""Optimisers with PyTorch's definitions, as optax gradient transformations.

optax's SGD has no dampening, and its AdaGrad adds epsilon under the root, so these two are defined here.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict


class Hyperparams(NamedTuple):
    """The numbers of an optimiser that schedules change or sweeps try, () float32 each, or (steps,) for many steps.

    They are arguments of `update`, so that the compiled program is the same for all their values.
    """

    learning_rate: chex.Numeric
    momentum: chex.Numeric  # Adam's b1
    weight_decay: chex.Numeric


class MomentumState(NamedTuple):
    step: chex.Array  # () int32
    trace: chex.ArrayTree  # like the parameters


def scale_by_momentum(momentum: chex.Numeric, dampening: float, nesterov: bool) -> optax.GradientTransformation:
    """Return the momentum of `torch.optim.SGD`: trace = momentum x trace + (1 - dampening) x gradient.

    The first step has no dampening.
    """

    def init(params):
        return MomentumState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(gradients, state, params=None):
        decay = jnp.asarray(momentum)
        share = jnp.where(state.step == 0, 1.0, 1.0 - dampening)
        trace = jax.tree.map(lambda g, t: decay.astype(t.dtype) * t + share.astype(g.dtype) * g, gradients, state.trace)
        updates = jax.tree.map(lambda g, t: g + decay.astype(t.dtype) * t, gradients, trace) if nesterov else trace
        return updates, MomentumState(state.step + 1, trace)

    return optax.GradientTransformation(init, update)


class AdaGradState(NamedTuple):
    sum_of_squares: chex.ArrayTree  # like the parameters


def scale_by_adagrad(eps: float) -> optax.GradientTransformation:
    """Return the scaling of `torch.optim.Adagrad`: gradient / (sqrt(sum of squared gradients) + eps)."""

    def init(params):
        return AdaGradState(jax.tree.map(jnp.zeros_like, params))

    def update(gradients, state, params=None):
        sums = jax.tree.map(lambda g, s: s + g * g, gradients, state.sum_of_squares)
        return jax.tree.map(lambda g, s: g / (jnp.sqrt(s) + eps), gradients, sums), AdaGradState(sums)

    return optax.GradientTransformation(init, update)


def scale_by_adam(config: ConfigDict, now: Hyperparams) -> optax.GradientTransformation:
    """Return optax's Adam scaling; b1 could be given directly, but checkpoints contain the wrapper's state."""
    return optax.inject_hyperparams(optax.scale_by_adam, static_args=("b2", "eps"))(
        b1=lambda _: now.momentum, b2=config.b2, eps=config.eps
    )


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


def orthogonalized(matrices: jax.Array) -> jax.Array:
    """Return roughly the nearest matrix with all singular values 1 to each of `matrices` (..., m, n), m <= n.

    Singular values above 1 % of the norm become 0.68 to 1.14. A Newton-Schulz iteration of degree 5 with the
    coefficients of Jordan et al. (2024, Muon).
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices / (norms(matrices) + 1e-8)
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x


def norms(matrices: jax.Array) -> jax.Array:
    """Return the Frobenius norm of each of `matrices`: (..., m, n) -> (..., 1, 1)."""
    return jnp.linalg.norm(matrices, axis=(-2, -1), keepdims=True)


def orthogonalize_convolutions() -> optax.GradientTransformation:
    """Orthogonalise the update of each kernel (H, W, in, out) as a matrix (H W in, out), scaled to the kernel's norm.

    The learning rate is then the relative change of a kernel per step; the norm of a kernel has no effect where
    BatchNorm follows. The updates of other parameters are unchanged.
    """

    def update(updates, params):
        leaves, tree = jax.tree.flatten(updates)
        kernels = jax.tree.leaves(params)
        rows: dict[int, list[int]] = {}  # of a wide matrix -> the convolutions with as many
        for index, kernel in enumerate(kernels):
            if kernel.ndim == 4:
                rows.setdefault(min(kernel.size // kernel.shape[-1], kernel.shape[-1]), []).append(index)
        for some in rows.values():
            directions = orthogonalized(stacked([leaves[index] for index in some]))
            lengths = norms(stacked([kernels[index] for index in some]))
            scaled = directions * (lengths / (norms(directions) + 1e-8))
            for index, matrix in zip(some, scaled, strict=True):
                leaves[index] = unstacked(matrix, leaves[index].shape)
        return jax.tree.unflatten(tree, leaves)

    return optax.stateless(update)


def stacked(kernels: Sequence[jax.Array]) -> jax.Array:
    """Return kernels (H, W, in, out) as wide matrices in one array (kernels, m, n), m <= n, padded with zeros.

    The zeros stay zero when a matrix is orthogonalised and change nothing else, so one multiplication serves all.
    """
    matrices = [kernel.reshape(-1, kernel.shape[-1]) for kernel in kernels]
    wide = [matrix.T if matrix.shape[0] > matrix.shape[1] else matrix for matrix in matrices]
    longest = max(matrix.shape[1] for matrix in wide)
    return jnp.stack([jnp.pad(matrix, ((0, 0), (0, longest - matrix.shape[1]))) for matrix in wide])


def unstacked(matrix: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return the kernel of `shape` (H, W, in, out) whose matrix in `stacked` is `matrix`."""
    rows, columns = math.prod(shape[:-1]), shape[-1]
    wide = matrix[:, : max(rows, columns)]
    return (wide.T if rows > columns else wide).reshape(shape)


def scale_biases(factor: float) -> optax.GradientTransformation:
    """Multiply the updates of all biases, those of BatchNorm and of the head, by `factor`."""

    def one(path, update: jax.Array) -> jax.Array:
        return update * factor if path[-1].key == "bias" else update

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(one, updates))


def decay_weights(config: ConfigDict, now: Hyperparams) -> optax.GradientTransformation:
    """Add `weight_decay` x parameters to the updates; if `decay_all` is off, only for kernels (two or more axes)."""
    if config.decay_all:
        return optax.add_decayed_weights(now.weight_decay)
    return optax.add_decayed_weights(now.weight_decay, lambda params: jax.tree.map(lambda p: p.ndim > 1, params))


def sgd(config: ConfigDict, now: Hyperparams) -> optax.GradientTransformation:
    """Return SGD with L2 decay, added to the gradient before the momentum."""
    momentum = scale_by_momentum(now.momentum, config.dampening, config.nesterov) if config.momentum else None
    return optax.chain(decay_weights(config, now), momentum or optax.identity())


def muon(config: ConfigDict, now: Hyperparams) -> optax.GradientTransformation:
    """Return SGD with orthogonalised updates of convolutions (Jordan et al., 2024, Muon)."""
    return optax.chain(sgd(config, now), orthogonalize_convolutions())


def adam(config: ConfigDict, now: Hyperparams) -> optax.GradientTransformation:
    """Return Adam (Kingma & Ba, 2014) with L2 decay, added to the gradient."""
    return optax.chain(decay_weights(config, now), scale_by_adam(config, now))


def adamw(config: ConfigDict, now: Hyperparams) -> optax.GradientTransformation:
    """Return Adam with decoupled decay (Loshchilov & Hutter, 2017)."""
    return optax.chain(scale_by_adam(config, now), decay_weights(config, now))


def adagrad(config: ConfigDict, now: Hyperparams) -> optax.GradientTransformation:
    """Return AdaGrad (Duchi et al., 2011) with L2 decay, added to the gradient."""
    return optax.chain(decay_weights(config, now), scale_by_adagrad(config.eps))


OPTIMIZERS: dict[str, Callable[[ConfigDict, Hyperparams], optax.GradientTransformation]] = {
    "sgd": sgd,
    "muon": muon,
    "adam": adam,
    "adamw": adamw,
    "adagrad": adagrad,
}


def build(config: ConfigDict) -> optax.GradientTransformationExtraArgs:
    """Return the optimiser that `config`, the section `optimizer` of a config, describes, including gradient clipping.

    Its `update` takes the fields of `Hyperparams` as keywords. It ignores their values in `config`, except for whether
    there is momentum at all. Decay applies to all parameters, including biases and those of BatchNorm, as in PyTorch,
    unless `decay_all` is off.
    """

    def at(now: Hyperparams) -> optax.GradientTransformation:
        clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
        biases = [scale_biases(config.bias_lr_factor)] if config.bias_lr_factor != 1 else []
        # A schedule rather than a number, as its counter, which nothing reads, is part of every saved state.
        rate = optax.scale_by_learning_rate(lambda _: now.learning_rate)
        return optax.chain(*clip, OPTIMIZERS[config.name](config, now), *biases, rate)

    def update(gradients, state, params=None, *, learning_rate, momentum, weight_decay, **_):
        return at(Hyperparams(learning_rate, momentum, weight_decay)).update(gradients, state, params)

    start = Hyperparams(*np.zeros(3, np.float32))
    return optax.GradientTransformationExtraArgs(at(start).init, update)
