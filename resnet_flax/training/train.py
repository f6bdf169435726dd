"""The training loop, from a config to the results of a run."""

import math
import platform
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
from ml_collections import ConfigDict, FrozenConfigDict

from resnet_flax.config.effects import without_effect
from resnet_flax.data.augment.mixing import Mixing
from resnet_flax.data.datasets.arrays import Split
from resnet_flax.errors import Damaged, Interrupted, OutOfMemory, UserError, is_out_of_memory
from resnet_flax.memory import Heap, return_free_memory
from resnet_flax.models.resnet import Variables
from resnet_flax.parallel.devices import device_name, smaller_batch_size
from resnet_flax.parallel.processes import (
    max_over_processes,
    reported_by_first_process,
    run_in_agreement,
    run_on_first_process,
)
from resnet_flax.text import print_line
from resnet_flax.training.batch import MIXED_ACCURACY
from resnet_flax.training.finite import check_finite, check_row, not_finite
from resnet_flax.training.initial import find_initial_weights, first_checkpoint
from resnet_flax.training.leakage import leakage_notes
from resnet_flax.training.progress import Progress
from resnet_flax.training.run import Run
from resnet_flax.training.signals import StopRequest
from resnet_flax.training.step import Totals, TrainState
from resnet_flax.training.trackers import Tracker, Tracking
from resnet_flax.workdir.checkpoints import Checkpoint, Checkpoints
from resnet_flax.workdir.code import code_version
from resnet_flax.workdir.folder import check_config, has_begun, lock_workdir, remove_leftovers
from resnet_flax.workdir.history import EpochRow, best_row, improvement
from resnet_flax.workdir.identity import check_same_run
from resnet_flax.workdir.predictions import Predictions, SplitPredictions
from resnet_flax.workdir.results import read_results, remove_results, write_results

IN_FLIGHT = 4  # most dispatches ahead of the one waited for: devices stay busy, yet a signal is answered soon
DISPATCH_SECONDS = 0.1  # how long a dispatch of many steps should take
CPU_DISPATCH_SECONDS = 1.0  # where a step may take seconds; none is sent ahead, as each needs memory of its own


def train(config: FrozenConfigDict, workdir: Path, trackers: Sequence[Tracker] = ()) -> dict:
    """Train `config` in `workdir`, resuming from the newest checkpoint if there is one, and return the results.

    The test split, if the config has one, is evaluated once, at the end, with the state that was best on validation
    (the last one if nothing is held out). `trackers` follow the run, but cannot make it fail. Raises Interrupted after
    a signal, NotFinite for a diverged run, OutOfMemory with a smaller batch size to try.
    """
    with jax.enable_x64(False), ExitStack() as locks:
        run = run_in_agreement(lambda: Run(config), Run.description)
        if results := run_on_first_process(lambda: open_workdir(locks, workdir, run)):
            return results
        locks.enter_context(explain_out_of_memory(config.train.batch_size))
        with Tracking(workdir, run.identity["config"], trackers) as tracking:
            tracking.results = train_to_end(run, workdir, tracking)
        return tracking.results


@contextmanager
def explain_out_of_memory(batch_size: int) -> Iterator[None]:
    """Raise OutOfMemory, which names a smaller batch size, if Python or XLA runs out of memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        smaller = smaller_batch_size(batch_size)
        advice = f"try {smaller}" if smaller else "it cannot be smaller, so try a smaller network, or another device"
        raise OutOfMemory(f"there is not enough memory for config.train.batch_size {batch_size}: {advice}") from error


def open_workdir(locks: ExitStack, workdir: Path, run: Run) -> dict:
    """Lock `workdir` for `run` and return results that it already holds, or {}; UserError if it holds another run."""
    locks.enter_context(lock_workdir(workdir))
    extends = check_same_run(workdir, run.identity)
    if run.config.train.init_from and not has_begun(workdir):
        find_initial_weights(run.config.train.init_from)  # a mistake is reported before anything is written or compiled
    extends |= check_config(workdir, run.config)
    remove_leftovers(workdir)
    if extends:
        remove_results(workdir)
    results = read_results(workdir)
    if results:
        print_line(f"{workdir} is finished: {workdir / 'report' / 'results.json'}")
    return results


def train_to_end(run: Run, workdir: Path, tracking: Tracking) -> dict:
    """Train from the newest checkpoint, if there is one, evaluate, and return the results."""
    accuracy = f"; training accuracy is on {MIXED_ACCURACY}" if Mixing.of(run.config.train).on else ""
    print_line(
        f"{run.config.model.name}: {run.parameters:,} parameters, {len(run.data.train):,} training examples, "
        f"{run.stream.steps_per_epoch:,} steps an epoch, on {device_name()}{accuracy}"
    )
    held_out = [role for role in ("validation", "test") if run.config.data[role]]
    for note in (*without_effect(run.config), *leakage_notes(run.config, held_out)):
        print_line(f"note: {note}")
    with StopRequest() as stop, Checkpoints(workdir / "checkpoints") as checkpoints:
        template = {"state": run.fresh_state(), "totals": run.parallel.replicate(Totals.zero())}
        start = checkpoints.restore_newest(template) or first_checkpoint(run, template)
        if start.run and not start.step:  # so that the weights that the run starts from are not read again
            checkpoints.save(start)
            checkpoints.wait()
        if start.step:
            finished = f"{len(start.history)} of {run.config.train.epochs} epochs finished"
            print_line(f"resuming at step {start.step:,} ({finished})")
        elif (workdir / "metrics.csv").exists() and not start.run:
            print_line("the run ended before its first checkpoint was saved: starting again")
        loop = Loop(run, tracking, start, checkpoints, stop)
        loop.fit()
        if start.history and start.run.get("config") != run.identity["config"]:
            loop.save()  # without another epoch, if it was extended after it had stopped early
        checkpoints.wait()  # if the last one cannot be written, this says why
        chosen = best_row(loop.history, run.config.train.monitor) or loop.history[-1]
        if len(loop.history) < run.config.train.epochs:
            print_line(
                f"stopped early after epoch {len(loop.history)}: no improvement in {run.config.train.monitor} for "
                f"{run.config.train.patience} epochs; epoch {chosen['epoch']} is restored"
            )
        evaluated, scores = evaluate_chosen(loop, chosen, template)
        if stop.agree():  # everything but this evaluation is saved
            raise reported_by_first_process(Interrupted(stop.signum))
    results = scores | run_results(loop, chosen)
    run_on_first_process(lambda: write_results(results, evaluated, workdir))
    print_line(conclusion(evaluated, int(chosen["epoch"])))
    return results


class Proposal(NamedTuple):
    """A process's proposal for what follows a dispatch; all processes follow the largest value of each field."""

    signum: int  # the signal that asks to stop, 0 for none
    steps: int  # of the next dispatch
    show_progress: bool


class Loop:
    """The training loop: its state, and the `history` of the epochs that are finished."""

    def __init__(self, run: Run, tracking: Tracking, start: Checkpoint, checkpoints: Checkpoints, stop: StopRequest):
        self.run, self.workdir, self.checkpoints, self.stop = run, tracking.workdir, checkpoints, stop
        self.config: ConfigDict = run.config.train
        self.steps_per_epoch = run.stream.steps_per_epoch
        self.state: TrainState = start.tree["state"]
        self.totals: Totals = start.tree["totals"]
        self.history = self.saved_history = start.history
        self.init: dict[str, str] = start.run.get("init", {})  # the weights that the run started from
        self.started = time.monotonic() - start.run.get("seconds", 0.0)
        self.speeds: list[float] = []  # images per second of each epoch trained by this process
        self.advance = run.advance(start.step)
        self.compiled = False  # by the first dispatch, whose time says nothing about the speed
        self.progress = Progress(tracking, self.config.epochs, self.steps_per_epoch, self.config.batch_size)
        self.heap = Heap()
        run_on_first_process(partial(self.progress.start, self.history))

    def fit(self) -> None:
        """Train to the last epoch, or until validation no longer improves."""
        with self.progress:
            while not self.finished():
                epoch = len(self.history)
                self.train_epoch(epoch)
                self.stop_if_requested()
                speed = self.progress.images_per_second(self.steps_per_epoch)
                row = training_row(self.run, epoch, self.totals) | self.validation_row(epoch)
                self.stop_if_requested()
                check_row(self.run, self.workdir, row)
                self.history = [*self.history, row]
                if self.finished() or self.is_best(row) or len(self.history) % self.config.checkpoint_every == 0:
                    self.save()
                run_on_first_process(partial(self.progress.end_epoch, self.history, speed))
                return_free_memory()
                if not math.isnan(speed):  # NaN if no dispatch of this epoch was timed
                    self.speeds.append(speed)

    def train_epoch(self, epoch: int) -> None:
        """Train from where `state` is to the end of `epoch` (from 0), or until a stop is requested.

        On an accelerator, several dispatches are in flight at a time. Clocks and signals differ between processes,
        which must all do the same, so each dispatch carries a proposal, and what is agreed is known when it is done.
        """
        on_cpu = jax.default_backend() == "cpu"
        seconds = CPU_DISPATCH_SECONDS if on_cpu else DISPATCH_SECONDS
        first_step = epoch * self.steps_per_epoch
        sent = int(self.state.step) - first_step
        steps = wanted_steps = 1
        in_flight: deque[tuple[int, Totals, Callable[[], Proposal]]] = deque()
        self.progress.start_epoch(epoch)
        if self.compiled:
            self.progress.start_clock(sent)
        while sent < self.steps_per_epoch and not self.stop.requested():
            if sent == 0:  # here, so that state and sums at a step are the same however often the run stops there
                self.totals = self.run.parallel.replicate(Totals.zero())
            self.state, self.totals, taken = self.advance(self.state, self.totals, steps)
            self.stop.save_before_stopping()  # from here on: the first dispatch compiles, perhaps for a minute
            sent += taken
            if not self.compiled:
                jax.block_until_ready(self.totals)
                self.compiled = True
                self.progress.start_clock(sent)
            proposal = Proposal(self.stop.noted, wanted_steps, self.progress.due())
            in_flight.append((sent, self.totals, max_over_processes(proposal)))
            # Fewer if one takes longer than it should. All processes wait for the same ones, as they agree on `steps`.
            most_in_flight = 0 if on_cpu else max(1, min(IN_FLIGHT, IN_FLIGHT * steps // taken))
            while len(in_flight) > most_in_flight:
                done, totals, agreement = in_flight.popleft()
                jax.block_until_ready(totals)
                if on_cpu:
                    self.heap.trim_if_grown()
                signum, steps, show_progress = agreement()
                self.stop.signum = self.stop.signum or signum
                if show_progress:
                    check_finite(self.run, self.workdir, totals)
                if not self.progress.timed(done):
                    continue
                wanted_steps = max(1, int(self.progress.steps_per_second(done) * seconds))
                if self.progress.due():
                    self.progress.show(done, totals, float(self.run.learning_rate(first_step + done - 1)))
        jax.block_until_ready(self.totals)

    def validation_row(self, epoch: int) -> EpochRow:
        """Return the validation columns, also those of unaveraged weights if there are any; {} without validation."""
        if not self.run.data.validation:
            return {}
        evaluate = partial(self.evaluate, "validation", f"epoch {epoch + 1}/{self.config.epochs} validation")
        found = evaluate(self.state.variables)
        row: EpochRow = {"val_loss": found.loss, "val_accuracy": found.accuracy}
        if self.state.average:
            unaveraged = evaluate(self.state.unaveraged)
            row |= {"unaveraged_val_loss": unaveraged.loss, "unaveraged_val_accuracy": unaveraged.accuracy}
        return row

    def evaluate(self, role: str, title: str, variables: Variables) -> Predictions:
        """Return the predictions for a split, fewer if a stop is requested, and show `title` meanwhile."""
        split: Split = getattr(self.run.data, role)
        with self.progress.evaluation(title, len(split)) as show:

            def after_batch(done: int) -> bool:
                show(done)
                return self.stop.requested()

            return self.run.classifier.evaluate(variables, split, after_batch)

    def finished(self) -> bool:
        return len(self.history) >= self.config.epochs or out_of_patience(self.history, self.config)

    def is_best(self, row: EpochRow) -> bool:
        return row is best_row(self.history, self.config.monitor)

    def seconds(self) -> float:
        """Return how long the run has taken so far, over all its parts, including evaluation and saving."""
        return round(time.monotonic() - self.started, 1)

    def save(self) -> None:
        """Save a checkpoint; raise NotFinite instead if something in it is not finite."""
        self.stop.save_before_stopping()
        check_finite(self.run, self.workdir, self.totals, self.state)
        # The best as of the checkpoint before, too: if this one is damaged, the run resumes from that.
        best = [best_row(history, self.config.monitor) for history in (self.history, self.saved_history)]
        tree = {"state": self.state, "totals": self.totals}
        description = self.run.identity | {"seconds": self.seconds(), **({"init": self.init} if self.init else {})}
        checkpoint = Checkpoint(int(self.state.step), tree, self.history, description)
        self.checkpoints.save(checkpoint, [int(row["step"]) for row in best if row])
        self.saved_history = self.history

    def stop_if_requested(self) -> None:
        """Save and raise Interrupted if any process has been asked to stop."""
        check_finite(self.run, self.workdir, self.totals)
        if self.stop.agree():
            self.save()
            self.checkpoints.wait()
            raise reported_by_first_process(Interrupted(self.stop.signum))


def training_row(run: Run, epoch: int, totals: Totals) -> EpochRow:
    """Return the training columns of `epoch` (from 0), whose sums are `totals`."""
    last = (epoch + 1) * run.stream.steps_per_epoch
    loss, accuracy = totals.means()
    return {
        "epoch": epoch + 1,
        "step": last,
        "learning_rate": float(run.learning_rate(last - 1)),
        "momentum": float(run.momentum(last - 1)),
        "train_loss": loss,
        "train_accuracy": accuracy,
    }


def out_of_patience(history: list[EpochRow], train: ConfigDict) -> bool:
    """Return whether the last `train.patience` epochs improve on those before by no more than `min_delta`."""
    if not train.patience or len(history) <= train.patience:
        return False
    before, after = history[: -train.patience], history[-train.patience :]
    old, new = (best_row(rows, train.monitor) for rows in (before, after))
    assert old and new  # patience is refused without validation
    return improvement(train.monitor, old, new) <= train.min_delta


def evaluate_chosen(loop: Loop, chosen: EpochRow, template: dict) -> tuple[SplitPredictions | None, dict]:
    """Evaluate the state after the epoch `chosen` on the test split or, without one, on the validation split.

    Returns the predictions, None without either split, and the scores on the test split, {} without one.
    """
    state = chosen_state(loop.checkpoints, chosen, template)
    role = "test" if loop.run.data.test else "validation" if loop.run.data.validation else ""
    if not role:
        return None, {}
    found = loop.evaluate(role, role, state.variables)
    if not math.isfinite(found.loss):
        raise not_finite(loop.run, loop.workdir, int(chosen["step"]) - 1, f"the {role} loss")
    evaluated = SplitPredictions(found, role, loop.run.config.data[role], int(chosen["step"]))
    if role == "validation":
        return evaluated, {}
    scores = {"test_accuracy": found.accuracy, "test_loss": found.loss, "test_examples": len(found)}
    if state.average:
        unaveraged = loop.evaluate(role, role, state.unaveraged)
        scores |= {"unaveraged_test_accuracy": unaveraged.accuracy, "unaveraged_test_loss": unaveraged.loss}
    return evaluated, scores


def chosen_state(checkpoints: Checkpoints, chosen: EpochRow, template: dict) -> TrainState:
    """Return the state after the epoch `chosen`; UserError if its checkpoint is missing or damaged."""
    try:
        name = f"checkpoint {chosen['step']} of the chosen epoch {chosen['epoch']}"
        return checkpoints.restore(int(chosen["step"]), template, name).tree["state"]
    except (FileNotFoundError, Damaged) as problem:
        advice = "restore a copy, or start again in another --workdir; evaluate --checkpoint=newest scores the newest"
        raise reported_by_first_process(UserError(f"{problem}: {advice}")) from problem


def run_results(loop: Loop, chosen: EpochRow) -> dict:
    """Return the results of a finished run except those on the test split; train_* and val_* are of `chosen`."""
    last = loop.history[-1]
    return {
        "chosen_epoch": chosen["epoch"],
        **{name: value for name, value in chosen.items() if name.startswith(("train_", "val_"))},
        "epochs": len(loop.history),
        **{f"last_{name}": value for name, value in last.items() if name.startswith("train_")},
        **({"train_accuracy_of": MIXED_ACCURACY} if Mixing.of(loop.config).on else {}),
        "seed": loop.run.config.seed,
        "parameters": loop.run.parameters,
        **({"init": loop.init} if loop.init else {}),
        "train_examples": len(loop.run.data.train),
        "training_seconds": loop.seconds(),
        "images_per_second": round(statistics.median(loop.speeds), 1) if loop.speeds else None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device_name(),
        "code": code_version(),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def conclusion(evaluated: SplitPredictions | None, epoch: int) -> str:
    """Return the last line that a run prints; its weights are those of `epoch`."""
    if evaluated is None:
        return f"epoch {epoch}: nothing to evaluate on: config.data.validation and config.data.test are empty"
    found = evaluated.predictions
    without_test = "" if evaluated.role == "test" else "; no test: config.data.test is empty"
    accuracy = f"{evaluated.role} accuracy {found.accuracy:.2%}, loss {found.loss:.4f}"
    return f"{accuracy} ({len(found):,} examples, epoch {epoch}){without_test}"
