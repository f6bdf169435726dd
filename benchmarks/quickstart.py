"""How well and how fast `make demo` does: python -m benchmarks.quickstart [--seeds=5]

Trains configs/quickstart.py once a seed, each in a process of its own, and keeps test accuracy and wall seconds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import record


def run(seed: int) -> dict:
    """One run in a fresh process and workdir; its first start also decodes the digits and compiles."""
    with tempfile.TemporaryDirectory() as workdir:
        started = time.perf_counter()
        words = ["--config=configs/quickstart.py", f"--config.seed={seed}", f"--workdir={workdir}"]
        subprocess.run([sys.executable, "-m", "resnet_flax.main", *words], check=True)
        seconds = time.perf_counter() - started
        results = json.loads((Path(workdir) / "report" / "results.json").read_text())
    return {"seed": seed, "test_accuracy": results["test_accuracy"], "seconds": round(seconds, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    rows = [run(seed) for seed in range(parser.parse_args().seeds)]
    accuracies = [row["test_accuracy"] for row in rows]
    print(f"test accuracy {statistics.mean(accuracies):.2%} +- {statistics.stdev(accuracies):.2%}, n = {len(rows)}")
    print(record.write("quickstart", rows))


if __name__ == "__main__":
    main()
