"""Untrusted files and text: a value or a line for the user, in little memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is measured as Linux reports it")
def test_malformed_inputs_are_read_or_refused():
    """In a process of its own, as some readers are in C and could crash it. `make soak` tries more inputs."""
    command = [sys.executable, "-m", "benchmarks.faults.fuzz", "--inputs=2300"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    figures = json.loads(done.stdout)
    assert figures["inputs"] >= 2300
    assert figures["failures"] == []
    for reader, outcomes in figures["readers"].items():
        assert outcomes["value"] > 0, reader
        assert outcomes["refused"] > 15, reader
