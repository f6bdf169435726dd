"""benchmarks/gpu.sh runs all stages in order, and packs what the next start needs into small files."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks import recipes

# Stands for Python: a benchmark leaves a line in a log, and a training an unfinished run with two checkpoints.
BENCHMARK = """#!/bin/sh
for word; do case $word in --output=*) output=${word#*=} ;; --workdir=*) workdir=${word#*=} ;; esac; done
echo "$2" >> "$output/log.jsonl"
[ "$2" = benchmarks.reproduce ] || exit 0
mkdir -p "$output/runs/a" "$workdir/a/checkpoints/90" "$workdir/a/checkpoints/100" "$workdir/b/report"
touch "$workdir/b/report/results.json" "$workdir/b/config.json" "$workdir/a/config.json" "$output/runs/a/config.json"
[ -f "$workdir/a/checkpoints/100/data" ] || head -c 20000000 /dev/urandom > "$workdir/a/checkpoints/100/data"
"""


@pytest.fixture
def start(tmp_path):
    """Return what starts the script with this output folder, for so many seconds, and returns what it printed."""
    python = tmp_path / "python"
    python.write_text(BENCHMARK)
    python.chmod(0o755)

    def start(output: Path, seconds: int = 600) -> str:
        command = ["sh", recipes.ROOT / "benchmarks" / "gpu.sh", "images", output, str(seconds)]
        environment = os.environ | {"PYTHON": str(python)}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    return start


def test_what_an_unfinished_run_needs_comes_back_in_small_files(start, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert start(first).startswith("== speed --targets=94 ")
    assert all(path.stat().st_size <= 15 << 20 for path in (first / "parts").iterdir())
    second.mkdir()
    shutil.copytree(first / "parts", second / "parts")
    assert start(second, seconds=0) == ""  # no time is left for a stage
    files = [path.relative_to(second) for path in second.rglob("*") if path.is_file()]
    names = {str(path) for path in files if path.parts[0] != "parts"}
    run = "unfinished/a"
    assert names == {"log.jsonl", "runs/a/config.json", f"{run}/config.json", f"{run}/checkpoints/100/data"}
    data = Path(run, "checkpoints", "100", "data")
    assert (second / data).read_bytes() == (first / data).read_bytes()


def test_a_start_leaves_newer_runs_as_they_are(start, tmp_path):
    start(tmp_path / "output")
    (tmp_path / "output" / "log.jsonl").write_text("newer\n")
    start(tmp_path / "output", seconds=0)
    assert (tmp_path / "output" / "log.jsonl").read_text() == "newer\n"
