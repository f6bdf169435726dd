"""One training step beside PyTorch's: python -m benchmarks.step [--networks=preact,resnet_353] [--batch=32]

The same networks in float32, plain SGD with momentum, the batch in memory; PyTorch runs in eager mode, channels last.
The two take turns in one process and so share the machine's noise; medians and their ratio are kept.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import jax
import numpy as np
import optax
import torch

from benchmarks import record
from benchmarks.fidelity import reference
from resnet_flax import models
from resnet_flax.models.resnet import ResNet
from resnet_flax.steps import Totals, init_state, train_step

STEPS = 3


def jax_step(name: str, images: np.ndarray, labels: np.ndarray) -> Callable[[], None]:
    """A function that does STEPS steps of ours and waits for them."""
    model = ResNet(**models.architecture(name))
    optimizer = optax.sgd(0.01, momentum=0.9)
    step = jax.jit(partial(train_step, model=model, optimizer=optimizer, seed=0), donate_argnums=0)
    batch = jax.device_put({"image": images, "label": labels})
    state = init_state(model, optimizer, 0, images.shape[1:])

    def run() -> None:
        nonlocal state
        totals = Totals.zero()
        for _ in range(STEPS):
            state, totals = step(state, totals, batch)
        jax.block_until_ready(totals)

    return run


def torch_step(name: str, images: np.ndarray, labels: np.ndarray) -> Callable[[], None]:
    """A function that does STEPS steps of PyTorch's."""
    module = reference.ResNet(**models.architecture(name)).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(module.parameters(), 0.01, momentum=0.9)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2)).to(memory_format=torch.channels_last)
    y = torch.from_numpy(labels).long()

    def run() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(x), y).backward()
            optimizer.step()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="preact,resnet_large,resnet_353")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    images = rng.normal(size=(arguments.batch, 32, 32, 3)).astype(np.float32)
    labels = rng.integers(0, 10, arguments.batch, np.int32)
    rows = []
    for name in arguments.networks.split(","):
        runs = {"jax": jax_step(name, images, labels), "torch": torch_step(name, images, labels)}
        for run in runs.values():
            run()  # compiles
        speeds: dict[str, list[float]] = {framework: [] for framework in runs}
        for _ in range(arguments.rounds):
            for framework, run in runs.items():
                started = time.perf_counter()
                run()
                speeds[framework].append(STEPS * arguments.batch / (time.perf_counter() - started))
        ratio = statistics.median(ours / theirs for ours, theirs in zip(*speeds.values(), strict=True))
        row = {f"{framework}_images_per_second": round(statistics.median(s), 1) for framework, s in speeds.items()}
        rows.append({"network": name, "batch": arguments.batch, **row, "ratio": round(ratio, 3)})
        print(rows[-1], flush=True)
    print(record.write("step", rows))


if __name__ == "__main__":
    main()
