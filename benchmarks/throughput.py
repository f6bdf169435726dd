"""Measure the images per second of every recipe: its training step, its feed, and both together in training.

python -m benchmarks.throughput [--recipes=preact,...] [--config.FIELD=VALUE ...]

part  step      training steps on one batch that stays on the device
      feed      batches only: shuffled, gathered and augmented
      loop      both, as in training
way   single    one step per dispatch, sent ahead of the device
      looped    --steps steps per dispatch, in a loop of the compiled program, which takes its length as an argument
      grouped   the same, with the length that training has on a GPU, which the compiler knows (loop only)
      unrolled  the same, one after the other in the compiled program (step only)
      host      one step per dispatch, with batches that tf.data makes on the host (feed, loop)

The programs of a recipe take turns, so noise affects all alike, and medians are logged. On an H200, the speeds of steps
and loops are also given in percent of known limits. Each part is measured in the ways that it has. Measurements with
changed fields or with XLA_FLAGS are logged as such, and left out of the documentation.
"""

import importlib.util
import itertools
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import command_line, recipes, record
from resnet_flax.cache import keep_compiled_programs
from resnet_flax.data import host_feed
from resnet_flax.data.device_feed import DeviceFeed
from resnet_flax.parallel.devices import local_rows
from resnet_flax.training.dispatch import at, device_steps, group_length, host_steps
from resnet_flax.training.run import Run
from resnet_flax.training.step import Totals, TrainState
from resnet_flax.training.train import IN_FLIGHT

# Upper limits for one H200 in thousands of training images per second, from the arithmetic and the memory traffic of
# all layers, at 790 TFLOP/s (bfloat16) and 4.3 TB/s: 80 and 90 % of its data sheet. Peak: arithmetic only; roofline:
# perfect convolutions plus the traffic of what XLA fuses around them; attainable: the same with convolutions at 60 % of
# the peak.
LIMITS = {
    "resnet_443": {"peak": 164, "roofline": 92, "attainable": 65},
    "resnet_353": {"peak": 164, "roofline": 92, "attainable": 65},
    "resnet_2322": {"peak": 275, "roofline": 148, "attainable": 105},
    "resnet18_w42": {"peak": 550, "roofline": 261, "attainable": 190},
    "resnet_large": {"peak": 520, "roofline": 260, "attainable": 190},
    "preact": {"peak": 947, "roofline": 373, "attainable": 290},
}

# Sends up to the given number of steps; returns how many it sent, and a result that is ready when they are done.
Dispatch = Callable[[int], tuple[int, Any]]


def step_alone(run: Run, way: str, steps: int, state: TrainState) -> Dispatch:
    images, labels = run.data.train.images, run.data.train.labels
    rows = local_rows(np.arange(run.stream.batch_size, dtype=np.int32))
    batch = run.parallel.shard(run.stream.batch(np, images, labels, 0, rows))
    step, constants, first = run.step(), run.constants(), run.parallel.replicate(at(run.scheduled(0), 0))

    def several(state, totals, batch, count, *given):
        if way == "looped":
            return jax.lax.fori_loop(0, count, lambda _, carry: step(*carry, batch, *given), (state, totals))
        for _ in range(steps):
            state, totals = step(state, totals, batch, *given)
        return state, totals

    compiled = run.parallel.compile(several, sharded=(2,), donate=(0,))
    totals = run.parallel.replicate(Totals.zero())

    def dispatch(most: int) -> tuple[int, Any]:
        nonlocal state, totals
        state, totals = compiled(state, totals, batch, most, first, constants)
        return most, totals

    return dispatch


def feed_alone(run: Run, way: str, steps: int, state: TrainState) -> Dispatch:
    if way == "host":
        batches = host_feed.batches(run.stream, 0)
        return lambda most: (1, next(batches)["image"])
    feed = DeviceFeed(run.stream, run.parallel)
    order, positions = feed.order(0), itertools.count()

    def several(arrays, order, position, count):
        def one(index, batch):  # the loop computes every batch although it keeps only the last
            return feed.batch(arrays, order, 0, (position + index) % len(order))

        first = one(0, None)
        return jax.lax.fori_loop(1, count, one, first) if way == "looped" else first

    compiled = jax.jit(several)
    return lambda most: (most, compiled(feed.arrays, order, next(positions), most))


def as_trained(run: Run, way: str, steps: int, state: TrainState) -> Dispatch:
    if way == "host":
        start = host_steps
    else:
        length = {"single": 1, "looped": 0, "grouped": steps}[way]
        start = partial(device_steps, rounded=run.rounded, length=length)
    advance = start(run.step(), run.stream, run.scheduled, 0, run.parallel, run.constants())
    totals = run.parallel.replicate(Totals.zero())

    def dispatch(most: int) -> tuple[int, Any]:
        nonlocal state, totals
        state, totals, taken = advance(state, totals, most)
        return taken, totals

    return dispatch


PARTS: dict[str, tuple[Callable[..., Dispatch], tuple[str, ...]]] = {
    "step": (step_alone, ("single", "looped", "unrolled")),
    "feed": (feed_alone, ("single", "looped", "host")),
    "loop": (as_trained, ("single", "looped", "grouped", "host")),
}
WAYS = sorted({way for _, ways in PARTS.values() for way in ways})


def speed(dispatch: Dispatch, most: int, seconds: float) -> float:
    """Return the steps per second over about `seconds`, with dispatches of at most `most` steps."""
    in_flight: deque = deque()
    done, started = 0, time.perf_counter()
    while not done or time.perf_counter() - started < seconds:
        sent, result = dispatch(most)
        in_flight.append(result)
        done += sent
        if len(in_flight) > IN_FLIGHT:
            jax.block_until_ready(in_flight.popleft())
    jax.block_until_ready(result)  # the steps are done in order
    return done / (time.perf_counter() - started)


def cases(part: str, ways: Sequence[str], steps: Sequence[int], group: int) -> list[dict]:
    """Return a case for each of the `ways` that the part has, and for each number of `steps` per dispatch.

    The way "grouped" has `group` steps per dispatch.
    """
    numbers = {"looped": steps, "unrolled": steps, "grouped": (group,)}
    found = [(way, n) for way in ways if way in PARTS[part][1] for n in numbers.get(way, (1,))]
    return [{"part": part, "way": way, "steps": n} for way, n in found]


def measure(run: Run, wanted: list[dict], rounds: int, seconds: float) -> list[list[float]]:
    """Return the images per second of each case in every round."""
    fresh = run.fresh_state()
    programs: dict[tuple, Dispatch] = {}
    dispatches = []
    for case in wanted:  # a looped program takes the number of steps as an argument
        key = case["part"], case["way"], 0 if case["way"] == "looped" else case["steps"]
        if key not in programs:
            programs[key] = PARTS[case["part"]][0](run, case["way"], case["steps"], jax.tree.map(jnp.copy, fresh))
        jax.block_until_ready(programs[key](case["steps"]))
        dispatches.append(programs[key])
    measured: list[list[float]] = [[] for _ in wanted]
    for _ in range(rounds):
        for case, send, speeds in zip(wanted, dispatches, measured, strict=True):
            speeds.append(run.stream.batch_size * speed(send, case["steps"], seconds))
    return measured


def summary(case: dict, speeds: list[float]) -> dict:
    """Return the median, minimum and maximum of the images per second of a case."""
    found = {"images_per_second": statistics.median(speeds), "low": min(speeds), "high": max(speeds)}
    found = {name: round(rate, 1) for name, rate in found.items()}
    if "H200" in jax.devices()[0].device_kind and case["part"] != "feed" and case["recipe"] in LIMITS:
        found |= {"percent_of_limits": percent_of_limits(case["recipe"], found["images_per_second"])}
    return found


def percent_of_limits(recipe: str, images_per_second: float) -> dict[str, float]:
    return {limit: round(images_per_second / (10 * thousands), 1) for limit, thousands in LIMITS[recipe].items()}


def usable(ways: Sequence[str]) -> list[str]:
    """Return the ways that this installation can run."""
    if "host" in ways and not importlib.util.find_spec("tensorflow"):
        print("host is skipped: TensorFlow is not installed")
        return [way for way in ways if way != "host"]
    return list(ways)


def main() -> None:
    cpu = jax.default_backend() == "cpu"
    parser = command_line.journal_parser(__doc__, recipes.RECIPES)
    parser.add_argument("--batches", type=command_line.words, default=("recipe",) if cpu else ("recipe", "512"))
    parser.add_argument("--dtypes", type=command_line.words, default=("float32",) if cpu else ("bfloat16", "float32"))
    parser.add_argument("--parts", type=command_line.some_of(PARTS), default=tuple(PARTS))
    parser.add_argument("--ways", type=command_line.some_of(WAYS), default=("single", "looped", *["host"] * cpu))
    parser.add_argument(
        "--steps", type=command_line.numbers, default=(4,) if cpu else (1, 10, 100), help="per dispatch"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="per measurement and round")
    parser.add_argument("--examples", type=int, default=50_000, help="size of the training split")
    arguments, changes = command_line.read(parser)
    keep_compiled_programs()
    journal = record.Journal("throughput", arguments.output, arguments.again)
    ways = usable(arguments.ways)
    with tempfile.TemporaryDirectory() as folder:
        data = recipes.random_images(Path(folder), arguments.examples)
        for dtype, batch, recipe in itertools.product(arguments.dtypes, arguments.batches, arguments.recipes):
            size = [] if batch == "recipe" else [f"--config.train.batch_size={batch}"]
            run = Run(recipes.config(recipe, [*data, *size, f"--config.model.compute_dtype={dtype}", *changes]))
            named = {"recipe": recipe, "batch": run.stream.batch_size, "changes": record.changes_to_log(changes)}
            wanted = [
                named | ({} if part == "feed" else {"dtype": dtype}) | case
                for part in arguments.parts
                for case in cases(part, ways, arguments.steps, group_length(run.stream.steps_per_epoch))
            ]
            wanted = [case for case in wanted if not journal.has(case)]
            measured = measure(run, wanted, arguments.rounds, arguments.seconds) if wanted else []
            for case, speeds in zip(wanted, measured, strict=True):
                journal.add(case, summary(case, speeds))


if __name__ == "__main__":
    sys.exit(command_line.run(main))
