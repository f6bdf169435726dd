"""Run a sweep: train its trials one after another, and report after each."""

from collections.abc import Sequence

from resnet_flax.errors import Interrupted
from resnet_flax.studies.space import Plan
from resnet_flax.studies.trials import Study, open_database
from resnet_flax.text import print_line
from resnet_flax.training.signals import StopRequest
from resnet_flax.training.trackers import Tracker


def run_sweep(plan: Plan, storage: str, trackers: Sequence[Tracker]) -> None:
    """Train all trials of `plan` that no other process trains, tracked by `trackers`, and report the best.

    `storage` is the URL of a database, or "" for one in the workdir. Raises Interrupted after a signal.
    """
    plan.workdir.mkdir(parents=True, exist_ok=True)
    with StopRequest() as stop, open_database(storage, plan.workdir) as database:
        stop.save_before_stopping()  # between two trials there is a report to print
        study = Study.of(plan, database, elsewhere=bool(storage))
        try:
            while not stop.requested() and (claimed := study.claim()):
                study.run(*claimed, trackers)
                study.report()
            if stop.requested():
                raise Interrupted(stop.signum)
        finally:
            print_line(study.report())
