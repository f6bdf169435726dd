"""Hundreds of faults put into real runs: python -m benchmarks.soak [--faults=300] [--inputs=100000] [--seed=0]

Runs of a tiny network are killed, stopped and damaged at random moments, started again each time, and compared at their
end with one that nothing happened to: every array, row and result, bit for bit. Readers of what somebody else may have
written get malformed inputs. Writes benchmarks/results/soak.json; exits with 1 where a fault was not survived.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks import record
from benchmarks.faults import injection

WORDS = ["--config.train.epochs=60", "--config.train.patience=0"]
WAYS = {
    "tfdata": ["--config.data.feed=tfdata"],
    "device": ["--config.data.feed=device"],
    "pmap": ["--config.data.feed=device", "--config.parallel=pmap"],
}
MOMENTS = {"starting": 6.0, "training": 3.0, "saving": 0.05}  # doing what, and at most how many seconds later
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "Ctrl-C": signal.SIGINT}
MOST = 8  # faults in one run


def whole_run(workdir: Path, way: str) -> dict:
    """Start the run, let it come to its end, and return that."""
    with injection.start(workdir, *WORDS, *WAYS[way]) as process:
        _, err = process.communicate()
    assert process.returncode == 0, err
    return injection.end(workdir, *WORDS, *WAYS[way])


def interrupted(workdir: Path, way: str, rng: random.Random) -> tuple[str, float] | None:
    """Start the run and interrupt it. Returns how, and after how many seconds it ended; None where it was finished."""
    name, doing = rng.choice(list(SIGNALS)), rng.choice(list(MOMENTS))
    wait = rng.uniform(0, MOMENTS[doing])
    code, seconds = injection.interrupt(workdir, SIGNALS[name], doing, wait, *WORDS, *WAYS[way])
    return (f"{name} while {doing}", seconds) if code else None


def damaged(workdir: Path, rng: random.Random) -> str | None:
    """Damage the newest checkpoint, where there is one before it."""
    folder = workdir / "checkpoints"
    steps = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
    if len(steps) < 2:
        return None
    path = rng.choice(sorted(path for path in (folder / str(max(steps))).rglob("*") if path.is_file()))
    content = bytearray(path.read_bytes())
    if content and rng.random() < 0.5:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        return "a bit flipped in the newest checkpoint"
    path.write_bytes(content[: rng.randrange(len(content) + 1)])
    return "a file of the newest checkpoint cut off"


def soak(faults: int, rng: random.Random) -> tuple[list[dict], dict]:
    """(a row for each kind of fault, what is said of all) of so many faults."""
    injected: Counter[str] = Counter()
    survived: Counter[str] = Counter()
    longest = 0.0
    runs = identical = 0
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = {way: whole_run(Path(folder) / way, way) for way in WAYS}
        while injected.total() < faults:
            way, workdir = rng.choice(list(WAYS)), Path(folder) / f"run{runs}"
            here: Counter[str] = Counter()
            while here.total() < MOST and (ended := interrupted(workdir, way, rng)):
                here[ended[0]] += 1
                if not ended[0].startswith("SIGKILL"):
                    longest = max(longest, ended[1])
                if rng.random() < 0.25 and (damage := damaged(workdir, rng)):
                    here[damage] += 1
            same = whole_run(workdir, way) == undisturbed[way]
            runs, identical = runs + 1, identical + same
            injected += here
            survived += here if same else Counter()
            print(f"run {runs}: {here.total()} faults, {'the same' if same else 'ANOTHER'} end", flush=True)
    rows = [{"fault": name, "injected": injected[name], "survived": survived[name]} for name in sorted(injected)]
    return rows, {"runs": runs, "bit_identical": identical, "longest_seconds_to_stop": round(longest, 1)}


def malformed(inputs: int, seed: int) -> dict:
    """The row of so many malformed inputs."""
    command = [sys.executable, "-m", "benchmarks.faults.fuzz", f"--inputs={inputs}", f"--seed={seed}"]
    figures = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
    for failure in figures["failures"]:
        print(failure)
    given = figures["inputs"]
    return {"fault": "malformed input", "injected": given, "survived": given - len(figures["failures"])}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows, runs = soak(arguments.faults, random.Random(arguments.seed))
    rows.append(malformed(arguments.inputs, arguments.seed))
    print(json.dumps(runs))
    for row in rows:
        print(f"{row['survived']:9,} of {row['injected']:9,}  {row['fault']}")
    print(record.write("soak", [runs, *rows]))
    return int(any(row["survived"] < row["injected"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
