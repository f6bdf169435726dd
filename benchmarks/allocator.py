"""Measure how keeping freed memory speeds up training on a CPU: python -m benchmarks.allocator [--batches=32,256]

way   glibc       glibc's default: large blocks are returned to the system when they are freed
      kept        as `resnet_flax.memory` sets it: free memory stays with the process
      huge pages  the same, in pages of 2 MiB, by the variable GLIBC_TUNABLES

For each way, a process trains a recipe on random images and, if PyTorch is installed, another has PyTorch train the
same network on one batch. The processes take turns, so noise affects all alike, and medians are logged.
"""

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import jax
import numpy as np

from benchmarks import command_line, recipes, record, step, throughput
from resnet_flax.memory import Heap
from resnet_flax.training.run import Run
from resnet_flax.training.train import CPU_DISPATCH_SECONDS

# Way -> GLIBC_TUNABLES. Any option of malloc disables ours; the first one here is glibc's default.
WAYS = {
    "glibc": "glibc.malloc.arena_test=8",
    "kept": "",
    "huge pages": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736:"
    "glibc.malloc.top_pad=134217728",
}
Train = Callable[[], int]  # trains for about a second, returns the number of images


def ours(recipe: str, batch: int) -> Train:
    with tempfile.TemporaryDirectory() as folder:  # the images are memory-mapped
        data = recipes.random_images(Path(folder), max(4096, batch))
        run = Run(recipes.config(recipe, [*data, f"--config.train.batch_size={batch}"]))
        send = throughput.as_trained(run, "looped", 1, run.fresh_state())
        jax.block_until_ready(send(1))
    started = time.perf_counter()
    jax.block_until_ready(send(1))
    steps = max(1, round(CPU_DISPATCH_SECONDS / (time.perf_counter() - started)))
    heap = Heap()

    def train() -> int:
        sent, result = send(steps)
        jax.block_until_ready(result)
        heap.trim_if_grown()
        return sent * batch

    return train


def theirs(recipe: str, batch: int) -> Train:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch, 32, 32, 3)).astype(np.float32)
    network = recipes.config(recipe).model.name
    program = step.theirs(network, images, rng.integers(0, 10, batch, np.int32), "float32", channels_last=True)

    def train() -> int:
        program(1)
        return batch

    return train


FRAMEWORKS = {"jax": ours, "torch": theirs}


def measure(train: Train, seconds: float) -> dict[str, float]:
    """Train for about `seconds`; return the speed, and the kernel's work for it."""
    images, started, before = 0, time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    while not images or time.perf_counter() - started < seconds:
        images += train()
    taken, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "images_per_second": images / taken,
        "kernel_ms_per_image": 1000 * (after.ru_stime - before.ru_stime) / images,
        "faults_per_image": (after.ru_minflt - before.ru_minflt) / images,
        "peak_mib": peak_mib(),
    }


def peak_mib(process: int | str = "self") -> float:
    """Return the most memory that a process has ever had, in MiB."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def serve(framework: str, recipe: str, batch: int) -> None:
    """Measure for as many seconds as each line of stdin says; print a line of JSON for each."""
    train = FRAMEWORKS[framework](recipe, batch)
    for _ in range(3):
        train()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(train, float(line))), flush=True)


@contextmanager
def serving(framework: str, recipe: str, batch: int, way: str) -> Iterator[Callable[[float], dict[str, float]]]:
    """Start a process in which malloc works in this `way`; yield a function that measures there for some seconds."""
    command = [sys.executable, "-m", "benchmarks.allocator", f"--serve={framework},{recipe},{batch}"]
    environment = os.environ | {"GLIBC_TUNABLES": WAYS[way]}
    with subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{framework} {recipe}: the process ended")

        def ask(seconds: float) -> dict[str, float]:
            print(seconds, file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        yield ask
        process.stdin.close()


def summary(rounds: list[dict[str, float]]) -> dict[str, float | list[float]]:
    """Return the median of each number over the rounds, and the speed of every round."""
    found = {name: round(statistics.median(one[name] for one in rounds), 2) for name in rounds[0]}
    return found | {"rounds": [round(one["images_per_second"], 1) for one in rounds]}


def main() -> None:
    parser = command_line.journal_parser(__doc__, ["preact"])
    parser.add_argument("--batches", type=command_line.numbers, default=(32, 256))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="per process and round")
    parser.add_argument("--serve", type=command_line.words, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        framework, recipe, batch = arguments.serve
        return serve(framework, recipe, int(batch))
    journal = record.Journal("allocator", arguments.output, arguments.again)
    frameworks = [name for name in FRAMEWORKS if name == "jax" or importlib.util.find_spec(name)]
    for recipe in arguments.recipes:
        for batch in arguments.batches:
            wanted = [
                {"framework": name, "recipe": recipe, "batch": batch, "way": w} for name in frameworks for w in WAYS
            ]
            wanted = [case for case in wanted if not journal.has(case)]
            with ExitStack() as processes:
                asks = [processes.enter_context(serving(**case)) for case in wanted]
                rounds = [[ask(arguments.seconds) for ask in asks] for _ in range(arguments.rounds)]
            for case, found in zip(wanted, zip(*rounds, strict=True), strict=True):
                journal.add(case, summary(list(found)))


if __name__ == "__main__":
    sys.exit(command_line.run(main))
