"""The Makefile's check of the Python that it is given."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
@pytest.mark.parametrize("minor", [10, 14])
def test_an_unsupported_python_is_refused_before_anything_is_installed(tmp_path, minor):
    python = tmp_path / f"python3.{minor}"
    other = f"import sys; sys.version_info = (3, {minor}, 0); exec(sys.argv[1])"
    python.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{other}' \"$2\"\n")
    python.chmod(0o755)
    command = ["make", "demo", f"PYTHON={python}", f"VENV={tmp_path}/venv"]
    of_its_own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # as if by hand
    done = subprocess.run(command, cwd=ROOT, env=of_its_own, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"error: Python 3.11, 3.12 or 3.13 is needed, and {python} is 3.{minor}: name another, such as"
    )
    assert done.stdout == ""
    assert not (tmp_path / "venv").exists()
