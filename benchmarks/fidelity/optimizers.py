"""Twenty steps of each optimiser on a residual block with BatchNorm against torch.optim, in float64.

Both sides start from the same weights and go their own way: at each step, each asks PyTorch for the gradient at its own
weights on the same fixed batch, so only the optimisers differ (networks.py compares gradients).
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.fidelity import Row, relative
from resnet_flax.config.defaults import get_config
from resnet_flax.models.torch_weights import Tensors
from resnet_flax.optim import optimizers, schedules

Gradient = Callable[[Tensors, int], Tensors]  # (weights, step) -> gradients

STEPS = 20
# What our config says, and PyTorch's class and arguments for the same.
CASES: dict[str, tuple[dict, str, dict]] = {
    "SGD": (dict(name="sgd", momentum=0.0), "SGD", {}),
    "SGD, weight decay": (dict(name="sgd", momentum=0.0, weight_decay=0.01), "SGD", dict(weight_decay=0.01)),
    "momentum": (dict(name="sgd"), "SGD", dict(momentum=0.9)),
    "momentum, weight decay": (
        dict(name="sgd", weight_decay=0.01), "SGD", dict(momentum=0.9, weight_decay=0.01),
    ),
    "momentum, dampening": (dict(name="sgd", dampening=0.3), "SGD", dict(momentum=0.9, dampening=0.3)),
    "Nesterov": (dict(name="sgd", nesterov=True), "SGD", dict(momentum=0.9, nesterov=True)),
    "Nesterov, weight decay": (
        dict(name="sgd", nesterov=True, weight_decay=0.01), "SGD", dict(momentum=0.9, nesterov=True, weight_decay=0.01),
    ),
    "momentum, weight decay of kernels": (
        dict(name="sgd", weight_decay=0.01, decay_all=False), "SGD", dict(momentum=0.9, weight_decay=0.01),
    ),
    "Adam": (dict(name="adam"), "Adam", {}),
    "Adam, b1 0.8, b2 0.99": (dict(name="adam", b1=0.8, b2=0.99), "Adam", dict(betas=(0.8, 0.99))),
    "Adam, weight decay": (dict(name="adam", weight_decay=0.01), "Adam", dict(weight_decay=0.01)),
    "AdamW": (dict(name="adamw", weight_decay=0.01), "AdamW", dict(weight_decay=0.01)),
    "AdamW, weight decay of kernels": (
        dict(name="adamw", weight_decay=0.01, decay_all=False), "AdamW", dict(weight_decay=0.01),
    ),
    "AdaGrad": (dict(name="adagrad", eps=1e-10), "Adagrad", {}),
    "AdaGrad, weight decay": (
        dict(name="adagrad", eps=1e-10, weight_decay=0.01), "Adagrad", dict(weight_decay=0.01),
    ),
}  # fmt: skip


def rate(fields: dict) -> float:
    return 0.1 if fields["name"] == "sgd" else 0.01


def ours(fields: dict, weights: Tensors, gradient: Gradient) -> Tensors:
    """Return the weights after STEPS steps of our optimiser, in the dtype of `weights`."""
    config = get_config()
    config.optimizer.update(fields)
    curves = SimpleNamespace(schedule=config.schedule, optimizer=config.optimizer)
    config.optimizer.learning_rate = rate(fields)
    span = schedules.Span(1, STEPS, "step")
    optimizer = optimizers.build(config.optimizer)
    rates, momenta = (schedule(curves, span) for schedule in (schedules.learning_rate, schedules.momentum))
    with jax.enable_x64(True):
        params = {name: jnp.asarray(values) for name, values in weights.items()}
        state, update = optimizer.init(params), jax.jit(optimizer.update)
        for step in range(STEPS):
            here = {name: np.array(values) for name, values in params.items()}
            now = optimizers.Hyperparams(rates(step), momenta(step), config.optimizer.weight_decay)
            updates, state = update(gradient(here, step), state, params, **now._asdict())
            params = optax.apply_updates(params, updates)
    return {name: np.array(values) for name, values in params.items()}


def theirs(fields: dict, kind: str, arguments: dict, weights: Tensors, gradient: Gradient) -> Tensors:
    """Return the same with torch.optim."""
    import torch

    params = {name: torch.from_numpy(values.copy()).requires_grad_() for name, values in weights.items()}
    decayed = [tensor for tensor in params.values() if fields.get("decay_all", True) or tensor.ndim > 1]
    others = [tensor for tensor in params.values() if not any(tensor is one for one in decayed)]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimizer = getattr(torch.optim, kind)(groups, lr=rate(fields), **arguments)
    for step in range(STEPS):
        here = {name: tensor.detach().numpy() for name, tensor in params.items()}
        for name, values in gradient(here, step).items():
            params[name].grad = torch.from_numpy(values.copy())
        optimizer.step()
    return {name: tensor.detach().numpy() for name, tensor in params.items()}


def block() -> tuple[Tensors, Gradient]:
    """Return the weights of a block with a projected shortcut, and its gradient in PyTorch on batches of noise."""
    import torch

    from benchmarks.fidelity import reference

    net = reference.BasicBlock(3, 4, stride=2, activation=torch.nn.ReLU()).double()
    reference.randomise(net, seed=5)
    draw = np.random.default_rng(6)
    images = torch.from_numpy(draw.normal(size=(STEPS, 8, 3, 8, 8)))
    labels = torch.from_numpy(draw.integers(4, size=(STEPS, 8)))

    def gradient(weights: Tensors, step: int) -> Tensors:
        net.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()}, strict=False)
        net.zero_grad()
        torch.nn.functional.cross_entropy(net(images[step]).mean((2, 3)), labels[step]).backward()
        return reference.gradients(net)

    parameters = dict(net.named_parameters())
    return {name: values for name, values in reference.tensors(net).items() if name in parameters}, gradient


def compare() -> Iterator[Row]:
    weights, gradient = block()
    for label, (fields, kind, arguments) in CASES.items():
        a, b = ours(fields, weights, gradient), theirs(fields, kind, arguments, weights, gradient)
        worst = max(relative(a[name], b[name]) for name in b)
        yield Row(f"{label}: every parameter after {STEPS} steps, relative", worst, 1e-6)


def golden() -> dict[str, np.ndarray]:
    """Return weights, a sequence of gradients, and the weights that torch.optim reaches with them."""
    weights, gradient = block()
    sequence = [gradient(weights, step) for step in range(STEPS)]
    arrays = {f"weights/{name}": values for name, values in weights.items()}
    arrays |= {f"gradients/{name}": np.stack([step[name] for step in sequence]) for name in weights}
    for label, (fields, kind, arguments) in CASES.items():
        results = theirs(fields, kind, arguments, weights, lambda _, step: sequence[step])
        arrays |= {f"{label}/{name}": values for name, values in results.items()}
    return arrays
