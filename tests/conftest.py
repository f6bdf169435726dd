"""Every test runs on the CPU, offline, with a cache folder of its own."""

import fcntl
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers share the folder of the process that starts them
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="resnet_flax-tests-")
os.environ.pop("TFDS_DATA_DIR", None)
# Compiling is much of what tests do, and XLA's newer generator of loops takes a third of that, LLVM's later
# optimisations a part of the rest; what a program computes is the same. `make soak` compiles as users do.
os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=1 {os.environ.get('XLA_FLAGS', '')}"
os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
# The same tiny programs again and again, in this process and in others: compiled once.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

from resnet_flax.cache import keep_compiled_programs
from resnet_flax.memory import keep_freed_memory

keep_compiled_programs()  # before the first program: jax decides then
keep_freed_memory()

CACHE = Path(os.environ["XDG_CACHE_HOME"])


@pytest.fixture(scope="session", autouse=True)
def signals_are_heard():
    """A shell's job in the background ignores Ctrl-C, as pytest does in workers, and nohup ignores hangups."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def undrawn(monkeypatch):
    """Trainings draw no report, which takes as long as a small one."""
    monkeypatch.setattr("resnet_flax.commands.train.ensure_report", lambda workdir: None)


@pytest.fixture(scope="session")
def small_runs(tmp_path_factory) -> list[Path]:
    """Two finished runs that differ in their seed. Nobody writes into them but into their reports."""
    trained, folder = CACHE / "small_runs", tmp_path_factory.mktemp("runs")
    with open(CACHE / "small_runs.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one worker trains them, and each has a copy
        if not trained.exists():
            train_small_runs(trained.with_suffix(".new"))
            trained.with_suffix(".new").rename(trained)
    shutil.copytree(trained, folder, dirs_exist_ok=True)
    return [folder / "first", folder / "second"]


def train_small_runs(folder: Path) -> None:
    from resnet_flax.main import main

    recipe = Path(__file__).parents[1] / "configs" / "quickstart.py"
    for seed, name in enumerate(("first", "second")):
        small = ["--config.model.blocks=(1,1)", "--config.model.widths=(8,16)", "--config.data.train_examples=512"]
        short = ["--config.train.epochs=4", f"--config.seed={seed}", f"--workdir={folder / name}"]
        assert main([f"--config={recipe}", *small, *short]) == 0
