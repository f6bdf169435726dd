"""Facts about a run, for its report and for comparisons: its numbers, and how they came about."""

import math
from collections.abc import Mapping

from ml_collections import FrozenConfigDict

from resnet_flax import models
from resnet_flax.data.datasets.load import image_shape
from resnet_flax.text import escape_line
from resnet_flax.training.progress import duration
from resnet_flax.workdir.history import EpochRow, best_row
from resnet_flax.workdir.predictions import wilson_interval

MAX_VALUE_CHARS = 300  # characters of a value in a table
MAX_NUMBER = 1e12  # seconds, or images per second


def chosen_row(config: FrozenConfigDict, history: list[EpochRow]) -> EpochRow:
    """Return the epoch whose weights are the run's: the best on validation so far, the last if nothing is held out."""
    return best_row(history, config.train.monitor) or history[-1]


def parameter_count(config: FrozenConfigDict) -> int:
    """Return the number of parameters of a complete config's network."""
    return models.count_parameters(models.build(config), image_shape(config.data))


def interval_text(results: Mapping) -> str:
    """Return the 95 % interval of the test accuracy as text."""
    count = results["test_examples"]
    low, high = wilson_interval(round(results["test_accuracy"] * count), count)
    return f"{low:.2%} to {high:.2%}"


def run_facts(config: FrozenConfigDict, results: Mapping) -> dict[str, str]:
    """Return when, where and how fast a run was trained, as far as results.json says."""
    seconds, speed = number(results, "training_seconds"), number(results, "images_per_second")
    init = results.get("init")
    started_from = f"{word(init, 'weights')}, SHA-256 {word(init, 'sha256')[:12]}" if isinstance(init, dict) else ""
    facts = {
        "seed": str(config.seed),
        "started from": started_from,
        "date": word(results, "date"),
        "device": word(results, "device"),
        "training time": duration(seconds) if 0 <= seconds < math.inf else "",
        "images per second": f"{speed:,.0f}" if 0 < speed < math.inf else "",
        "commit": word(results, "code"),
        "jax": word(results, "jax"),
        "python": word(results, "python"),
    }
    return {name: fact for name, fact in facts.items() if fact}


def word(results: Mapping, name: str) -> str:
    value = results.get(name)
    return escape_line(value, MAX_VALUE_CHARS) if isinstance(value, str) else ""


def number(results: Mapping, name: str) -> float:
    """Return a number from results.json, NaN if it is not there."""
    value = results.get(name)
    return float(value) if isinstance(value, int | float) and abs(value) < MAX_NUMBER else math.nan
