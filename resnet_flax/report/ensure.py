"""The report of a finished run: written once, and again when its results are others."""

import hashlib
from pathlib import Path

from resnet_flax.config.checks import complete
from resnet_flax.config.stored import read_config
from resnet_flax.parallel.processes import run_on_first_process


def ensure_report(workdir: Path) -> None:
    """Write the report of the finished run in `workdir` unless it has the report of these very results."""
    if not run_on_first_process(lambda: is_current(workdir)):
        run_on_first_process(lambda: write_report_of(workdir))


def write_report_of(workdir: Path) -> None:
    from resnet_flax.report.report import write_report  # imports Matplotlib, for which no run should wait

    write_report(complete(read_config(workdir)), workdir)


def is_current(workdir: Path) -> bool:
    """Return whether report.html names the results that `workdir` holds. Clocks are not asked: they may be set back."""
    path = workdir / "report" / "report.html"
    return path.exists() and results_digest(workdir).encode() in path.read_bytes()[:4096]


def results_digest(workdir: Path) -> str:
    """Return the SHA-256 of results.json, by which report.html says whose results it shows; "" of an unfinished run."""
    path = workdir / "report" / "results.json"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
