"""Optimisers with PyTorch's definitions, as optax gradient transformations.

optax's own SGD has no dampening and its AdaGrad puts epsilon under the root, so those two are written here; Adam's
moments are optax's. Momentum (Adam's b1) is a schedule, because OneCycle moves it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from resnet_flax.optim.schedules import Schedule


class MomentumState(NamedTuple):
    step: chex.Array  # () int32
    trace: chex.ArrayTree  # like the parameters


def scale_by_momentum(momentum: Schedule, dampening: float, nesterov: bool) -> optax.GradientTransformation:
    """`torch.optim.SGD`'s buffer: momentum x trace + (1 - dampening) x gradient; the first step has no dampening."""

    def init(params):
        return MomentumState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(gradients, state, params=None):
        decay = momentum(state.step)
        share = jnp.where(state.step == 0, 1.0, 1.0 - dampening)
        trace = jax.tree.map(lambda g, t: decay.astype(t.dtype) * t + share.astype(g.dtype) * g, gradients, state.trace)
        updates = jax.tree.map(lambda g, t: g + decay.astype(t.dtype) * t, gradients, trace) if nesterov else trace
        return updates, MomentumState(state.step + 1, trace)

    return optax.GradientTransformation(init, update)


class AdaGradState(NamedTuple):
    sum_of_squares: chex.ArrayTree  # like the parameters


def scale_by_adagrad(eps: float) -> optax.GradientTransformation:
    """`torch.optim.Adagrad`: gradient / (sqrt(sum of squared gradients) + eps)."""

    def init(params):
        return AdaGradState(jax.tree.map(jnp.zeros_like, params))

    def update(gradients, state, params=None):
        sums = jax.tree.map(lambda g, s: s + g * g, gradients, state.sum_of_squares)
        return jax.tree.map(lambda g, s: g / (jnp.sqrt(s) + eps), gradients, sums), AdaGradState(sums)

    return optax.GradientTransformation(init, update)


def scale_by_adam(config, momentum: Schedule) -> optax.GradientTransformation:
    """optax's Adam moments with b1 from a schedule."""
    return optax.inject_hyperparams(optax.scale_by_adam, static_args=("b2", "eps"))(
        b1=momentum, b2=config.b2, eps=config.eps
    )


def sgd(config, momentum: Schedule) -> optax.GradientTransformation:
    """SGD with L2 decay in the gradient, before the momentum."""
    moments = scale_by_momentum(momentum, config.dampening, config.nesterov) if config.momentum else optax.identity()
    return optax.chain(optax.add_decayed_weights(config.weight_decay), moments)


def adam(config, momentum: Schedule) -> optax.GradientTransformation:
    """Adam (Kingma & Ba, 2014) with L2 decay in the gradient."""
    return optax.chain(optax.add_decayed_weights(config.weight_decay), scale_by_adam(config, momentum))


def adamw(config, momentum: Schedule) -> optax.GradientTransformation:
    """Adam with decoupled decay (Loshchilov & Hutter, 2017)."""
    return optax.chain(scale_by_adam(config, momentum), optax.add_decayed_weights(config.weight_decay))


def adagrad(config, momentum: Schedule) -> optax.GradientTransformation:
    """AdaGrad (Duchi et al., 2011) with L2 decay in the gradient."""
    return optax.chain(optax.add_decayed_weights(config.weight_decay), scale_by_adagrad(config.eps))


OPTIMIZERS: dict[str, Callable[[Any, Schedule], optax.GradientTransformation]] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
    "adagrad": adagrad,
}


def build(config, learning_rate: Schedule, momentum: Schedule) -> optax.GradientTransformation:
    """The transformation that `config.optimizer` names, after clipping, times minus the learning rate.

    Decay applies to every parameter, BatchNorm's and biases too, as in PyTorch.
    """
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    return optax.chain(*clip, OPTIMIZERS[config.name](config, momentum), optax.scale_by_learning_rate(learning_rate))
