"""Progress of a run: the bar on a terminal, a line per epoch, metrics.csv and the trackers."""

import contextlib
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

from resnet_flax.parallel.processes import is_first_process
from resnet_flax.text import erase_line, print_line
from resnet_flax.training.step import Totals
from resnet_flax.training.trackers import Tracking
from resnet_flax.workdir.history import EpochRow, write_history
from resnet_flax.workdir.live import remove_failure, remove_progress, write_progress

drawing = contextlib.suppress(OSError)  # the terminal may be gone; the run learns that from a signal
SHOW_SECONDS = 0.25  # between two looks at the totals; a look takes longer than a fast step
SAVE_SECONDS = 3  # between two writes of progress.json, which wait for the disk


def duration(seconds: float) -> str:
    """Return `seconds` as text: 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def epoch_line(row: EpochRow, epochs: int, images_per_second: float) -> str:
    """Return one epoch as a line of text: loss and accuracy, on the training and the validation split."""
    line = f"epoch {row['epoch']:{len(str(epochs))}}/{epochs}  loss {row['train_loss']:.4f} {row['train_accuracy']:.2%}"
    if "val_loss" in row:
        line += f"  val {row['val_loss']:.4f} {row['val_accuracy']:.2%}"
    line += f"  lr {row['learning_rate']:.3g}"
    return line if math.isnan(images_per_second) else line + f"  {images_per_second:,.0f} img/s"


class Progress:
    """Show and record a run. On a terminal a bar moves within the epoch; elsewhere each epoch is exactly one line."""

    def __init__(self, tracking: Tracking, epochs: int, steps_per_epoch: int, batch_size: int):
        self.tracking, self.workdir = tracking, tracking.workdir
        self.epochs, self.steps, self.batch_size = epochs, steps_per_epoch, batch_size
        self.live = sys.stdout.isatty()
        self.bar = tqdm(disable=True)
        self.saved = -math.inf

    def start(self, history: list[EpochRow]) -> None:
        """Write metrics.csv with the finished epochs and start tracking; only for the first of several processes."""
        write_history(history, self.workdir / "metrics.csv")
        remove_progress(self.workdir)
        remove_failure(self.workdir)  # of an earlier attempt
        self.tracking.start(history)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close_bar()
        if is_first_process():
            remove_progress(self.workdir)

    def start_epoch(self, epoch: int) -> None:
        """Begin `epoch` (from 0); the clock runs only from start_clock on."""
        self.epoch, self.first_step = epoch, self.steps

    def start_clock(self, step: int) -> None:
        """Measure the speed from now on, when the first `step` steps of the epoch are done, and show the bar."""
        self.first_step, self.started, self.shown = step, time.perf_counter(), -math.inf
        self.open_bar(f"epoch {self.epoch + 1}/{self.epochs}", self.steps, step)

    def timed(self, step: int) -> bool:
        """Return whether any of the first `step` steps of the epoch has been timed."""
        return step > self.first_step

    def steps_per_second(self, step: int) -> float:
        """Return the speed up to now, when the first `step` steps of the epoch are done; NaN if none is timed."""
        return (step - self.first_step) / (time.perf_counter() - self.started) if self.timed(step) else math.nan

    def images_per_second(self, step: int) -> float:
        """Return the speed up to now, when the first `step` steps of the epoch are done; NaN if none is timed."""
        return self.steps_per_second(step) * self.batch_size

    def due(self) -> bool:
        """Return whether it is time to look at the totals."""
        return time.perf_counter() - self.shown > SHOW_SECONDS

    def show(self, step: int, totals: Totals, learning_rate: float) -> None:
        """Move the bar: the first `step` steps of the epoch are done and sum up to `totals`."""
        self.shown = time.perf_counter()
        loss, accuracy = totals.means()
        rate = self.images_per_second(step)
        left = duration(self.seconds_left(step, rate))
        with drawing:
            self.bar.n = step
            self.bar.set_postfix_str(
                f"loss {loss:.4f} acc {accuracy:.2%} lr {learning_rate:.3g} {rate:,.0f} img/s {left} left"
            )
        if self.shown > self.started + SHOW_SECONDS:  # the rate of fewer steps says little
            self.save(step, rate, loss, accuracy, learning_rate)

    def seconds_left(self, step: int, rate: float) -> float:
        """Return how long training takes after the first `step` steps of the epoch, at `rate` images per second."""
        return ((self.epochs - self.epoch) * self.steps - step) * self.batch_size / rate

    def save(self, step: int, rate: float, loss: float, accuracy: float, learning_rate: float) -> None:
        """Write progress.json, for those who watch, unless it was written a moment ago."""
        now = time.perf_counter()
        if is_first_process() and now > self.saved + SAVE_SECONDS:
            self.saved = now
            progress = {
                "epoch": self.epoch + 1,
                "step": step,
                "steps": self.steps,
                "loss": loss,
                "accuracy": accuracy,
                "learning_rate": learning_rate,
                "images_per_second": rate,
                "seconds_left": self.seconds_left(step, rate),
            }
            write_progress(self.workdir, progress)

    @contextlib.contextmanager
    def evaluation(self, title: str, count: int) -> Iterator[Callable[[int], None]]:
        """Show a bar while `count` images are evaluated; yields a function that moves it to a number of images."""

        def show(done: int) -> None:
            with drawing:
                self.bar.update(done - self.bar.n)

        self.open_bar(title, count)
        try:
            yield show
        finally:
            self.close_bar()

    def end_epoch(self, history: list[EpochRow], speed: float) -> None:
        """Record the last row of `history` everywhere; only for the first of several processes."""
        row = history[-1]
        print_line(epoch_line(row, self.epochs, speed))
        write_history(history, self.workdir / "metrics.csv")
        if math.isnan(speed):
            return self.tracking.epoch(row)
        self.tracking.epoch(row | {"images_per_second": speed})
        self.save(self.steps, speed, row["train_loss"], row["train_accuracy"], row["learning_rate"])

    def open_bar(self, title: str, total: int, first: int = 0) -> None:
        """Show a bar on the last line of the terminal, in place of the previous one."""
        self.close_bar()
        columns = shutil.get_terminal_size().columns - len(" ^C")  # which the terminal echoes after the bar
        with drawing:
            self.bar = tqdm(
                total=total,
                initial=first,
                desc=title,
                file=sys.stdout,
                disable=not self.live,
                leave=False,
                ncols=columns,
                bar_format="{desc} {bar} {n}/{total}{postfix}",
            )

    def close_bar(self) -> None:
        """Clear the bar's line."""
        with drawing:
            if not self.bar.disable:
                self.bar.close()
                erase_line(sys.stdout)
