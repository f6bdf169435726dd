"""What every measurement is kept with: when, on what, with which versions, of which commit."""

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


def circumstances() -> dict:
    """Date, device, versions and commit of a measurement made now."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    return {
        "date": datetime.date.today().isoformat(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
        "commit": commit,
    }


def write(name: str, measurements: list[dict]) -> Path:
    """Keep `measurements` as results/NAME.json and return its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**circumstances(), "measurements": measurements}, indent=2) + "\n")
    return path
