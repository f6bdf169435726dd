"""Train a recipe with several seeds, and report the mean of each result and how much chance moves it."""

import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict, FrozenConfigDict

from resnet_flax.config.checks import complete
from resnet_flax.config.defaults import changed
from resnet_flax.config.stored import config_to_json
from resnet_flax.data.augment.mixing import Mixing
from resnet_flax.errors import Damaged, Interrupted, NotFinite, UserError, reason
from resnet_flax.files import read_json
from resnet_flax.parallel.processes import reported_by_first_process, run_on_first_process
from resnet_flax.report import html
from resnet_flax.report.ensure import ensure_report
from resnet_flax.report.tables import format_metric, text_table
from resnet_flax.text import escape_line, print_line
from resnet_flax.training.batch import MIXED_ACCURACY
from resnet_flax.training.restore import read_history
from resnet_flax.training.signals import StopRequest
from resnet_flax.training.trackers import Tracker
from resnet_flax.training.train import train
from resnet_flax.workdir.results import read_results

MEASURED = ("test_accuracy", "test_loss", "val_accuracy", "val_loss", "train_accuracy", "train_loss")
MAX_SEEDS = 1000  # seeds
HEADER = ["", "mean", "std", "95 % interval of the mean"]


@dataclass(frozen=True)
class Spread:
    """The mean of `seeds` values, their sample standard deviation, and Student's 95 % interval of the mean.

    The interval is clipped to the possible values: at 0 and, for accuracies, at 1.
    """

    mean: float
    std: float
    low: float
    high: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float], largest: float = math.inf) -> "Spread":
        """Return the spread of at least two values, which are from 0 to `largest`."""
        mean, half = statistics.mean(values), half_interval(values)
        return cls(mean, statistics.stdev(values), max(0.0, mean - half), min(mean + half, largest), len(values))


def half_interval(values: Sequence[float]) -> float:
    """Return half the width of Student's 95 % interval of the mean of at least two values."""
    from scipy.stats import t as student  # takes half a second to import

    count = len(values)
    return float(student.ppf(0.975, count - 1)) * statistics.stdev(values) / count**0.5


def train_seeds(config: FrozenConfigDict, workdir: Path, seeds: Sequence[int], trackers: Sequence[Tracker]) -> None:
    """Train `config` with each of `seeds`, in workdir/seed0 and so on, tracked by `trackers`.

    Once two are finished, the workdir holds seeds.json, seeds.html and their curves. Raises what training.train does,
    except that a diverging seed does not stop the others: NotFinite is raised when they are finished.
    """
    runs = {seed: with_seed(config, seed) for seed in seeds}
    results: dict[int, dict] = {}
    diverged: list[int] = []
    with StopRequest() as stop:
        stop.save_before_stopping()  # each run has a StopRequest of its own
        for seed, seeded in runs.items():
            print_line(f"\nseed {seed}, {len(results) + len(diverged) + 1} of {len(runs)}")
            try:
                results[seed] = train(seeded, seed_folder(workdir, seed), trackers)
                ensure_report(seed_folder(workdir, seed))
            except NotFinite as error:
                diverged.append(seed)
                print_line(f"seed {seed} diverged: {error}")
            if len(results) > 1:
                run_on_first_process(partial(write_seeds_report, config, workdir, results, diverged))
            if stop.agree():
                raise reported_by_first_process(Interrupted(stop.signum))
    if len(results) > 1:
        print_line(f"\n{text_table(HEADER, spread_rows(spreads(results)))}report: {workdir / 'seeds.html'}")
    if diverged:
        which = ", ".join(map(str, diverged))
        raise reported_by_first_process(
            NotFinite(f"of {len(runs)} seeds these diverged and are left out of all means: {which}")
        )


def read_seeds(text: str) -> list[int]:
    """Return the seeds that a text stands for: [0, 1, 2] for "3" and for "0,1,2". UserError for fewer than two."""
    words = text.split(",")
    if not all(re.fullmatch("[0-9]{1,10}", word.strip()) for word in words):
        raise UserError(
            f"--seeds must be a number of seeds, such as 5, or a list, such as 0,1,2: not {escape_line(repr(text), 80)}"
        )
    numbers = [int(word) for word in words]
    seeds = list(dict.fromkeys(numbers)) if len(words) > 1 else list(range(min(numbers[0], MAX_SEEDS + 1)))
    if len(seeds) > MAX_SEEDS:
        raise UserError(f"--seeds takes at most {MAX_SEEDS:,}")
    if len(seeds) < 2:
        raise UserError("--seeds needs two or more: one run has no spread. For another seed set --config.seed")
    return seeds


def with_seed(config: FrozenConfigDict, seed: int) -> FrozenConfigDict:
    return complete(ConfigDict(changed(config, {"seed": seed})))


def seed_folder(workdir: Path, seed: int) -> Path:
    return workdir / f"seed{seed}"


def spreads(results: Mapping[int, dict]) -> dict[str, Spread]:
    """Return the spread over the seeds of each quantity that all of them have."""
    names = [name for name in MEASURED if all(name in found for found in results.values())]
    largest = {name: 1.0 if name.endswith("accuracy") else math.inf for name in names}
    return {name: Spread.of([found[name] for found in results.values()], largest[name]) for name in names}


def spread_rows(found: Mapping[str, Spread]) -> list[list[str]]:
    return [
        [name, format_metric(name, one.mean), format_metric(name, one.std), interval(name, one)]
        for name, one in found.items()
    ]


def interval(name: str, one: Spread) -> str:
    return f"{format_metric(name, one.low)} to {format_metric(name, one.high)}"


def write_seeds_report(
    config: FrozenConfigDict, workdir: Path, results: Mapping[int, dict], diverged: Sequence[int]
) -> None:
    """Write seeds.json, seeds.html and the curves of the seeds that have `results`, at least two."""
    from resnet_flax.report.files import Files  # imports Matplotlib, which a run of one seed does not need
    from resnet_flax.studies.figures import seed_curves

    found = spreads(results)
    histories = [read_history(with_seed(config, seed), seed_folder(workdir, seed)) for seed in results]
    files = Files()
    about_all = {"statistics": {name: asdict(one) for name, one in found.items()}, "results": results}
    files.text("seeds.json", json.dumps(about_all | {"diverged": diverged}, indent=2))
    each = [
        [str(seed), *(format_metric(name, one[name]) for name in found), f"{one['chosen_epoch']:.0f}"]
        for seed, one in results.items()
    ]
    left_out = f" Diverged and left out: {', '.join(map(str, diverged))}." if diverged else ""
    about = f"{config.model.name} on {config.data.name}; ± one standard deviation; Student's intervals.{left_out}"
    about += f" Training accuracy is of {MIXED_ACCURACY}." if Mixing.of(config.train).on else ""
    parts = [
        html.paragraph(about),
        html.tiles(mean_tiles(found)),
        files.curves(partial(seed_curves, histories), prefix="seeds_"),
        html.section("Over the seeds", html.table(HEADER, spread_rows(found))),
        html.section("Each seed", html.table(["seed", *found, "epoch"], each)),
        html.folded("Config", html.preformatted(config_to_json(config))),
    ]
    files.text("seeds.html", html.document(workdir.absolute().name, parts))
    files.write(workdir)


def seeds_beside(workdir: Path, seed: int) -> dict:
    """Return what the seeds.json beside the finished run of `seed` says about all seeds; {} if it is about other runs.

    That is the number of "seeds", how many are "seeds_diverged" and, if it is known, the "mean" and the "std" of the
    others' test accuracy as "seeds_test_accuracy". Raises Damaged if the file is.
    """
    folder = workdir.absolute().parent
    if workdir.absolute() != seed_folder(folder, seed) or not (folder / "seeds.json").is_file():
        return {}
    try:
        found = read_json(folder / "seeds.json")
        if found["results"].get(str(seed)) != read_results(workdir):
            return {}
        diverged = len(found["diverged"])
        about = {"seeds": len(found["results"]) + diverged, "seeds_diverged": diverged}
        accuracy = found["statistics"].get("test_accuracy")
        spread = {name: float(accuracy[name]) for name in ("mean", "std")} if accuracy else {}
        return about | ({"seeds_test_accuracy": spread} if spread else {})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(
            f"{folder / 'seeds.json'} is damaged ({reason(error)}): the training command recreates it"
        ) from None


def mean_tiles(found: Mapping[str, Spread]) -> list[html.Tile]:
    """Return the means of the accuracies, the most important first."""
    return [
        html.Tile(
            f"mean {name.replace('_', ' ')}",
            f"{format_metric(name, one.mean)} ± {format_metric(name, one.std)}",
            f"95 % interval {interval(name, one)}, {one.seeds} seeds",
        )
        for name, one in found.items()
        if name.endswith("accuracy")
    ]
