"""The networks, their losses, gradients, running statistics and initial weights against PyTorch's, in float32.

Two things would make training differ although neither side is wrong, so they are made the same:
- Dropout and stochastic depth are random. Both sides multiply by a fixed mask in their place, which checks where they
  are.
- The slope of ReLU jumps at 0. Of the millions of values in a full network, a few are so close to 0 that rounding
  decides their sign, and each changes some gradient by several per cent. So ours takes the signs that PyTorch found,
  and a row of its own says how many would have differed. The narrow networks use ReLU itself.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING
from unittest.mock import patch

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.fidelity import Row, absolute, relative
from resnet_flax.models import NETWORKS, architecture
from resnet_flax.models.norm import BatchNorm
from resnet_flax.models.resnet import ACTIVATIONS, ResNet
from resnet_flax.models.torch_weights import Tensors, from_torch, to_torch
from resnet_flax.training.step import Totals, TrainState, train_step

if TYPE_CHECKING:
    import torch

# Narrow versions of every variant, small enough to commit.
VARIANTS: dict[str, dict] = {
    "basic": {},
    "dropout": dict(stem_dropout=0.2, block_dropout=0.2),
    "preact": dict(block="preact"),
    "final_norm": dict(block="preact", final_norm=True),
    "gelu": dict(block="preact", activation="gelu"),
    "pool": dict(block="pool", block_dropout=0.2),
    "whitening": dict(stem="whitening", block="pool", activation="gelu", blocks=(2,), widths=(4,)),
    "pad": dict(block="preact", shortcut="pad", block_dropout=0.2, blocks=(1, 1)),
    "groups": dict(
        block="bottleneck",
        bottleneck_ratio=0.5,
        groups=2,
        blocks=(1, 1),
        stem_width=6,
        shortcut="avg_pool",
        se=True,
        drop_path=0.5,
    ),
}
NARROW = {
    name: architecture("tiny") | dict(blocks=(1, 2), widths=(4, 8)) | changes for name, changes in VARIANTS.items()
}
SMOOTHING = 0.1  # of the labels, with the narrow networks
CIFAR_RESNETS = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")
FULL = {name: architecture(name) for name in NETWORKS} | {
    **{f"{name}, option B": architecture(name) | dict(shortcut="conv") for name in CIFAR_RESNETS},
    "preact, GELU": architecture("preact") | dict(activation="gelu"),
    "preact, final BatchNorm": architecture("preact") | dict(final_norm=True),
    "resnet_443, SE": architecture("resnet_443") | dict(se=True),
    "resnet_353, ResNet-D, stochastic depth": architecture("resnet_353") | dict(shortcut="avg_pool", drop_path=0.2),
    "wrn_16_4, dropout": architecture("wrn_16_4") | dict(block_dropout=0.3),
    "wrn_16_4, SE": architecture("wrn_16_4") | dict(se=True),
    # Not speed94: with these random weights one of its max-pooling windows has two largest values that differ only by
    # rounding, and the gradient of the convolution before it differs by 1.05e-3, while all others agree to 2e-4.
    "speed96, SE": architecture("speed96") | dict(se=True),
    "resnext29_32x4d, ResNet-D, stochastic depth": architecture("resnext29_32x4d")
    | dict(shortcut="avg_pool", drop_path=0.2),
}

# How each result is measured, and its bound: eval and running by absolute, train and gradient by relative difference.
MEASURES = {
    "eval": ("logits in evaluation", absolute, 1e-4),
    "train": ("logits and loss in training, relative", relative, 1e-3),
    "gradient": ("gradient of every parameter, relative", relative, 1e-3),
    "running": ("running statistics after a step", absolute, 1e-5),
}


def mask(channels: int) -> np.ndarray:
    """Return the fixed factors of dropout: 0 for every fifth channel, 1.25 for the others."""
    return np.where(np.arange(channels) % 5 == 0, 0.0, 1.25).astype(np.float32)


def kept(batch: int) -> np.ndarray:
    """Return the fixed factors of stochastic depth: 0 for every second example, 1.25 for the others."""
    return np.where(np.arange(batch) % 2, 0.0, 1.25).astype(np.float32)[:, None, None, None]


def fixed_dropout(call, args, kwargs, context):
    """Intercept a method call of a Flax module: apply the fixed mask if it is dropout."""
    if not isinstance(context.module, nn.Dropout):
        return call(*args, **kwargs)
    return args[0] * (kept(len(args[0])) if context.module.name == "drop_path" else mask(args[0].shape[-1]))


def recorder() -> optax.GradientTransformation:
    """Return an optimiser that changes nothing and whose state is the last gradient."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params),
        lambda gradients, state, params: (jax.tree.map(jnp.zeros_like, params), gradients),
    )


@contextmanager
def training_alike(signs: Sequence[jax.Array], count: bool = False) -> Iterator[list[jax.Array]]:
    """Make dropout the fixed mask in this context and, if `signs` are given, have each call of ReLU use the next ones.

    Yields a list to which each call of such a ReLU adds the number of signs that would have differed. A ReLU within
    BatchNorm does so only with `count`, which applies it after BatchNorm instead.
    """
    following, differing = iter(signs), []

    def relu(x):
        positive = next(following)
        differing.append(jnp.sum((x > 0) != positive))
        return x * positive

    def alike(call, args, kwargs, context):
        module = context.module
        if not (signs and isinstance(module, BatchNorm) and module.activation):
            return fixed_dropout(call, args, kwargs, context)
        if count:
            object.__setattr__(module, "activation", None)
            return relu(call(*args, **kwargs))
        positive = next(following)
        object.__setattr__(module, "activation", lambda x: x * positive)
        return call(*args, **kwargs)

    with nn.intercept_methods(alike), patch.dict(ACTIVATIONS, {"relu": relu} if signs else {}):
        yield differing


def ours(
    fields: dict, weights: Tensors, images: np.ndarray, labels: np.ndarray, smoothing: float = 0.0, signs: Sequence = ()
) -> Tensors:
    """Run our network and `train_step` on a batch: images (batch, H, W, 3) float32, labels (batch,) int32.

    Returns the logits, the loss and, under PyTorch's names, the gradients and running statistics, each after the name
    of its measure: "eval/logits", "train/logits", "train/loss", "gradient/NAME", "running/NAME"; and "signs", the share
    of the given `signs` that would have differed.
    """
    model, optimizer = ResNet(**fields), recorder()
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    variables = from_torch(weights, shapes)

    @jax.jit
    def forward(variables, signs):
        with training_alike(signs, count=True) as differing:
            logits, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return logits, sum(differing)

    @jax.jit
    def step(variables, signs):
        params, stats = variables["params"], variables["batch_stats"]
        state = TrainState.start(params, stats, optimizer, averaged=False)
        batch = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}
        given = dict(model=model, optimizer=optimizer, seed=0, label_smoothing=smoothing)
        with training_alike(signs):
            return train_step(state, Totals.zero(), batch, **given)

    logits, differing = forward(variables, signs)
    state, totals = step(variables, signs)
    return {
        "eval/logits": jax.jit(lambda variables: model.apply(variables, images, train=False))(variables),
        "train/logits": logits,
        "train/loss": totals.loss / totals.count,
        **{f"gradient/{name}": values for name, values in to_torch({"params": state.opt_state}).items()},
        **{f"running/{name}": values for name, values in to_torch({"batch_stats": state.batch_stats}).items()},
        "signs": np.asarray(differing) / max(sum(map(np.size, signs)), 1),
    }


def theirs(
    net: "torch.nn.Module", images: np.ndarray, labels: np.ndarray, smoothing: float = 0.0
) -> tuple[Tensors, list[np.ndarray]]:
    """Return the same from a network in PyTorch, and where the inputs of its ReLUs were above 0 in training."""
    import torch

    from benchmarks.fidelity import reference

    def fixed(module, args, _):
        if module.training:
            by_example = isinstance(module, reference.DropPath)
            factors = kept(len(args[0])) if by_example else mask(args[0].shape[1])[:, None, None]
            return args[0] * torch.from_numpy(factors)

    signs: list[np.ndarray] = []

    def note_signs(module, args, _):
        if module.training:
            signs.append((args[0] > 0).numpy().transpose(0, 2, 3, 1))

    for name, module in net.named_modules():
        if isinstance(module, torch.nn.Dropout | reference.DropPath) and module.p:
            module.register_forward_hook(fixed)
        if isinstance(module, torch.nn.ReLU) and not name.endswith("se.act"):  # that of squeeze-and-excitation
            module.register_forward_hook(note_signs)
    inputs, targets = reference.channels_first(images), torch.from_numpy(labels).long()
    with torch.no_grad():
        evaluated = net.eval()(inputs)
    logits = net.train()(inputs)
    loss = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=smoothing)
    loss.backward()
    results = {
        "eval/logits": evaluated.numpy(),
        "train/logits": logits.detach().numpy(),
        "train/loss": loss.detach().numpy(),
        **{f"gradient/{name}": values for name, values in reference.gradients(net).items()},
        **{f"running/{name}": values for name, values in reference.tensors(net).items() if "running" in name},
    }
    return results, signs


def reference_network(fields: dict) -> "torch.nn.Module":
    from benchmarks.fidelity import reference

    return reference.ResNet(**fields)


def example(net: "torch.nn.Module", batch: int, side: int) -> tuple[Tensors, dict]:
    """Fill a network in PyTorch with random weights; return them, and a batch of noise as arguments of `theirs`."""
    from benchmarks.fidelity import reference

    reference.randomise(net, seed=1)
    draw = np.random.default_rng(2)
    images = draw.normal(size=(batch, side, side, 3)).astype(np.float32)
    return reference.tensors(net), dict(images=images, labels=draw.integers(10, size=batch, dtype=np.int32))


def differences(label: str, a: Tensors, b: Tensors) -> Iterator[Row]:
    """Yield a row for each measure, about its worst array."""
    for measure, (what, difference, bound) in MEASURES.items():
        names = [name for name in b if name.startswith(measure)]
        yield Row(f"{label}: {what}", max(difference(np.asarray(a[name]), b[name]) for name in names), bound)


def compare() -> Iterator[Row]:
    """Compare every network, and the initial weights."""
    yield from compare_networks("")
    yield from compare_initial_weights()


def compare_networks(pattern: str) -> Iterator[Row]:
    """Compare every network at full size on 8 images, and every narrow one on 2, if its rows begin with `pattern`."""
    for label, fields in FULL.items():
        if re.match(pattern, label):
            yield from compare_network(label, fields, reference_network(fields))
    for name, fields in NARROW.items():
        label = f"narrow {name}"
        if not re.match(pattern, label):
            continue
        net = reference_network(fields)
        weights, batch = example(net, batch=2, side=8)
        batch["smoothing"] = SMOOTHING
        yield from differences(label, ours(fields, weights, **batch), theirs(net, **batch)[0])


def compare_network(
    label: str, fields: dict, net: "torch.nn.Module", our_names: Callable[[Tensors], Tensors] = dict
) -> Iterator[Row]:
    """Compare a network with one in PyTorch; `our_names` returns arrays under the names of `to_torch`."""
    weights, batch = example(net, batch=8, side=32)
    expected, signs = theirs(net, **batch)
    results = ours(fields, our_names(weights), **batch, signs=signs)
    yield from differences(label, results, our_names(expected))
    if signs:
        yield Row(f"{label}: share of ReLU inputs whose sign is rounding", float(results["signs"]), 1e-5)


def initial_weights(kernel_init: str, fields: dict) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (ours, PyTorch's) for every tensor of a network, flat float64."""
    import torch

    from benchmarks.fidelity import reference

    torch.manual_seed(3)
    net, model = reference.ResNet(**fields), ResNet(**fields, kernel_init=kernel_init)
    quick = {"xla_backend_optimization_level": 0}
    init = partial(model.init, jax.random.key(4), jnp.zeros((1, 32, 32, 3)), train=False)
    initial = to_torch(jax.jit(init, compiler_options=quick)())
    fixed = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    for name, tensor in net.state_dict().items():
        if kernel_init == "he_normal" and tensor.ndim > 1 and name not in fixed:
            torch.nn.init.kaiming_normal_(tensor)
        if name in initial:
            yield initial[name].astype(np.float64).ravel(), tensor.double().numpy().ravel()


def compare_initial_weights() -> Iterator[Row]:
    """Compare mean, mean square and mean fourth power of every layer, in standard errors of their difference.

    The largest of some 400 comparisons of layers drawn from one distribution is usually between 3 and 4.
    """
    for kernel_init in ("torch", "he_normal"):
        worst = {1: 0.0, 2: 0.0, 4: 0.0}
        for name in NETWORKS:
            for a, b in initial_weights(kernel_init, architecture(name)):
                for power in worst:
                    ours, theirs = a**power, b**power
                    error = np.sqrt((ours.var() + theirs.var()) / len(ours))
                    gap = abs(ours.mean() - theirs.mean())
                    worst[power] = max(worst[power], float(gap / error) if error else gap)
        words = {1: "mean", 2: "standard deviation (mean square)", 4: "shape (mean fourth power)"}
        for power, difference in worst.items():
            yield Row(f"initial weights, {kernel_init}: {words[power]} per layer, standard errors", difference, 5.0)


def golden() -> dict[str, np.ndarray]:
    """Return arguments and PyTorch's results for the narrow networks, on 2 images of 8x8."""
    arrays: Tensors = {}
    for name, fields in NARROW.items():
        net = reference_network(fields)
        weights, batch = example(net, batch=2, side=8)
        results, _ = theirs(net, **batch, smoothing=SMOOTHING)
        arrays |= {f"{name}/weights/{key}": values for key, values in weights.items()}
        arrays |= {f"{name}/{key}": values for key, values in (batch | results).items()}
    return arrays
