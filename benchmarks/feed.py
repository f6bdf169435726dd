"""How fast the two feeds make batches: python -m benchmarks.feed [--rounds=5]

Images a second at batch 128 for the augmentation policy of every recipe, of tf.data on the host and of the same policy
inside jit on the default device. Rounds are interleaved, so that a noisy machine is noisy for all; medians are kept.
Pixels are random: no policy looks at them.
"""

import argparse
import importlib
import itertools
import statistics
import time
from collections.abc import Iterator

import jax
import numpy as np

from benchmarks import record
from resnet_flax.data import tfdata
from resnet_flax.data.augment import Policy
from resnet_flax.data.batches import Stream
from resnet_flax.data.device import Resident
from resnet_flax.data.sources import Split
from resnet_flax.parallel import Jit

BATCH, EXAMPLES, SECONDS = 128, 10_000, 2.0
RECIPES = ("preact", "resnet_443", "resnet_2322", "resnet18_w42", "resnet_353")


def policies() -> dict[str, str]:
    """The policies of the recipes, by recipe."""
    return {name: importlib.import_module(f"configs.{name}").get_config().data.policy for name in RECIPES}


def device_batches(stream: Stream) -> Iterator[dict]:
    """The batches of the feed that lies on the devices, made one by one."""
    feed = Resident(stream, Jit())
    batch = jax.jit(feed.batch)
    for epoch in itertools.count():
        order = feed.order(epoch)
        for position in range(stream.steps_per_epoch):
            yield batch(*feed.arrays, order, epoch, position)


def speed(feed: Iterator) -> float:
    """Images a second over about SECONDS."""
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        for batch in itertools.islice(feed, 20):
            jax.block_until_ready(batch["image"])
        count += 20
    return count * BATCH / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (EXAMPLES, 32, 32, 3), np.uint8), rng.integers(0, 10, EXAMPLES, np.int32))
    feeds = {}
    for name, policy in policies().items():
        stream = Stream(split, Policy(policy), BATCH, seed=0, concat_original=False)
        feeds[name, policy, "tfdata"] = tfdata.batches(stream, 0)
        feeds[name, policy, "jit"] = device_batches(stream)
    for feed in feeds.values():
        next(feed)  # traces and compiles
    measured: dict[tuple, list[float]] = {key: [] for key in feeds}
    for _ in range(rounds):
        for key, feed in feeds.items():
            measured[key].append(speed(feed))
    rows = []
    for (name, policy, feed), speeds in measured.items():
        median = round(statistics.median(speeds))
        rows.append({"recipe": name, "policy": policy, "feed": feed, "images_per_second": median, "rounds": rounds})
        print(f"{name:13} {feed:7} {median:>9,} img/s  ({min(speeds):,.0f} to {max(speeds):,.0f})")
    print(record.write("feed", rows))


if __name__ == "__main__":
    main()
