"""The report of a finished run: written once, and again if its results change or it is incomplete."""

from pathlib import Path

from resnet_flax.config.checks import complete
from resnet_flax.config.stored import read_config
from resnet_flax.parallel.processes import run_on_first_process
from resnet_flax.report.html import last_line
from resnet_flax.workdir.results import results_digest


def ensure_report(workdir: Path) -> None:
    """Write the report of the finished run in `workdir` unless it has a complete one of the same results."""
    if not run_on_first_process(lambda: is_current(workdir)):
        run_on_first_process(lambda: write_report_of(workdir))


def write_report_of(workdir: Path) -> None:
    from resnet_flax.report.report import write_report  # imports Matplotlib, which no run should wait for

    write_report(complete(read_config(workdir)), workdir)


def is_current(workdir: Path) -> bool:
    """Return whether report.html is complete and shows the results in `workdir`, whatever the times of the files."""
    path = workdir / "report" / "report.html"
    end = last_line(results_digest(workdir)).encode()
    return path.exists() and bool(end) and path.read_bytes().endswith(end)
