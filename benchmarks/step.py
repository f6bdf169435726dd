"""Compare a training step with PyTorch's: python -m benchmarks.step [--networks=preact,resnet_353] [--batch=32]

Both train the same networks with SGD and momentum on a batch that is on the device. The variants take turns in one
process, so noise affects all alike. Ours run in a loop of the compiled program, as in training with the data on the
device: on a GPU one of GROUP steps, as the length of the loop must be known there (training.dispatch). Float32 means
each framework's default, which is TF32 in convolutions on an NVIDIA GPU.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial

os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")  # leave half of a GPU's memory to PyTorch

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import command_line, record
from resnet_flax import models
from resnet_flax.models.resnet import ResNet
from resnet_flax.parallel.devices import Jit
from resnet_flax.training.step import Totals, init_state, train_step

GROUP = 10
NETWORKS = ("preact", "resnet_large", "resnet_353")
Program = Callable[[int], None]  # runs a number of steps and waits for them


def ours(name: str, images: np.ndarray, labels: np.ndarray, dtype: str) -> Program:
    model = ResNet(**models.architecture(name), dtype=jnp.dtype(dtype))
    optimizer = optax.sgd(0.01, momentum=0.9)
    step = partial(train_step, model=model, optimizer=optimizer, seed=0)

    group = GROUP if jax.default_backend() == "gpu" else 0

    def steps(state, totals, batch, count):
        return jax.lax.fori_loop(0, group or count, lambda _, carry: step(*carry, batch), (state, totals))

    compiled = Jit().compile(steps, sharded=(2,), donate=(0,))
    batch = jax.device_put({"image": images, "label": labels})
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    state = jax.jit(partial(init_state, model, optimizer, 0, images.shape[1:]), compiler_options=quick)()

    def run(count: int) -> None:
        nonlocal state
        for _ in range(count // group if group else 1):
            state, totals = compiled(state, Totals.zero(), batch, count)
        jax.block_until_ready(totals)

    return run


def theirs(name: str, images: np.ndarray, labels: np.ndarray, dtype: str, channels_last=False, compiled=False):
    import torch

    from benchmarks.fidelity import reference

    torch.backends.cudnn.benchmark = True
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module = reference.ResNet(**models.architecture(name)).to(device, memory_format=layout).train()
    graphs = "reduce-overhead" if device == "cuda" else "default"  # CUDA graphs, which ours have, too
    forward = torch.compile(module, mode=graphs) if compiled else module
    optimizer = torch.optim.SGD(module.parameters(), 0.01, momentum=0.9)
    x = reference.channels_first(images).to(device, memory_format=layout)
    y = torch.from_numpy(labels).long().to(device)

    def run(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
                loss = torch.nn.functional.cross_entropy(forward(x), y)
            loss.backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


# Variant -> a function (name of a network, images, labels) -> Program.
VARIANTS: dict[str, Callable[..., Program]] = {
    "jax float32": partial(ours, dtype="float32"),
    "torch float32": partial(theirs, dtype="float32"),
    "torch float32 channels_last": partial(theirs, dtype="float32", channels_last=True),
    "torch float32 compiled": partial(theirs, dtype="float32", channels_last=True, compiled=True),
    "jax bfloat16": partial(ours, dtype="bfloat16"),
    "torch bfloat16": partial(theirs, dtype="bfloat16", channels_last=True),
    "torch bfloat16 compiled": partial(theirs, dtype="bfloat16", channels_last=True, compiled=True),
}


def warm(variants: Iterable[str], name: str, images: np.ndarray, labels: np.ndarray) -> dict[str, Program]:
    """Return the compiled programs of the variants that run here; print a line for each that does not."""
    programs = {}
    for variant in variants:
        try:
            program = VARIANTS[variant](name, images, labels)
            program(GROUP)
        except Exception as error:  # PyTorch or its compiler is missing; they raise many kinds of errors
            print(
                f"{name}: {variant} does not run here, {type(error).__name__}: {(str(error) or ' ').splitlines()[0]}",
                flush=True,
            )
        else:
            programs[variant] = program
    return programs


def speeds(programs: dict[str, Program], batch: int, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Return the images per second of each program in each round, which takes about `seconds` for each program."""

    def timed(program: Program, count: int) -> float:
        started = time.perf_counter()
        program(count)
        return time.perf_counter() - started

    counts = {v: GROUP * max(1, round(seconds / timed(program, GROUP))) for v, program in programs.items()}
    measured: dict[str, list[float]] = {variant: [] for variant in programs}
    for _ in range(rounds):
        for variant, program in programs.items():
            measured[variant].append(counts[variant] * batch / timed(program, counts[variant]))
    return measured


def main() -> None:
    parser = command_line.journal_parser(__doc__)
    parser.add_argument("--networks", type=command_line.some_of(models.NETWORKS), default=NETWORKS)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--variants", type=command_line.some_of(VARIANTS), default=tuple(VARIANTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="per variant and round")
    arguments = parser.parse_args()
    journal = record.Journal("step", arguments.output, arguments.again)
    flags = record.changes_to_log([])
    rng = np.random.default_rng(0)
    images = rng.normal(size=(arguments.batch, 32, 32, 3)).astype(np.float32)
    labels = rng.integers(0, 10, arguments.batch, np.int32)
    for name in arguments.networks:
        case = {"network": name, "batch": arguments.batch} | ({"changes": flags} if flags else {})
        cases = {variant: case | {"variant": variant} for variant in arguments.variants}
        programs = warm([v for v, case in cases.items() if not journal.has(case)], name, images, labels)
        for variant, rates in speeds(programs, arguments.batch, arguments.rounds, arguments.seconds).items():
            median = round(statistics.median(rates), 1)
            journal.add(cases[variant], {"images_per_second": median, "rounds": [round(rate, 1) for rate in rates]})


if __name__ == "__main__":
    sys.exit(command_line.run(main))
