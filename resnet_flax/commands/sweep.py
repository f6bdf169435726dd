"""Search over values of some fields of a config, and choose by validation."""

from pathlib import Path

from ml_collections import FrozenConfigDict

from resnet_flax.data.datasets.load import load_dataset
from resnet_flax.errors import UserError, lookup
from resnet_flax.studies.space import Plan, Space
from resnet_flax.studies.sweep import run_sweep
from resnet_flax.studies.trials import SAMPLERS
from resnet_flax.training.trackers import find_trackers


def sweep(
    config: FrozenConfigDict,
    workdir: Path,
    fields: list[str],
    recipe: list[str],
    method: str,
    trials: int,
    storage: str,
    track: str,
) -> None:
    """Train every combination of the values of `fields`, or as many `trials` as a `method` is to draw, and report.

    `fields` are the words for Space.read, `recipe` is what the command line sets in the config, `storage` the URL of a
    database, and `track` names services that follow each trial. A trial whose loss is not finite, whose config is
    refused or which needs too much memory is recorded as failed. Raises Interrupted after a signal, UserError for a
    mistake; the same command resumes.
    """
    lookup("method", method, SAMPLERS | {"grid": None})
    if not config.data.validation:
        raise UserError("a sweep chooses by validation: set config.data.validation")
    if trials < 0 or (trials > 0) == (method == "grid"):
        raise UserError("--trials=N is for --method=random and tpe, which need it; a grid takes every combination")
    trackers = find_trackers(track)
    space = Space.read(fields, recipe)
    plan = Plan(space.config({}), workdir, space, method, trials or len(space.combinations()))
    load_dataset(plan.config.data)  # missing data is not a failure of a trial
    run_sweep(plan, storage, trackers)
