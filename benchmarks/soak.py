"""Inject hundreds of faults into real runs: python -m benchmarks.soak [--faults=300] [--inputs=100000] [--seed=0]

Runs of a tiny network are killed, stopped, damaged and misused at random moments, started again each time, and
compared at their end with a run without faults: every array, row, result and prediction, bit for bit. Readers of
untrusted files get malformed inputs. Each seed has a line in benchmarks/results/soak.jsonl, which is written after each
run, so that the soak may be killed. Exits with 1 if a fault was not survived, and keeps the runs for inspection.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import command_line, record
from benchmarks.faults.kinds import OTHERS, PAIRS, STOPS, WAYS, Run, check, draw_photos

MOST = 8  # faults in one run


class Soak:
    """The faults injected and survived so far: the line of a seed in the journal."""

    def __init__(self, journal: record.Journal, seed: int):
        self.journal, self.seed, self.started = journal, seed, time.monotonic()
        self.injected: Counter[str] = Counter()
        self.survived: Counter[str] = Counter()
        self.runs = self.bit_identical = 0
        self.failures: list[str] = []

    def add(self, faults: list[str], failures: list[str]) -> None:
        """Count faults, none of which counts as survived if there are `failures`, and write the line."""
        self.injected.update(faults)
        self.survived.update([] if failures else faults)
        for failure in failures:
            print(failure, flush=True)
        self.failures += failures
        figures = {
            "runs": self.runs,
            "bit_identical": self.bit_identical,
            "checks": check.made,
            "seconds": round(time.monotonic() - self.started),
            "failures": self.failures,
            "faults": {name: [self.survived[name], self.injected[name]] for name in sorted(self.injected)},
        }
        self.journal.add({"seed": self.seed}, figures | {"faults_in_all": self.injected.total()})

    def inject_faults(self, faults: int, folder: Path) -> None:
        """Inject at least `faults` faults, up to MOST in each run."""
        rng = random.Random(self.seed)
        draw_photos(folder / "photos", range(PAIRS))
        undisturbed: dict[str, dict] = {}
        while self.injected.total() < faults:
            way = rng.choice(list(WAYS))
            undisturbed[way] = undisturbed.get(way) or Run(folder, f"undisturbed_{way}", way).end()
            run = Run(folder, f"run{self.runs}", way)
            here, failures = disturb(run, rng)
            found = attempt(run.end, f"{run.workdir.name} at its end", failures)
            same = found == undisturbed[way]
            if found and not same:
                failures.append(f"{run.workdir.name} ({way}) ends differently after {', '.join(here)}")
            self.runs, self.bit_identical = self.runs + 1, self.bit_identical + same
            self.add(here, failures)

    def try_malformed_inputs(self, inputs: int) -> None:
        """Give this many malformed inputs to the readers of untrusted files, in a process of their own."""
        command = [sys.executable, "-m", "benchmarks.faults.fuzz", f"--inputs={inputs}", f"--seed={self.seed}"]
        figures = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
        failures = [str(failure) for failure in figures["failures"]]
        self.injected["malformed input"] += figures["inputs"]
        self.survived["malformed input"] += figures["inputs"] - len(failures)
        self.add([], failures)


def disturb(run: Run, rng: random.Random) -> tuple[list[str], list[str]]:
    """Inject up to MOST faults into a run until it is finished; return them, and what went wrong at once."""
    here: list[str] = []
    failures: list[str] = []
    while len(here) < MOST and not run.is_finished() and not failures:
        faults = STOPS if rng.random() < 0.4 else OTHERS
        name = rng.choice(list(faults))
        began = time.monotonic()
        happened = attempt(partial(faults[name], run, rng), f"{run.workdir.name}: {name}", failures)
        if happened or failures:
            here.append(name)
            print(f"{run.workdir.name}: {name}, {time.monotonic() - began:.0f} s", flush=True)
    return here, failures


def attempt(act: Callable[[], Any], what: str, failures: list[str]) -> Any:
    """Return what `act` returns; after an AssertionError or a hanging process, add to `failures` and return None."""
    try:
        return act()
    except (AssertionError, subprocess.TimeoutExpired) as error:
        failures.append(f"{what}: {error}")
        return None


def main() -> int:
    parser = command_line.parser(__doc__)
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for signum in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(signum) == signal.SIG_IGN:  # as under nohup; the runs would ignore it, too
            signal.signal(signum, lambda *_: None)
    soak = Soak(record.Journal("soak"), arguments.seed)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    soak.inject_faults(arguments.faults, folder)
    soak.try_malformed_inputs(arguments.inputs)
    for name in sorted(soak.injected):
        print(f"{soak.survived[name]:9,} of {soak.injected[name]:9,}  {name}")
    if soak.failures:
        print(f"see {folder}")
    else:
        shutil.rmtree(folder)
    return int(bool(soak.failures))


if __name__ == "__main__":
    sys.exit(command_line.run(main))
