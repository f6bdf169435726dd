"""Logs of measurements, each with its date, device, versions and commit."""

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

from resnet_flax.parallel.devices import device_name
from resnet_flax.processor import usable_cores

RESULTS = Path(__file__).with_name("results")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "tensorflow-cpu", "torch", "timm", "torchvision", "pillow", "numpy")
CODE = ("resnet_flax", "configs", "benchmarks", ":!benchmarks/results")


class Journal:
    """Measurements in FOLDER/NAME.jsonl, one per line, written as they are made, so that a benchmark may be killed.

    A line has the "case" that was measured, the values that were "found", and the circumstances in which it was "made".
    There is one line for each device and case; a case that has one is not measured again unless `again` is set.
    """

    def __init__(self, name: str, folder: Path = RESULTS, again: bool = False):
        self.path = folder / f"{name}.jsonl"
        self.made = circumstances()
        self.again = again

    def lines(self) -> list[dict]:
        """Return all lines, including those of other devices."""
        return read_lines(self.path)

    def lines_here(self) -> list[dict]:
        """Return the lines of this device."""
        return [line for line in self.lines() if line["made"]["device"] == self.made["device"]]

    def has(self, case: dict) -> bool:
        """Return whether `case` has been measured and need not be again."""
        return not self.again and any(self._same(line, case) for line in self.lines_here())

    def add(self, case: dict, found: dict) -> None:
        """Write a line, replacing an older one of the same case, and print its numbers."""
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


def read_lines(path: Path) -> list[dict]:
    """Return the lines of the journal in a file, [] if there is no such file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def changes_to_log(changes: Sequence[str]) -> list[str]:
    """Return the changes of a recipe as a case has them: with XLA_FLAGS, and without the folder of the data."""
    flags = [f"XLA_FLAGS={os.environ['XLA_FLAGS']}"] if os.environ.get("XLA_FLAGS") else []
    return [*(word for word in changes if not word.startswith("--config.data.dir=")), *flags]


def circumstances() -> dict:
    """Return date, device, versions and commit of a measurement made now."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "device": device_name(),
        "cores": usable_cores(),
        "load": round(os.getloadavg()[0], 1),  # running or waiting processes: a busy machine gives too low speeds
        "python": platform.python_version(),
        "versions": versions,
        "commit": commit(),
    }


def is_cpu(device: str) -> bool:
    """Return whether the name of a device is that of a CPU; in runs of the first versions it is "1 x cpu"."""
    return "cores of" in device or device.endswith("cpu")


def commit() -> str:
    """Return the commit of the code, followed by "-dirty" if there are uncommitted changes.

    Outside a git checkout the environment variable COMMIT names it.
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
    """Write `measurements` that were made together to results/NAME.json; return the path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**circumstances(), "measurements": measurements}, indent=2) + "\n")
    return path
