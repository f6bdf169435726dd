"""The trials of a sweep, shared by all processes that work on it.

Optuna keeps the trials in a database: WORKDIR/sweep.db or the one that --storage names. Each trial is an ordinary run
in WORKDIR/trials/NAME, locked by the process that trains it for as long as that process lives. So a trial that the
database calls running but that is not locked was left by a process that died; the next process to find it resumes it.

What a process has read from the database may be out of date once it holds a lock, so it reads a trial's state again.

All trials read the same memory-mapped data. Those that differ only in the seed or the optimizers.Hyperparams share one
compiled program, see training.run.Run.step.
"""

import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from resnet_flax.errors import NotFinite, OutOfMemory, UserError, reason
from resnet_flax.files import try_lock
from resnet_flax.report.ensure import ensure_report
from resnet_flax.studies import sweep_report
from resnet_flax.studies.space import Field, Plan, Range, Settings, with_defaults
from resnet_flax.studies.sweep_report import Outcome
from resnet_flax.text import print_line
from resnet_flax.training.run import Run
from resnet_flax.training.trackers import Tracker
from resnet_flax.training.train import train
from resnet_flax.workdir.folder import wait_for_lock
from resnet_flax.workdir.history import lower_is_better

try:
    import optuna
except ImportError:
    raise UserError("a sweep needs Optuna: pip install -c constraints.txt -e '.[sweep]'") from None

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import URL, make_url
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.pool import NullPool

# Random search (Bergstra and Bengio, 2012) and the tree-structured Parzen estimator (Bergstra et al., 2011). The latter
# draws ten trials at random before it learns from finished ones; constant_liar keeps it away from those still running.
SAMPLERS: dict[str, Callable[..., BaseSampler]] = {
    "random": RandomSampler,
    "tpe": partial(TPESampler, constant_liar=True),
}
LOCK = "sweep.lock"  # beside the .lock of the run itself
DRAWS = 100  # draws in a row of known settings after which a space counts as exhausted
OPEN_ATTEMPTS = 5
SQLITE_TIMEOUT = 60  # seconds to wait until another process has written


@contextmanager
def open_database(storage: str, workdir: Path) -> Iterator[RDBStorage]:
    """Open the database at the URL `storage`, or that of `workdir`. UserError if it cannot be opened, or fails later.

    The default is SQLite, whose file stays intact whenever a process dies. The journal file that Optuna also offers
    can no longer be read once a line has been cut short.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = workdir.absolute() / "sweep.db"
    try:
        url = make_url(storage) if storage else URL.create("sqlite", database=str(path))
        with wait_for_lock(workdir / LOCK):  # only one process creates the tables
            database = connect(url)
    except (ImportError, RuntimeError, SQLAlchemyError) as error:
        raise UserError(f"cannot open {'--storage' if storage else path}: {reason(error)}") from None
    try:
        yield database
    except (StorageInternalError, SQLAlchemyError) as error:
        raise UserError(f"the sweep's database failed: {reason(error)}; the same command resumes") from None
    finally:
        database.remove_session()
        database.engine.dispose()


def connect(url: URL) -> RDBStorage:
    """Connect to a database and create its tables if need be.

    If processes on several machines create them at the same time, all but one fail, and find them a little later.
    """
    options: dict[str, Any] = {"poolclass": NullPool}  # a trial may last longer than a server keeps a connection
    if url.get_backend_name() == "sqlite":
        options["connect_args"] = {"timeout": SQLITE_TIMEOUT}
    text = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")  # Optuna formats it
    for _ in range(OPEN_ATTEMPTS - 1):
        try:
            return RDBStorage(text, options)
        except (IntegrityError, OperationalError, ProgrammingError):
            time.sleep(random.random())
    return RDBStorage(text, options)


@dataclass(frozen=True)
class Study:
    """The trials of a plan, shared by all processes that work on it.

    With `elsewhere`, processes on other machines may have workdirs of their own and share only the database.
    """

    plan: Plan
    database: RDBStorage
    trials: optuna.Study
    elsewhere: bool

    @classmethod
    def of(cls, plan: Plan, database: RDBStorage, elsewhere: bool) -> "Study":
        """Return the study named after the plan's workdir, created if need be. UserError if it is of another plan."""
        asked = plan.about()
        with wait_for_lock(plan.workdir / LOCK):
            trials = optuna.create_study(
                storage=database,
                study_name=plan.workdir.absolute().name,
                direction="minimize" if lower_is_better(plan.monitor) else "maximize",
                load_if_exists=True,
            )
            found = with_defaults(trials.user_attrs.get("plan", asked))
            changed = [f"{k}: {found.get(k)} -> {asked.get(k)}" for k in found | asked if found.get(k) != asked.get(k)]
            if changed:
                raise UserError(f"{plan.workdir} holds another sweep ({'; '.join(changed)}): choose another --workdir")
            trials.set_user_attr("plan", asked)
        return cls(plan, database, trials, elsewhere)

    def claim(self) -> tuple[FrozenTrial, IO] | None:
        """Return a trial for this process to train and the lock on its folder; None if no trial is left for it."""
        with wait_for_lock(self.plan.workdir / LOCK):
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
        """Return the first trial with each settings: two machines may have drawn the same ones at the same time."""
        first: dict[str, FrozenTrial] = {}
        for trial in self.trials.get_trials(deepcopy=False):
            first.setdefault(str(settings(trial)), trial)
        return list(first.values())

    def take(self, trial: FrozenTrial) -> IO | None:
        """Lock the folder of a trial and return the lock; None if it is finished or another process trains it."""
        folder = self.folder(trial)
        is_new = not folder.exists()
        if trial.state.is_finished() or (trial.state == TrialState.RUNNING and is_new and self.elsewhere):
            return None
        folder.mkdir(parents=True, exist_ok=True)
        lock = try_lock(folder / LOCK)
        if lock and not self.start(trial):
            lock.close()
            if is_new:
                shutil.rmtree(folder)
            return None
        return lock

    def start(self, trial: FrozenTrial) -> bool:
        """Mark a trial whose folder is locked as running; False if it has been finished or taken since it was read."""
        if trial.state == TrialState.RUNNING:  # its process has just died, or has just finished it
            return not self.database.get_trial(trial._trial_id).state.is_finished()
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
            values = {name: typed(value, self.plan.space.fields[name]) for name, value in drawn.items()}
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
        """Yield what the plan's method would try next, which depends only on the seed and the trials so far."""
        everything = self.trials.get_trials()
        earlier = [trial for trial in everything if trial.state in (TrialState.COMPLETE, TrialState.RUNNING)]
        for attempt in range(DRAWS):
            seed = np.random.SeedSequence([self.plan.config.seed, len(everything), attempt]).generate_state(1)
            sampler = SAMPLERS[self.plan.method](seed=int(seed[0]))
            scratch = optuna.create_study(direction=self.trials.direction, sampler=sampler)
            scratch.add_trials(earlier)
            yield scratch.ask(distributions).params

    def run(self, trial: FrozenTrial, lock: IO, trackers: Sequence[Tracker] = ()) -> None:
        """Train a claimed trial, from its checkpoint if it has one, and record how it ended.

        The trial fails if its settings are refused, diverge or need too much memory. Any other error ends the sweep,
        and the next process that finds the trial resumes it.
        """
        print_line(f"\ntrial {trial.number + 1} of {self.plan.trials}: {self.plan.space.describe(settings(trial))}")
        with lock:
            try:
                config = self.plan.space.config(settings(trial))
                Run(config)  # refuses what train would, before anything is written
            except UserError as error:
                return self.fail(trial, str(error))
            try:
                results = train(config, self.folder(trial), trackers)
                ensure_report(self.folder(trial))
            except (NotFinite, OutOfMemory) as error:
                return self.fail(trial, str(error))
            self.finish(trial, TrialState.COMPLETE, results=results)

    def fail(self, trial: FrozenTrial, why: str) -> None:
        print_line(f"trial {trial.number + 1} failed: {why}")
        self.finish(trial, TrialState.FAIL, reason=why)

    def finish(self, trial: FrozenTrial, state: TrialState, **attributes: Any) -> None:
        """Record how a trial ended, unless another machine that started it at the same time already has."""
        score = [attributes["results"][self.plan.monitor]] if state == TrialState.COMPLETE else None
        try:
            for name, value in attributes.items():
                self.database.set_trial_user_attr(trial._trial_id, name, value)
            self.database.set_trial_state_values(trial._trial_id, state, score)
        except UpdateFinishedTrialError:
            print_line(f"trial {trial.number + 1} was already finished by another process")

    def report(self) -> str:
        """Write the report of the trials so far and return its summary."""
        with wait_for_lock(self.plan.workdir / LOCK):
            return sweep_report.write_sweep_report(self.plan, self.outcomes())

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


def typed(value: Any, field: Field) -> str:
    """Return a value of a field as one would type it: a float with 4 significant digits, or as many as its range needs.

    Rounded to 4, 0.99996 from 0.999..0.99999 would be 1.
    """
    if not isinstance(value, float) or not isinstance(field, Range):
        return str(value)
    texts = (f"{value:.{digits}g}" for digits in range(4, 18))
    return next((text for text in texts if field.low <= float(text) <= field.high), repr(value))


def distribution(field: Field) -> BaseDistribution:
    if not isinstance(field, Range):
        return CategoricalDistribution(field)
    if isinstance(field.low, int):
        return IntDistribution(field.low, int(field.high), log=field.log)
    return FloatDistribution(field.low, field.high, log=field.log)
