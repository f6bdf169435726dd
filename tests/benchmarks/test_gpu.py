"""benchmarks/gpu.sh runs all stages in order, and packs what the next start needs into small files."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks import recipes

# Stands for Python: a benchmark leaves a line in a log, and a training two unfinished runs with two checkpoints each,
# `b` with validation, a finished run that is recorded and one that is not. The benchmark whose module or flags are
# $WAITING waits for SIGTERM and then takes a moment to save. The first call asks what there is, such as a GPU.
BENCHMARK = """#!/bin/sh
[ "$1" = -m ] || exit "${LACKING:-0}"
for word; do case $word in --output=*) output=${word#*=} ;; --workdir=*) workdir=${word#*=} ;; esac; done
echo "$2" >> "$output/log.jsonl"
case "$WAITING" in
"$2" | "${XLA_FLAGS:-none}") trap 'sleep 0.3; echo saved >> "$output/log.jsonl"; exit 143' TERM
    sleep 0.5 # by when `timeout` knows its child: before that it would end alone
    touch "$output/waiting"
    for _ in $(seq 600); do sleep 0.1; done ;;
esac
[ "$2" = benchmarks.reproduce ] || exit 0
for run in a b recorded unrecorded; do
    for step in 90 100 110.orbax-checkpoint-tmp; do
        mkdir -p "$workdir/$run/checkpoints/$step"
        touch "$workdir/$run/checkpoints/$step/data"
    done
    mkdir -p "$workdir/$run/report"
    echo '{"validation": "", "test": "test"}' > "$workdir/$run/config.json"
done
echo '{"validation": "train[90%:]"}' > "$workdir/b/config.json"
touch "$workdir/recorded/report/results.json" "$workdir/unrecorded/report/results.json"
mkdir -p "$output/runs/a" "$output/runs/recorded-gpu" "$output/runs/unrecorded"
touch "$output/runs/a/results.json" # of a CPU
touch "$output/runs/recorded-gpu/results.json" "$output/runs/unrecorded/config.json"
[ -s "$workdir/a/checkpoints/100/data" ] || head -c 20000000 /dev/urandom > "$workdir/a/checkpoints/100/data"
"""


@pytest.fixture
def process(tmp_path):
    """Return what starts the script with this output folder, for so many seconds, and returns its process."""
    python = tmp_path / "python"
    python.write_text(BENCHMARK)
    python.chmod(0o755)

    def process(output: Path, seconds: int = 600, waiting: str = "", shell: str = "sh") -> subprocess.Popen:
        command = [shell, recipes.ROOT / "benchmarks" / "gpu.sh", tmp_path, output, str(seconds)]
        environment = os.environ | {"PYTHON": str(python), "WAITING": waiting}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    return process


@pytest.fixture
def start(process):
    """Return what starts the script like `process`, and returns what it printed."""

    def start(*arguments, **options) -> str:
        script = process(*arguments, **options)
        printed = script.communicate()[0]
        assert script.returncode == 0
        return printed

    return start


def test_what_an_unfinished_run_needs_comes_back_in_small_files(start, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert start(first).startswith("== speed --targets=94 ")
    assert all(path.stat().st_size <= 15 << 20 for path in (first / "parts").iterdir())
    second.mkdir()
    shutil.copytree(first / "parts", second / "parts")
    assert start(second, seconds=0) == ""  # no time is left for a stage
    files = [path.relative_to(second) for path in second.rglob("*") if path.is_file()]
    names = {str(path) for path in files if path.parts[0] not in ("parts", "runs")}
    assert names == {
        "log.jsonl",
        "unfinished/a/config.json",
        "unfinished/a/checkpoints/100/data",
        "unfinished/b/config.json",
        "unfinished/b/checkpoints/90/data",  # it may be the best on validation
        "unfinished/b/checkpoints/100/data",
        "unfinished/unrecorded/config.json",
        "unfinished/unrecorded/report/results.json",
        "unfinished/unrecorded/checkpoints/100/data",
    }
    assert {str(path) for path in files if path.parts[0] == "runs"} == {
        "runs/a/results.json",
        "runs/recorded-gpu/results.json",
        "runs/unrecorded/config.json",
    }
    data = Path("unfinished", "a", "checkpoints", "100", "data")
    assert (second / data).read_bytes() == (first / data).read_bytes()


def test_files_that_did_not_all_come_along_are_refused(start, process, tmp_path):
    output = tmp_path / "output"
    start(output)
    [*_, last] = sorted((output / "parts").iterdir())
    last.unlink()
    shutil.rmtree(output / "unfinished")
    script = process(output)
    assert script.communicate()[0] == "" and script.returncode == 1
    assert not list((output / "unfinished").iterdir())  # so the next start unpacks all of it


def test_nothing_starts_where_a_package_or_the_gpu_is_missing(process, tmp_path, monkeypatch):
    monkeypatch.setenv("LACKING", "1")
    script = process(tmp_path / "output")
    assert script.communicate()[0] == "" and script.returncode == 1


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize("waiting", ["benchmarks.speed", "--xla_gpu_enable_triton_gemm=false"])
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_lets_the_benchmark_save_and_packs_at_once(process, tmp_path, shell, waiting, sent, code):
    output = tmp_path / "output"
    script = process(output, waiting=waiting, shell=shell)
    while not (output / "waiting").exists():
        time.sleep(0.02)
    script.send_signal(sent)
    time.sleep(0.1)
    script.send_signal(sent)  # as `timeout` does, which signals its command and then the command's group
    script.communicate(timeout=20)
    assert script.returncode == code
    packed = f"cat {output}/parts/* | tar -xzf - -O ./log.jsonl"
    log = subprocess.run(["sh", "-c", packed], check=True, capture_output=True, text=True).stdout
    assert log.splitlines()[-1] == "saved"


def test_a_start_leaves_newer_runs_as_they_are(start, tmp_path):
    start(tmp_path / "output")
    (tmp_path / "output" / "log.jsonl").write_text("newer\n")
    start(tmp_path / "output", seconds=0)
    assert (tmp_path / "output" / "log.jsonl").read_text() == "newer\n"


def test_what_comes_along_is_added_to_what_is_there(start, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    start(first)
    lines = (first / "log.jsonl").read_text().splitlines()
    (second / "runs" / "a").mkdir(parents=True)
    (second / "runs" / "a" / "results.json").write_text("newer")
    (second / "log.jsonl").write_text(f"{lines[0]}\nnewer\n")
    shutil.copytree(first / "parts", second / "parts")
    start(second, seconds=0)
    assert (second / "log.jsonl").read_text().splitlines() == [
        lines[0],
        "newer",
        *(line for line in lines if line != lines[0]),
    ]
    assert (second / "runs" / "a" / "results.json").read_text() == "newer"
    assert (second / "runs" / "recorded-gpu" / "results.json").exists()
