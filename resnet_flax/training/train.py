"""The training loop, from a config to the results of a run."""

import math
import platform
import statistics
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from resnet_flax.errors import Interrupted, NotFinite, UserError, reason
from resnet_flax.parallel.processes import max_over_processes, reported_by_first_process, run_on_first_process
from resnet_flax.text import print_line
from resnet_flax.training.progress import Progress
from resnet_flax.training.run import Run
from resnet_flax.training.signals import StopRequest
from resnet_flax.training.step import Totals, TrainState
from resnet_flax.workdir.checkpoints import Checkpoint, Checkpoints
from resnet_flax.workdir.folder import check_config, lock_workdir
from resnet_flax.workdir.history import EpochRow, best_row, improvement
from resnet_flax.workdir.predictions import Predictions, SplitPredictions
from resnet_flax.workdir.results import read_results, write_results

IN_FLIGHT = 4  # dispatches ahead of the one waited for: a device stays busy, and a signal is answered soon
DISPATCH_SECONDS = 0.1  # how long a dispatch of many steps should take
# On a CPU, where a step may take seconds and every dispatch has to find its memory anew.
CPU_IN_FLIGHT, CPU_DISPATCH_SECONDS = 1, 0.5


def train(config: FrozenConfigDict, workdir: Path) -> dict:
    """Train `config` in `workdir`, resuming from the newest checkpoint if there is one, and return the results.

    The test split, if the config has one, is evaluated once, at the end, with the state that was best on validation
    (the last one where nothing is held out). Raises Interrupted after a signal, NotFinite for a diverged run.
    """
    run = Run.from_config(config)
    with ExitStack() as locks:
        return run_on_first_process(lambda: open_workdir(locks, workdir, run.config)) or train_to_end(run, workdir)


def open_workdir(locks: ExitStack, workdir: Path, config: FrozenConfigDict) -> dict:
    """Lock `workdir` for this run, and return the results that it holds already, or {}."""
    locks.enter_context(lock_workdir(workdir))
    check_config(workdir, config)
    results = read_results(workdir)
    if results:
        print_line(f"{workdir} is finished: {workdir / 'report' / 'results.json'}")
    return results


def train_to_end(run: Run, workdir: Path) -> dict:
    """Train, from the newest checkpoint if there is one, evaluate, and return the results."""
    print_line(
        f"{run.config.model.name}: {run.parameters:,} parameters, {len(run.data.train):,} training examples, "
        f"{run.stream.steps_per_epoch:,} steps an epoch, on {jax.device_count()} x {jax.devices()[0].device_kind}"
    )
    with StopRequest() as stop, Checkpoints(workdir / "checkpoints") as checkpoints:
        template = {"state": run.fresh_state(), "totals": run.parallel.replicate(Totals.zero())}
        start = checkpoints.restore_newest(template) or Checkpoint(0, template)
        if start.step:
            print_line(f"resuming at step {start.step:,} (epoch {len(start.history) + 1})")
        elif (workdir / "metrics.csv").exists():
            print_line("the run ended before its first checkpoint was saved: starting again")
        loop = Loop(run, workdir, start, checkpoints, stop)
        loop.fit()
        chosen = best_row(loop.history, run.config.train.monitor) or loop.history[-1]
        if len(loop.history) < run.config.train.epochs:
            print_line(
                f"stopped early after epoch {len(loop.history)}: no better {run.config.train.monitor} in "
                f"{run.config.train.patience} epochs; epoch {chosen['epoch']} is restored"
            )
        found, results = evaluate_chosen(run, checkpoints, chosen, template, stop)
        stop.agree()
        if stop.requested():  # all but this evaluation is saved
            raise reported_by_first_process(Interrupted(stop.signum))
    results |= {
        "chosen_epoch": chosen["epoch"],
        **{name: value for name, value in chosen.items() if name.startswith(("train_", "val_"))},
        "epochs": len(loop.history),
        "parameters": run.parameters,
        "images_per_second": round(statistics.median(loop.speeds), 1) if loop.speeds else None,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "python": platform.python_version(),
    }
    print_line(conclusion(found, int(chosen["epoch"])))
    run_on_first_process(lambda: write_results(results, found, workdir))
    return results


class Proposal(NamedTuple):
    """What a process wants done after a dispatch; all do the largest of what any of them wants."""

    signum: int  # the signal that asks to stop, 0 for none
    steps: int  # how many the next dispatch should have
    show_progress: bool


class Loop:
    """The training loop: its state, and the `history` of the epochs that are finished."""

    def __init__(self, run: Run, workdir: Path, start: Checkpoint, checkpoints: Checkpoints, stop: StopRequest):
        self.run, self.checkpoints, self.stop = run, checkpoints, stop
        self.config: ConfigDict = run.config.train
        self.steps_per_epoch = run.stream.steps_per_epoch
        self.state: TrainState = start.tree["state"]
        self.totals: Totals = start.tree["totals"]
        self.history = start.history
        self.speeds: list[float] = []  # images a second of each epoch that was trained here
        self.advance = run.advance(start.step)
        self.progress = Progress(workdir, self.config.epochs, self.steps_per_epoch, self.config.batch_size)
        run_on_first_process(partial(self.progress.start, self.history))

    def fit(self) -> None:
        """Train to the last epoch, or until validation no longer improves."""
        with self.progress:
            while not self.finished():
                epoch = len(self.history)
                self.train_epoch(epoch)
                self.stop_if_requested()
                speed = self.progress.images_per_second(self.steps_per_epoch)
                row = training_row(self.run, epoch, self.totals) | validation_row(self.run, self.state, self.stop)
                self.stop_if_requested()
                check_validation(self.run, self.state, row)
                self.history = [*self.history, row]
                if self.finished() or self.is_best(row) or len(self.history) % self.config.checkpoint_every == 0:
                    self.save()
                run_on_first_process(partial(self.progress.end_epoch, self.history, speed))
                if not math.isnan(speed):  # of an epoch resumed at its evaluation nothing was trained here
                    self.speeds.append(speed)

    def train_epoch(self, epoch: int) -> None:
        """Train from where `state` is to the end of `epoch` (from 0), or until a stop is requested.

        Several dispatches are under way at a time. Clocks and signals differ between processes, which must all do the
        same, so with each dispatch goes a proposal, and what comes of it is known when the dispatch is done.
        """
        on_cpu = jax.default_backend() == "cpu"
        most_in_flight, seconds = (CPU_IN_FLIGHT, CPU_DISPATCH_SECONDS) if on_cpu else (IN_FLIGHT, DISPATCH_SECONDS)
        first_step = epoch * self.steps_per_epoch
        sent = resumed_at = int(self.state.step) - first_step
        steps = wanted_steps = 1
        in_flight: deque[tuple[int, Totals, Callable[[], Proposal]]] = deque()
        self.progress.start_epoch(epoch, resumed_at)
        while sent < self.steps_per_epoch and not self.stop.requested():
            if sent == 0:  # here, so that a run has one state and one sum at a step, however often it stops there
                self.totals = self.run.parallel.replicate(Totals.zero())
            self.stop.save_before_stopping()
            self.state, self.totals, taken = self.advance(self.state, self.totals, steps)
            if sent == resumed_at:
                self.progress.start_clock()  # the program is compiled
            sent += taken
            proposal = Proposal(self.stop.noted, wanted_steps, self.progress.due())
            in_flight.append((sent, self.totals, max_over_processes(proposal)))
            if len(in_flight) > most_in_flight:
                done, totals, agreement = in_flight.popleft()
                jax.block_until_ready(totals)
                signum, steps, show_progress = agreement()
                self.stop.signum = self.stop.signum or signum
                wanted_steps = max(1, int(self.progress.steps_per_second(done) * seconds))
                if show_progress:
                    check_finite(self.run, totals)
                if self.progress.due():
                    self.progress.show(done, totals, float(self.run.learning_rate(first_step + done - 1)))
        jax.block_until_ready(self.totals)

    def finished(self) -> bool:
        return len(self.history) >= self.config.epochs or out_of_patience(self.history, self.config)

    def is_best(self, row: EpochRow) -> bool:
        return row is best_row(self.history, self.config.monitor)

    def save(self) -> None:
        """Save a checkpoint; NotFinite, and no checkpoint, where something in it is not finite."""
        self.stop.save_before_stopping()
        check_finite(self.run, self.totals, self.state)
        best = best_row(self.history, self.config.monitor)
        tree = {"state": self.state, "totals": self.totals}
        self.checkpoints.save(Checkpoint(int(self.state.step), tree, self.history), int(best["step"]) if best else None)

    def stop_if_requested(self) -> None:
        """Save and raise Interrupted if any process has been asked to stop."""
        check_finite(self.run, self.totals)
        self.stop.agree()
        if self.stop.requested():
            self.save()
            self.checkpoints.wait()
            raise reported_by_first_process(Interrupted(self.stop.signum))


def training_row(run: Run, epoch: int, totals: Totals) -> EpochRow:
    """Return the columns about training of `epoch` (from 0), whose sums are `totals`."""
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


def validation_row(run: Run, state: TrainState, stop: StopRequest) -> EpochRow:
    """Return the columns about validation: {} without a split, and those of the averaged and unaveraged weights."""
    if not run.data.validation:
        return {}
    found = run.classifier.evaluate(state, run.data.validation, stop.requested)
    row: EpochRow = {"val_loss": found.loss, "val_accuracy": found.accuracy}
    if state.average:
        unaveraged = run.classifier.evaluate(state.trained, run.data.validation, stop.requested)
        row |= {"unaveraged_val_loss": unaveraged.loss, "unaveraged_val_accuracy": unaveraged.accuracy}
    return row


def out_of_patience(history: list[EpochRow], train: ConfigDict) -> bool:
    """Return whether the last `train.patience` epochs improved by no more than `min_delta` on those before."""
    if not train.patience or len(history) <= train.patience:
        return False
    before, after = history[: -train.patience], history[-train.patience :]
    old, new = (best_row(rows, train.monitor) for rows in (before, after))
    assert old and new  # patience is refused without validation
    return improvement(train.monitor, old, new) <= train.min_delta


def evaluate_chosen(
    run: Run, checkpoints: Checkpoints, chosen: EpochRow, template: dict, stop: StopRequest
) -> tuple[SplitPredictions | None, dict]:
    """Evaluate the state after the epoch `chosen` on the test split, or on validation where there is no test split.

    Returns the predictions, None where there is neither split, and the results on the test split, {} without one.
    """
    state = chosen_state(checkpoints, chosen, template)
    role, split = ("test", run.data.test) if run.data.test else ("validation", run.data.validation)
    if not split:
        return None, {}
    found = run.classifier.evaluate(state, split, stop.requested)
    answers = SplitPredictions(found, role, run.config.data[role], int(chosen["step"]))
    if role == "validation":
        return answers, {}
    results = {"test_accuracy": found.accuracy, "test_loss": found.loss, "test_examples": len(found)}
    if state.average:
        unaveraged = run.classifier.evaluate(state.trained, split, stop.requested)
        results |= {"unaveraged_test_accuracy": unaveraged.accuracy, "unaveraged_test_loss": unaveraged.loss}
    return answers, results


def chosen_state(checkpoints: Checkpoints, chosen: EpochRow, template: dict) -> TrainState:
    """Return the state after the epoch `chosen`; UserError where its checkpoint is damaged: no other is the best."""
    try:
        return checkpoints.restore(int(chosen["step"]), template).tree["state"]
    except Exception as error:  # Orbax and TensorStore raise many kinds
        raise reported_by_first_process(
            UserError(
                f"checkpoint {chosen['step']}, of epoch {chosen['epoch']}, the best, is damaged: {reason(error)}. "
                "The same command with another --workdir makes it again; evaluate --checkpoint=newest scores the newest"
            )
        ) from error


def conclusion(answers: SplitPredictions | None, epoch: int) -> str:
    """Return the last line about a run, whose weights are those of `epoch`."""
    if answers is None:
        return f"epoch {epoch}: nothing to evaluate on, config.data.validation and config.data.test are empty"
    found: Predictions = answers.found
    without_test = "" if answers.role == "test" else "; no test, config.data.test is empty"
    accuracy = f"{answers.role} accuracy {found.accuracy:.2%}, loss {found.loss:.4f}"
    return f"{accuracy} ({len(found):,} examples, epoch {epoch}){without_test}"


def check_finite(run: Run, totals: Totals, state: TrainState | None = None) -> None:
    """Raise NotFinite if a loss or gradient so far, or anything in `state`, is NaN or infinite."""
    step = int(totals.nonfinite_step)
    if step >= 0:
        raise reported_by_first_process(not_finite(run, step, "the loss or a gradient"))
    if state is not None and not all(np.isfinite(leaf).all() for leaf in jax.device_get(jax.tree.leaves(state))):
        raise reported_by_first_process(not_finite(run, int(state.step) - 1, "a weight"))


def check_validation(run: Run, state: TrainState, row: EpochRow) -> None:
    """Raise NotFinite if a value in an epoch's row is NaN or infinite."""
    if not all(map(math.isfinite, row.values())):
        raise reported_by_first_process(not_finite(run, int(state.step) - 1, "the validation loss"))


def not_finite(run: Run, step: int, what: str) -> NotFinite:
    """Return the error for a step (from 0) after which `what` is not finite."""
    epoch, position = divmod(step, run.stream.steps_per_epoch)
    examples = run.stream.order(np, epoch).reshape(-1) % len(run.data.train)
    batch = examples[position * run.stream.batch_size :][: run.stream.batch_size]
    return NotFinite(
        f"{what} is not finite at step {step}, epoch {epoch + 1}, learning rate {float(run.learning_rate(step)):.3g}; "
        "the epochs before are kept. A lower --config.optimizer.learning_rate or a --config.optimizer.clip_norm may "
        f"help. Its batch was the training examples {', '.join(map(str, batch))}"
    )
