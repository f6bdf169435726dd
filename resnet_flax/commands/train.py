"""Train a config, with one seed or several, and report on it."""

from pathlib import Path

from ml_collections import FrozenConfigDict

from resnet_flax.errors import UserError
from resnet_flax.parallel.processes import run_on_first_process
from resnet_flax.parallel.watch import joined_processes
from resnet_flax.report.ensure import ensure_report
from resnet_flax.studies.seeds import read_seeds, train_seeds
from resnet_flax.training.trackers import Tracker, find_trackers
from resnet_flax.training.train import train as train_once


def train(config: FrozenConfigDict, workdir: Path, seeds: str, track: str | Tracker) -> None:
    """Train `config` in `workdir` and report; or, with `seeds` such as "5" or "0,1,2", in workdir/seed0 and so on.

    `track` names services that follow each run, or is a tracker. Raises UserError for `seeds` beside a seed of the
    config.
    """
    if seeds and config.seed:
        raise UserError(f"--seeds={seeds} replaces config.seed {config.seed}: leave out one of them")
    with joined_processes():
        trackers: list[Tracker] = []  # all idle except in the first process
        run_on_first_process(lambda: trackers.extend(find_trackers(track)))
        if seeds:
            train_seeds(config, workdir, read_seeds(seeds), trackers)
        else:
            train_once(config, workdir, trackers)
            ensure_report(workdir)
