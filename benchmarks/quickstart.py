"""Measure the accuracy and the seconds of `make demo`: python -m benchmarks.quickstart [--seeds=5]

Trains configs/quickstart.py with each seed in a process of its own, and logs test accuracy and seconds.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import command_line, record
from benchmarks.tables import spread


def run(seed: int) -> dict:
    """Train once in a new process and workdir. The first run also decodes the digits and compiles."""
    with tempfile.TemporaryDirectory() as workdir:
        started = time.perf_counter()
        words = ["--config=configs/quickstart.py", f"--config.seed={seed}", f"--workdir={workdir}"]
        subprocess.run([sys.executable, "-m", "resnet_flax.main", *words], check=True)
        seconds = time.perf_counter() - started
        results = json.loads((Path(workdir) / "report" / "results.json").read_text())
    return {"test_accuracy": results["test_accuracy"], "seconds": round(seconds, 1)}


def main() -> None:
    parser = command_line.journal_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    journal = record.Journal("quickstart", arguments.output, arguments.again)
    for seed in range(arguments.seeds):
        if not journal.has({"seed": seed}):
            journal.add({"seed": seed}, run(seed))
    percents = [100 * line["found"]["test_accuracy"] for line in journal.lines_here()]
    print(f"test accuracy {spread(percents)} %, n = {len(percents)}")


if __name__ == "__main__":
    sys.exit(command_line.run(main))
