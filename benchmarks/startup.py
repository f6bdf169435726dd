"""Measure the seconds from starting a process to the end of its first training step: python -m benchmarks.startup

ours, cold   `python -m resnet_flax.main --config=configs/preact.py` with the dataset decoded and nothing compiled
ours, warm   the same command for the second time, with the compiled programs that the first one cached; for each feed
plain        the same network, optimiser and batch in plain Flax: benchmarks.plain, which caches nothing

Every start is a process of its own, timed from outside, and the variants take turns (--rounds=5). `parts` are medians,
too: imports; data (config, dataset, size of the network); init (the initial weights); feed (the pipeline of batches);
step (the first one, which compiles). They include the times that jax reports for tracing, lowering and compiling, or
for loading a cached program.

Writes to startup.jsonl. Flags such as --config.data.dir=DATA change the recipe.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # leave a GPU's memory to the processes that are timed

import jax

from benchmarks import command_line, recipes, record, tables

PARTS = ("imports", "data", "init", "feed", "step", "trace", "lower", "compile")  # the last three overlap the others
FEEDS = ("device", "tfdata")
RECIPE = recipes.ROOT / "configs" / "preact.py"


def start(module: str, words: Sequence[str], cache: Path) -> dict:
    """Run `python -m module`; return the JSON in its last line of output, with the seconds it took."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_PYTHON_CLIENT_PREALLOCATE"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    started, clock = time.time(), time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=recipes.ROOT,
        env=environment | {"XDG_CACHE_HOME": str(cache), "STARTED": repr(started)},
        stdout=subprocess.PIPE,
        text=True,
    )
    seconds = time.perf_counter() - clock
    if process.returncode:
        raise SystemExit(f"error: {module} failed with exit code {process.returncode}")
    return {"seconds": seconds, **json.loads(process.stdout.splitlines()[-1])}


def start_ours(feed: str, warm: bool, changes: Sequence[str], folder: Path) -> dict:
    """Start training in a new workdir, with the cached programs of earlier starts if `warm`."""
    workdir = folder / "run"
    shutil.rmtree(workdir, ignore_errors=True)
    if not warm:
        shutil.rmtree(folder / "resnet_flax" / "compiled", ignore_errors=True)
    words = [f"--config={RECIPE}", f"--config.data.feed={feed}", f"--workdir={workdir}", *changes]
    return start("benchmarks.first_step", words, folder)


def medians(starts: Sequence[dict]) -> dict:
    """Return the medians of the starts of a variant."""
    parts = {name: round(statistics.median(one["parts"][name] for one in starts), 2) for name in starts[0]["parts"]}
    seconds = [round(one["seconds"], 2) for one in starts]
    median = round(statistics.median(seconds), 2)
    return {"seconds": median, "rounds": seconds, "parts": parts, "imported": starts[0]["imported"]}


def table(lines: Sequence[dict]) -> str:
    """Return a row for each variant: its seconds and their parts."""
    rows = []
    for line in sorted(lines, key=lambda line: [str(value) for value in line["case"].values()]):
        case, found = line["case"], line["found"]
        name = f"{case['program']}, {case['feed']}, {case['cache']}" if case["feed"] else case["program"]
        seconds = [f"{found['parts'][part]:.2f}" if part in found["parts"] else "" for part in PARTS]
        rows.append([name, case["jax"], f"{found['seconds']:.2f}", *seconds])
    return tables.table(["start", "jax", "seconds", *PARTS], rows)


def main() -> None:
    parser = command_line.journal_parser(__doc__)
    parser.add_argument("--feeds", type=command_line.some_of(FEEDS), default=FEEDS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plain", action=argparse.BooleanOptionalAction, default=True)
    arguments, changes = command_line.read(parser)
    journal = record.Journal("startup", arguments.output, arguments.again)

    def case(program: str, feed: str = "", cache: str = "") -> dict:
        logged = record.changes_to_log(changes)
        return {"program": program, "feed": feed, "cache": cache, "jax": jax.__version__, "changes": logged}

    with tempfile.TemporaryDirectory() as temporary:
        variants = [
            (case("ours", feed, cache), lambda f=feed, w=cache == "warm": start_ours(f, w, changes, Path(temporary)))
            for feed in arguments.feeds
            for cache in ("cold", "warm")  # in this order: a warm start uses what the cold one cached
        ]
        if arguments.plain:
            variants.append((case("plain"), lambda: start("benchmarks.plain", [], Path(temporary))))
        if all(journal.has(named) for named, _ in variants):
            return
        start_ours(arguments.feeds[0], False, changes, Path(temporary))  # decodes the dataset
        starts: list[list[dict]] = [[] for _ in variants]
        for _ in range(arguments.rounds):
            for (_, measure), found in zip(variants, starts, strict=True):
                found.append(measure())
    for (named, _), found in zip(variants, starts, strict=True):
        journal.add(named, medians(found))
    print(table(journal.lines_here()))


if __name__ == "__main__":
    sys.exit(command_line.run(main))
