"""The trials of a sweep, which all processes at work on it share.

Optuna keeps the trials, in a database: WORKDIR/sweep.db or the one that --storage names. Each is an ordinary run in
WORKDIR/trials/NAME, locked by the process that trains it for as long as that lives. So a trial that is running in the
database but not locked was left by a process that died, and whoever finds it goes on from its checkpoint.

All trials read the same memory-mapped data. Each compiles its own program, in which learning rate and the like are
constants.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from jax.errors import JaxRuntimeError

from resnet_flax.errors import UserError, reason
from resnet_flax.report.ensure import ensure_report
from resnet_flax.studies import sweep_report
from resnet_flax.studies.space import Field, Plan, Range, Settings
from resnet_flax.studies.sweep_report import Outcome
from resnet_flax.text import print_line
from resnet_flax.training.train import train
from resnet_flax.workdir.folder import try_lock, wait_for_lock
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


@contextmanager
def open_database(url: str, workdir: Path) -> Iterator[RDBStorage]:
    """The database at `url`, or that of `workdir`. Raises UserError where it cannot be opened, or fails later.

    The default is SQLite: what it has written is whole whenever a process dies. The journal file that Optuna also knows
    cannot be read any more once a line has been cut short.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    options: dict[str, Any] = {"poolclass": NullPool}  # a trial may last longer than a server keeps a connection
    if not url:
        options["connect_args"] = {"timeout": 60}  # seconds to wait for another process to have written
    try:
        with wait_for_lock(workdir / LOCK):  # only one makes the tables
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
        with wait_for_lock(plan.workdir / LOCK):
            trials = optuna.create_study(
                storage=database,
                study_name=plan.workdir.absolute().name,
                direction="minimize" if lower_is_better(plan.monitor) else "maximize",
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
        lock = try_lock(folder / LOCK)
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
        print_line(f"\ntrial {number + 1} of {self.plan.trials}: {space.describe(settings(trial))}")
        with lock:
            try:
                results = train(space.config(settings(trial)), self.folder(trial))
                ensure_report(self.folder(trial))
            except (UserError, JaxRuntimeError) as error:
                if isinstance(error, JaxRuntimeError) and OUT_OF_MEMORY not in str(error):
                    raise
                why = str(error) if isinstance(error, UserError) else reason(error)
                self.database.set_trial_user_attr(trial._trial_id, "reason", why)
                self.trials.tell(number, state=TrialState.FAIL)
                print_line(f"trial {number + 1} failed: {why}")
            else:
                self.database.set_trial_user_attr(trial._trial_id, "results", results)
                self.trials.tell(number, results[self.plan.monitor])

    def report(self) -> str:
        """Write what has been found so far, and return what there is to say."""
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


def distribution(field: Field) -> BaseDistribution:
    if not isinstance(field, Range):
        return CategoricalDistribution(field)
    if isinstance(field.low, int):
        return IntDistribution(field.low, int(field.high), log=field.log)
    return FloatDistribution(field.low, field.high, log=field.log)
