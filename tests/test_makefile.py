"""The Makefile's check of the Python that it is given."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_an_old_python_is_refused_before_anything_is_installed(tmp_path):
    python = tmp_path / "python3.10"
    older = "import sys; sys.version_info = (3, 10, 13); exec(sys.argv[1])"
    python.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{older}' \"$2\"\n")
    python.chmod(0o755)
    command = ["make", "demo", f"PYTHON={python}", f"VENV={tmp_path}/venv"]
    of_its_own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # as if by hand
    done = subprocess.run(command, cwd=ROOT, env=of_its_own, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: Python 3.11 or later is needed, and {python} is 3.10: name another, such as")
    assert done.stdout == ""
    assert not (tmp_path / "venv").exists()
