"""A sweep: one run for each trial of other settings, and which of them is best on validation.

Optuna keeps the trials, in a database: WORKDIR/sweep.db or the one that --storage names. Each is an ordinary run in
WORKDIR/trials/NAME, locked by the process that trains it for as long as that lives. So a trial that is running in the
database but not locked was left by a process that died, and whoever finds it goes on from its checkpoint.

All trials read the same memory-mapped data. Each compiles its own program, in which learning rate and the like are
constants.
"""

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from jax.errors import JaxRuntimeError
from ml_collections import FrozenConfigDict

from resnet_flax import sweep_report
from resnet_flax.data import sources
from resnet_flax.errors import Interrupted, UserError, lookup, reason
from resnet_flax.space import Field, Plan, Range, Settings, Space
from resnet_flax.stopping import StopRequest
from resnet_flax.sweep_report import Outcome
from resnet_flax.text import say
from resnet_flax.train import train
from resnet_flax.workdir import HELD

try:
    import optuna
except ImportError:
    raise UserError("a sweep needs Optuna: pip install -c constraints.txt -e '.[sweep]'") from None

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

# Bergstra and Bengio, 2012, and the tree-structured Parzen estimator of Bergstra et al., 2011: it draws ten at random
# before it learns from those that are finished; constant_liar keeps it away from those that are running.
SAMPLERS: dict[str, Callable[..., BaseSampler]] = {
    "random": RandomSampler,
    "tpe": partial(TPESampler, constant_liar=True),
}
LOCK = "sweep.lock"  # beside the .lock of the run itself
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"  # how XLA says it
DRAWS = 100  # in a row that are all known, after which a space counts as exhausted


def sweep(
    config: FrozenConfigDict,
    workdir: Path,
    fields: list[str],
    recipe: list[str],
    method: str,
    trials: int,
    storage: str,
) -> None:
    """Train every combination of the values of `fields`, or as many `trials` as a `method` is to draw, and report.

    `fields` is as Space.read takes it, `recipe` what the command line sets in the config, `storage` the URL of a
    database. A trial whose loss is not finite, whose config is refused or which needs too much memory is recorded as
    failed. Raises Interrupted after a signal, UserError for a mistake; the same command goes on.
    """
    lookup("method", method, SAMPLERS | {"grid": None})
    if not any(word.startswith("--config=") for word in recipe):
        raise UserError("which recipe? Give --config=FILE")
    if not config.data.validation:
        raise UserError("a sweep chooses by validation, and config.data.validation is empty")
    if (trials > 0) == (method == "grid"):
        raise UserError("--trials=N is for --method=random and tpe, which need it; a grid takes every combination")
    space = Space.read(fields, recipe)
    plan = Plan(space.config({}), workdir, space, method, trials or len(space.combinations()))
    sources.load(plan.config.data)  # data that is not there is no failure of a trial
    workdir.mkdir(parents=True, exist_ok=True)
    with StopRequest() as stop, opened(storage, workdir) as database:
        stop.nothing_to_save = False  # between two trials there is a report to print
        study = Study.of(plan, database, elsewhere=bool(storage))
        try:
            while not stop.signum and (claimed := study.claim()):
                study.run(*claimed)
                study.report()
            if stop.signum:
                raise Interrupted(stop.signum)
        except Interrupted:
            say(study.report())
            raise
        say(study.report())


@contextmanager
def opened(url: str, workdir: Path) -> Iterator[RDBStorage]:
    """The database at `url`, or that of `workdir`. Raises UserError where it cannot be opened, or fails later.

    The default is SQLite: what it has written is whole whenever a process dies. The journal file that Optuna also knows
    cannot be read any more once a line has been cut short.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    options: dict[str, Any] = {"poolclass": NullPool}  # a trial may last longer than a server keeps a connection
    if not url:
        options["connect_args"] = {"timeout": 60}  # seconds to wait for another process to have written
    try:
        with locked(workdir):  # only one makes the tables
            database = RDBStorage(url or f"sqlite:///{workdir.absolute()}/sweep.db", options)
    except (ImportError, RuntimeError, SQLAlchemyError) as error:
        raise UserError(f"cannot open {'--storage' if url else workdir / 'sweep.db'}: {reason(error)}") from None
    try:
        yield database
    except (StorageInternalError, SQLAlchemyError) as error:
        raise UserError(f"the sweep's database fails: {reason(error)}; the same command goes on") from None
    finally:
        database.remove_session()
        database.engine.dispose()


@dataclass(frozen=True)
class Study:
    """The trials of a plan, which all processes at work on it share.

    Some may be `elsewhere`: in workdirs on other machines, with nothing in common but the database.
    """

    plan: Plan
    database: RDBStorage
    trials: optuna.Study
    elsewhere: bool

    @classmethod
    def of(cls, plan: Plan, database: RDBStorage, elsewhere: bool) -> "Study":
        """The study with the name of the plan's workdir, made if need be. UserError if it is another plan's."""
        asked = plan.about()
        with locked(plan.workdir):
            trials = optuna.create_study(
                storage=database,
                study_name=plan.workdir.absolute().name,
                direction="minimize" if plan.monitor.endswith("loss") else "maximize",
                load_if_exists=True,
            )
            found = trials.user_attrs.get("plan", asked)
            changed = [f"{k}: {found.get(k)} -> {asked.get(k)}" for k in found | asked if found.get(k) != asked.get(k)]
            if changed:
                raise UserError(f"{plan.workdir} holds another sweep ({'; '.join(changed)}): choose another --workdir")
            trials.set_user_attr("plan", asked)
        return cls(plan, database, trials, elsewhere)

    def claim(self) -> tuple[FrozenTrial, IO] | None:
        """A trial for this process to train, with the lock on its folder; None when none is left for it."""
        with locked(self.plan.workdir):
            known = self.distinct()
            for trial in known:
                if lock := self.take(trial):
                    return trial, lock
            while len(known) < self.plan.trials and self.add_another_than(known):
                known = self.distinct()
                if lock := self.take(known[-1]):
                    return known[-1], lock
        return None

    def distinct(self) -> list[FrozenTrial]:
        """All trials, without any that has the settings of one before it: two machines may have drawn at once."""
        first: dict[str, FrozenTrial] = {}
        for trial in self.trials.get_trials(deepcopy=False):
            first.setdefault(str(settings(trial)), trial)
        return list(first.values())

    def take(self, trial: FrozenTrial) -> IO | None:
        """The lock on the folder of an unfinished trial that no living process has, else None."""
        folder = self.folder(trial)
        is_new = not folder.exists()
        if trial.state.is_finished() or (trial.state == TrialState.RUNNING and is_new and self.elsewhere):
            return None
        folder.mkdir(parents=True, exist_ok=True)
        lock = try_lock(folder)
        if lock and trial.state == TrialState.WAITING and not self.start(trial):
            lock.close()
            if is_new:
                shutil.rmtree(folder)
            return None
        return lock

    def start(self, trial: FrozenTrial) -> bool:
        """Mark a waiting trial as running. False if another machine has been faster."""
        try:
            return self.database.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        except UpdateFinishedTrialError:
            return False

    def add_another_than(self, known: list[FrozenTrial]) -> bool:
        """Add a waiting trial with settings that none of `known` has; False if there are no others."""
        distributions = {name: distribution(field) for name, field in self.plan.space.fields.items()}
        before = [settings(trial) for trial in known]
        draws = self.plan.space.combinations() if self.plan.method == "grid" else self.draws(distributions)
        for drawn in draws:
            values = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in drawn.items()}
            if values not in before:
                attributes = {"settings": values}
                self.trials.add_trial(
                    create_trial(
                        state=TrialState.WAITING, params=drawn, distributions=distributions, user_attrs=attributes
                    )
                )
                return True
        return False

    def draws(self, distributions: dict[str, BaseDistribution]) -> Iterator[dict[str, Any]]:
        """What the plan's method would try next. It follows from the seed and the trials so far alone."""
        everything = self.trials.get_trials()
        earlier = [trial for trial in everything if trial.state in (TrialState.COMPLETE, TrialState.RUNNING)]
        for attempt in range(DRAWS):
            seed = np.random.SeedSequence([self.plan.config.seed, len(everything), attempt]).generate_state(1)
            sampler = SAMPLERS[self.plan.method](seed=int(seed[0]))
            sketch = optuna.create_study(direction=self.trials.direction, sampler=sampler)
            sketch.add_trials(earlier)
            yield sketch.ask(distributions).params

    def run(self, trial: FrozenTrial, lock: IO) -> None:
        """Train a claimed trial, or go on with it, and record what became of it."""
        space, number = self.plan.space, trial.number
        say(f"\ntrial {number + 1} of {self.plan.trials}: {space.describe(settings(trial))}")
        with lock:
            try:
                results = train(space.config(settings(trial)), self.folder(trial))
            except (UserError, JaxRuntimeError) as error:
                if isinstance(error, JaxRuntimeError) and OUT_OF_MEMORY not in str(error):
                    raise
                why = str(error) if isinstance(error, UserError) else reason(error)
                self.database.set_trial_user_attr(trial._trial_id, "reason", why)
                self.trials.tell(number, state=TrialState.FAIL)
                say(f"trial {number + 1} failed: {why}")
            else:
                self.database.set_trial_user_attr(trial._trial_id, "results", results)
                self.trials.tell(number, results[self.plan.monitor])

    def report(self) -> str:
        """Write what has been found so far, and return what there is to say."""
        with locked(self.plan.workdir):
            return sweep_report.draw(self.plan, self.outcomes())

    def outcomes(self) -> list[Outcome]:
        return [
            Outcome(
                trial.number + 1,
                settings(trial),
                trial.state.name.lower(),
                trial.user_attrs.get("results", {}),
                trial.user_attrs.get("reason", ""),
            )
            for trial in self.distinct()
        ]

    def folder(self, trial: FrozenTrial) -> Path:
        return self.plan.folder(settings(trial))


def settings(trial: FrozenTrial) -> Settings:
    return trial.user_attrs["settings"]


def distribution(field: Field) -> BaseDistribution:
    if not isinstance(field, Range):
        return CategoricalDistribution(field)
    if isinstance(field.low, int):
        return IntDistribution(field.low, int(field.high), log=field.log)
    return FloatDistribution(field.low, field.high, log=field.log)


def try_lock(folder: Path) -> IO | None:
    """An open file that keeps other processes from locking `folder` until it is closed, if only by dying; None if one
    of them has such a file. UserError where the file system has no locks.
    """
    file = open(folder / LOCK, "a")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if error.errno in HELD:
            return None
        raise UserError(f"{folder} cannot be locked, which a sweep needs: {error.strerror}") from None
    return file


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no other process has the folder, and keep it."""
    while not (file := try_lock(folder)):
        time.sleep(0.05)
    with file:
        yield
