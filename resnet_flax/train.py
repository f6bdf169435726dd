"""Training, from a config to the results of a run."""

import math
import platform
import statistics
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from resnet_flax import config as configs
from resnet_flax import loop, models
from resnet_flax.checkpoint import Checkpoint, Checkpoints, Row, best_row
from resnet_flax.classifier import ON_DEVICE_BYTES, Classifier
from resnet_flax.data import sources
from resnet_flax.data.augment import Policy
from resnet_flax.data.batches import Stream
from resnet_flax.errors import Interrupted, NotFinite, UserError, reason
from resnet_flax.metrics import Monitor
from resnet_flax.optim import optimizers, schedules
from resnet_flax.parallel import PARALLEL, Parallel, check_batch_size
from resnet_flax.predictions import Predictions
from resnet_flax.processes import from_first, largest, told_once
from resnet_flax.results import Answers, is_drawn, keep, read_results
from resnet_flax.steps import Totals, TrainState, init_state, train_step
from resnet_flax.stopping import StopRequest
from resnet_flax.text import say
from resnet_flax.workdir import claim, hold

IN_FLIGHT = 4  # dispatches ahead of the one waited for: a device stays busy, and a signal is answered soon
DISPATCH_SECONDS = 0.1  # what a dispatch of many steps is to take
# On a CPU, where a step may take seconds and every dispatch has to find its memory anew.
CPU_IN_FLIGHT, CPU_DISPATCH_SECONDS = 1, 0.5


@dataclass
class Run:
    """What a config stands for: data, network and compiled steps."""

    config: configs.FrozenConfigDict
    data: sources.Dataset
    stream: Stream
    parallel: Parallel
    model: models.ResNet
    classifier: Classifier
    optimizer: object
    learning_rate: schedules.Schedule
    momentum: schedules.Schedule
    parameters: int

    @classmethod
    def from_config(cls, config: configs.FrozenConfigDict) -> "Run":
        """Everything that can be refused is refused here, before anything is compiled."""
        train = config.train
        check_batch_size(train.batch_size)
        config = configs.settle(config)
        data = sources.load(config.data)
        policy = Policy(config.data.policy)
        stream = Stream(data.train, policy, train.batch_size, config.seed, config.data.concat_original)
        if stream.steps_per_epoch == 0:
            raise UserError(f"config.train.batch_size {train.batch_size} is more than an epoch's {stream.epoch_size}")
        parallel = PARALLEL[config.parallel]()
        span = schedules.Span(train.epochs, stream.steps_per_epoch, config.schedule.per)
        learning_rate, momentum = schedules.learning_rate(config, span), schedules.momentum(config, span)
        optimizer = optimizers.build(config.optimizer, learning_rate, momentum)
        model = models.build(config.model, len(config.data.classes), parallel.axis_name)
        parameters = models.count_within_budget(model, config.model, data.train.images.shape[1:])
        classifier = Classifier(config)
        return cls(config, data, stream, parallel, model, classifier, optimizer, learning_rate, momentum, parameters)

    def fresh_state(self) -> TrainState:
        """The state before the first step, on all devices. Optimising this program costs more than it saves."""
        image_shape, averaged = self.data.train.images.shape[1:], self.config.train.ema_decay > 0
        init = partial(init_state, self.model, self.optimizer, self.config.seed, image_shape, averaged)
        quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
        return self.parallel.replicate(jax.jit(init, compiler_options=quick)(statistics=self.statistics()))

    def statistics(self) -> dict:
        """What the network takes from the training images before it trains, see models.statistics."""
        return models.statistics(self.model, self.data.train.images, partial(self.stream.policy.plain, jnp))

    def step(self) -> loop.Step:
        """One training step of this run, (state, totals, batch) -> (state, totals), not compiled."""
        return partial(
            train_step,
            model=self.model,
            optimizer=self.optimizer,
            seed=self.config.seed,
            label_smoothing=self.config.train.label_smoothing,
            ema_decay=self.config.train.ema_decay,
            axis_name=self.parallel.axis_name,
        )

    def advance(self, first_step: int) -> loop.Advance:
        """What does the training steps from `first_step` on, compiled."""
        feed = self.config.data.feed
        if feed == "auto":
            feed = "device" if self.data.train.images.nbytes < ON_DEVICE_BYTES else "tfdata"
        start = loop.resident if feed == "device" else loop.host_fed
        return start(self.step(), self.stream, first_step, self.parallel)


def train(config: configs.FrozenConfigDict, workdir: Path) -> dict:
    """Train what `config` says in `workdir`, from its newest checkpoint if it has one, and return the results.

    The test split, if the config has one, is evaluated once, at the end, with the state that was best on validation
    (the last one where nothing is held out). Raises Interrupted after a signal, NotFinite for a diverged run.
    """
    run = Run.from_config(config)
    config = run.config
    with ExitStack() as held:
        results = from_first(lambda: enter(held, workdir, config)) or train_to_end(run, workdir)
        if not from_first(lambda: is_drawn(workdir)):
            from_first(lambda: draw(config, workdir))
    return results


def draw(config: configs.FrozenConfigDict, workdir: Path) -> None:
    from resnet_flax import report  # imports Matplotlib, for which no run needs to wait before it starts

    report.draw(config, workdir)


def enter(held: ExitStack, workdir: Path, config: configs.FrozenConfigDict) -> dict:
    """Keep `workdir` for this run, and return the results that it has come to already, or {}."""
    held.enter_context(hold(workdir))
    claim(workdir, config)
    results = read_results(workdir)
    if results:
        say(f"{workdir} is finished: {workdir / 'report' / 'results.json'}")
    return results


def train_to_end(run: Run, workdir: Path) -> dict:
    """Train, from the newest checkpoint if there is one, and evaluate; return the results."""
    config = run.config
    say(
        f"{config.model.name}: {run.parameters:,} parameters, {len(run.data.train):,} training examples, "
        f"{run.stream.steps_per_epoch:,} steps an epoch, on {jax.device_count()} x {jax.devices()[0].device_kind}"
    )
    with StopRequest() as stop, Checkpoints(workdir / "checkpoints") as checkpoints:
        tree = {"state": run.fresh_state(), "totals": run.parallel.replicate(Totals.zero())}
        start = checkpoints.restore_newest(tree) or Checkpoint(0, tree)
        if start.step:
            say(f"resuming at step {start.step:,} (epoch {len(start.history) + 1})")
        elif (workdir / "metrics.csv").exists():
            say("the run was ended before its first checkpoint was saved: it starts again")
        history, speeds = fit(run, workdir, start, checkpoints, stop)
        chosen = best_row(history, config.train.monitor) or history[-1]
        if len(history) < config.train.epochs:
            say(
                f"stopped early after epoch {len(history)}: no better {config.train.monitor} in "
                f"{config.train.patience} epochs; epoch {chosen['epoch']} is restored"
            )
        state = chosen_state(checkpoints, chosen, tree)
        role, split = ("test", run.data.test) if run.data.test else ("validation", run.data.validation)
        found = run.classifier.evaluate(state, split, stop.requested) if split else None
        unaveraged = run.data.test if state.average else None
        trained = run.classifier.evaluate(state.trained, unaveraged, stop.requested) if unaveraged else None
        stop.ask_all()
        if stop.signum:  # everything but this evaluation is saved
            raise told_once(Interrupted(stop.signum))
    say(conclusion(found, role, int(chosen["epoch"])))
    answers = Answers(found, role, config.data[role], int(chosen["step"])) if found else None
    results = {
        **(test_results(found) if found and role == "test" else {}),
        **({"unaveraged_test_accuracy": trained.accuracy, "unaveraged_test_loss": trained.loss} if trained else {}),
        "chosen_epoch": chosen["epoch"],
        **{name: value for name, value in chosen.items() if name.startswith(("train_", "val_"))},
        "epochs": len(history),
        "parameters": run.parameters,
        "images_per_second": round(statistics.median(speeds), 1) if speeds else None,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "python": platform.python_version(),
    }
    from_first(lambda: keep(results, answers, workdir))
    return results


def chosen_state(checkpoints: Checkpoints, chosen: Row, tree: dict) -> TrainState:
    """The state after the epoch `chosen`; UserError where its checkpoint is damaged: no other is the best."""
    try:
        return checkpoints.restore(int(chosen["step"]), tree).tree["state"]
    except Exception as error:  # Orbax and TensorStore raise many kinds
        raise told_once(
            UserError(
                f"checkpoint {chosen['step']}, of epoch {chosen['epoch']}, the best, is damaged: {reason(error)}. "
                "The same command with another --workdir makes it again; evaluate --checkpoint=newest scores the newest"
            )
        ) from error


def test_results(found: Predictions) -> dict:
    return {"test_accuracy": found.accuracy, "test_loss": found.loss, "test_examples": len(found)}


def conclusion(found: Predictions | None, role: str, epoch: int) -> str:
    """The last line about a run: what was `found` on the split `role` with the weights of `epoch`."""
    if found is None:
        return f"epoch {epoch}: nothing to evaluate on, config.data.validation and config.data.test are empty"
    absent = "" if role == "test" else "; no test, config.data.test is empty"
    accuracy = f"{role} accuracy {found.accuracy:.2%}, loss {found.loss:.4f}"
    return f"{accuracy} ({len(found):,} examples, epoch {epoch}){absent}"


def fit(
    run: Run, workdir: Path, start: Checkpoint, checkpoints: Checkpoints, stop: StopRequest
) -> tuple[list[Row], list[float]]:
    """Train from `start` to the end; return a row for each epoch, and the images a second of those trained here."""
    train, steps = run.config.train, run.stream.steps_per_epoch
    state, totals, history = start.tree["state"], start.tree["totals"], start.history
    advance = run.advance(start.step)
    speeds = []

    def save() -> None:
        stop.nothing_to_save = False
        refuse_nonfinite(run, totals, state)
        best = best_row(history, train.monitor)
        tree = {"state": state, "totals": totals}
        checkpoints.save(Checkpoint(int(state.step), tree, history), int(best["step"]) if best else None)

    def leave_if_asked() -> None:
        refuse_nonfinite(run, totals)
        stop.ask_all()
        if stop.signum:
            save()
            checkpoints.wait()
            raise told_once(Interrupted(stop.signum))

    with Monitor(workdir, train.epochs, steps, train.batch_size, history) as monitor:
        while len(history) < train.epochs and not out_of_patience(history, train):
            epoch = len(history)
            state, totals = train_epoch(run, advance, epoch, state, totals, monitor, stop)
            leave_if_asked()
            speed = monitor.rate(steps)
            row = training_row(run, epoch, totals) | validation_row(run, state, stop)
            leave_if_asked()
            if not all(map(math.isfinite, row.values())):
                raise told_once(not_finite(run, int(state.step) - 1, "the validation loss"))
            history = [*history, row]
            finished = len(history) == train.epochs or out_of_patience(history, train)
            if finished or row is best_row(history, train.monitor) or len(history) % train.checkpoint_every == 0:
                save()
            from_first(partial(monitor.end_epoch, history, speed))
            if not math.isnan(speed):  # nothing was left to train of an epoch resumed at its evaluation
                speeds.append(speed)
    return history, speeds


def train_epoch(
    run: Run, advance: loop.Advance, epoch: int, state: TrainState, totals: Totals, monitor: Monitor, stop: StopRequest
) -> tuple[TrainState, Totals]:
    """Train from where `state` is to the end of `epoch` (from 0), or until a stop is requested."""
    steps = run.stream.steps_per_epoch
    sent = first = int(state.step) - epoch * steps
    wanted = most = 1
    cpu = jax.default_backend() == "cpu"
    ahead, seconds = (CPU_IN_FLIGHT, CPU_DISPATCH_SECONDS) if cpu else (IN_FLIGHT, DISPATCH_SECONDS)
    monitor.start_epoch(epoch, first)
    in_flight: deque = deque()
    while sent < steps and not stop.signum:
        if sent == 0:  # and not before: a run has one state and one sum at a step, however often it stops there
            totals = run.parallel.replicate(Totals.zero())
        state, totals, taken = advance(state, totals, most)
        stop.nothing_to_save = False
        if sent == first:
            monitor.start_clock()  # compiling is over
        sent += taken
        # Clocks and signals differ between processes, which must all do the same: each acts on what any of them wants.
        in_flight.append((sent, totals, largest(stop.noted, wanted, monitor.due())))
        if len(in_flight) > ahead:
            done, sums, wishes = in_flight.popleft()
            jax.block_until_ready(sums)
            signum, most, due = np.asarray(wishes).tolist()
            stop.signum = stop.signum or signum
            wanted = max(1, int(monitor.steps_per_second(done) * seconds))
            if due:
                refuse_nonfinite(run, sums)
            if monitor.due():
                monitor.show(done, sums, float(run.learning_rate(epoch * steps + done - 1)))
    jax.block_until_ready(totals)
    return state, totals


def training_row(run: Run, epoch: int, totals: Totals) -> Row:
    """What training says about `epoch` (from 0), whose sums are `totals`."""
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


def validation_row(run: Run, state: TrainState, stop: StopRequest) -> Row:
    """What the validation split says about `state`, {} without one; of an average also about the weights averaged."""
    if not run.data.validation:
        return {}
    found = run.classifier.evaluate(state, run.data.validation, stop.requested)
    row: Row = {"val_loss": found.loss, "val_accuracy": found.accuracy}
    if state.average:
        trained = run.classifier.evaluate(state.trained, run.data.validation, stop.requested)
        row |= {"unaveraged_val_loss": trained.loss, "unaveraged_val_accuracy": trained.accuracy}
    return row


def out_of_patience(history: list[Row], train) -> bool:
    """Whether the last `train.patience` epochs brought nothing better, by more than `min_delta`, than those before."""
    if not train.patience or len(history) <= train.patience:
        return False
    before, after = history[: -train.patience], history[-train.patience :]
    old, new = (best_row(rows, train.monitor) for rows in (before, after))
    assert old and new  # patience is refused without validation
    gain = new[train.monitor] - old[train.monitor]
    return (-gain if train.monitor.endswith("loss") else gain) <= train.min_delta


def refuse_nonfinite(run: Run, totals: Totals, state: TrainState | None = None) -> None:
    """Raise NotFinite if a step so far had a loss or gradient, or left a `state`, with what is no finite number."""
    step = int(totals.nonfinite_step)
    if step >= 0:
        raise told_once(not_finite(run, step, "the loss or a gradient"))
    if state is not None and not all(np.isfinite(leaf).all() for leaf in jax.device_get(jax.tree.leaves(state))):
        raise told_once(not_finite(run, int(state.step) - 1, "a weight"))


def not_finite(run: Run, step: int, what: str) -> NotFinite:
    """What is said about a step (from 0) after which `what` is no finite number."""
    epoch, position = divmod(step, run.stream.steps_per_epoch)
    examples = run.stream.order(np, epoch).reshape(-1) % len(run.data.train)
    batch = examples[position * run.stream.batch_size :][: run.stream.batch_size]
    return NotFinite(
        f"{what} is not finite at step {step}, epoch {epoch + 1}, learning rate {float(run.learning_rate(step)):.3g}; "
        "the epochs before are kept. A lower --config.optimizer.learning_rate or a --config.optimizer.clip_norm may "
        f"help. Its batch was the training examples {', '.join(map(str, batch))}"
    )
