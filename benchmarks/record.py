"""What every measurement is kept with: when, on what, with which versions, of which commit."""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path

import jax

RESULTS = Path(__file__).with_name("results")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "tensorflow-cpu", "torch", "numpy")
CODE = ("resnet_flax", "configs", "benchmarks", ":!benchmarks/results")


class Journal:
    """Measurements in FOLDER/NAME.jsonl, a line each, written as they are made, so that a benchmark may be killed.

    A line holds the "case" that was measured, what was "found", and the circumstances in which it was "made". A device
    has one line for a case, which is not measured again by the same command unless `again`.
    """

    def __init__(self, name: str, folder: Path = RESULTS, again: bool = False):
        self.path = folder / f"{name}.jsonl"
        self.made = circumstances()
        self.again = again

    def lines(self) -> list[dict]:
        """All lines, of other devices too."""
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def has(self, case: dict) -> bool:
        """Whether `case` need not be measured."""
        return not self.again and any(self._same(line, case) for line in self.lines())

    def add(self, case: dict, found: dict) -> None:
        """Keep a line, in place of an older one of the same case, and print the numbers in it."""
        others = [line for line in self.lines() if not self._same(line, case)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".tmp")
        lines = [*others, {"case": case, "found": found, "made": self.made}]
        unfinished.write_text("".join(json.dumps(line) + "\n" for line in lines))
        unfinished.replace(self.path)
        numbers = [f"{name}={value}" for name, value in found.items() if isinstance(value, int | float)]
        print(*filter(None, case.values()), *numbers, flush=True)

    def _same(self, line: dict, case: dict) -> bool:
        return line["case"] == json.loads(json.dumps(case)) and line["made"]["device"] == self.made["device"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of every benchmark that keeps a journal."""
    parser.add_argument("--output", type=Path, default=RESULTS, help="the folder of the journal")
    parser.add_argument("--again", action="store_true", help="measure what the journal has already, too")


def circumstances() -> dict:
    """Date, device, versions and commit of a measurement made now."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "device": device(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),  # how many processes wanted a core: a busy machine is slow for all
        "python": platform.python_version(),
        "versions": versions,
        "commit": commit(),
    }


def device() -> str:
    """What computes, such as "1 x NVIDIA H200" or "2 cores of Intel(R) Xeon(R) Processor"."""
    if jax.default_backend() == "cpu":
        return f"{os.cpu_count()} cores of {processor()}"
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def commit() -> str:
    """The commit of the code, with "-dirty" behind it if it was changed since.

    Where the code is no checkout, the environment says it as COMMIT.
    """

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=RESULTS.parents[1], capture_output=True, text=True).stdout.strip()

    if "COMMIT" in os.environ:
        return os.environ["COMMIT"]
    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *CODE)
        return (git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")) or "unknown"
    except FileNotFoundError:
        return "unknown"


def write(name: str, measurements: list[dict]) -> Path:
    """Keep `measurements`, made all at once, as results/NAME.json and return its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**circumstances(), "measurements": measurements}, indent=2) + "\n")
    return path
