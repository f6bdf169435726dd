"""The report of one run, or a comparison of several."""

from pathlib import Path

from resnet_flax.errors import UserError
from resnet_flax.report.compare import write_comparison
from resnet_flax.report.live import serve
from resnet_flax.report.report import write_report
from resnet_flax.workdir.folder import Job


def report(jobs: list[Job], output: str, watch: bool, port: int) -> None:
    """Write the report of one run, which may still be training, or compare several in the folder `output`.

    With `watch`, serve a page about them on a `port` instead, until Ctrl-C. Raises UserError for an `output` or a
    `port` that would be ignored.
    """
    if output and (watch or len(jobs) == 1):
        raise UserError("--output is the folder of a comparison: name several runs, without --watch")
    if port and not watch:
        raise UserError("--port needs --watch: add --watch")
    if watch:
        serve([job.workdir for job in jobs], port)
    elif len(jobs) == 1:
        write_report(*jobs[0])
    else:
        write_comparison(jobs, Path(output) if output else jobs[0].workdir.absolute().parent / "comparison")
