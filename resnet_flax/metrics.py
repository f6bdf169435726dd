"""What a run says while it runs: the progress bar, a line an epoch, metrics.csv and TensorBoard."""

import csv
import os
import sys
import time
from pathlib import Path

from tensorboardX import SummaryWriter
from tqdm import tqdm

from resnet_flax.checkpoint import Row
from resnet_flax.steps import Totals

# Only what follows from the config and the seed, so that an interrupted run leaves the same file.
COLUMNS = (
    "epoch",
    "step",
    "learning_rate",
    "momentum",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
)


def write_csv(history: list[Row], path: Path) -> None:
    """All finished epochs as a table, replaced as a whole so that it is never half written."""
    unfinished = path.with_suffix(".tmp")
    with open(unfinished, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(history)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def duration(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def epoch_line(row: Row, epochs: int, images_per_second: float, seconds_left: float) -> str:
    """One epoch in one line of text."""
    line = (
        f"epoch {row['epoch']:{len(str(epochs))}}/{epochs}  "
        f"train loss {row['train_loss']:.4f} acc {row['train_accuracy']:.2%}  "
    )
    if "val_loss" in row:
        line += f"val loss {row['val_loss']:.4f} acc {row['val_accuracy']:.2%}  "
    return line + f"lr {row['learning_rate']:.3g}  {images_per_second:,.0f} img/s  {duration(seconds_left)} left"


class Monitor:
    """Shows and records a run. On a terminal a bar moves within the epoch; elsewhere each epoch is exactly one line."""

    def __init__(self, workdir: Path, epochs: int, steps_per_epoch: int, batch_size: int, history: list[Row]):
        self.workdir, self.epochs, self.steps, self.batch_size = workdir, epochs, steps_per_epoch, batch_size
        self.live = sys.stdout.isatty()
        # Events of steps after the restored one are taken back.
        self.writer = SummaryWriter(str(workdir), purge_step=int(history[-1]["step"]) + 1 if history else 0)
        write_csv(history, workdir / "metrics.csv")

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *exception: object) -> None:
        self.writer.close()

    def start_epoch(self, epoch: int, first_step: int) -> None:
        """`epoch` counts from 0; `first_step` is where in it the run goes on."""
        self.first_step, self.started, self.shown = first_step, time.perf_counter(), 0.0
        self.bar = tqdm(
            total=self.steps,
            initial=first_step,
            desc=f"epoch {epoch + 1}/{self.epochs}",
            file=sys.stdout,
            disable=not self.live,
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc} {bar} {n}/{total}{postfix}",
        )

    def rate(self, step: int) -> float:
        """Images a second since the epoch was started or resumed, up to step `step` of it."""
        return (step - self.first_step) * self.batch_size / max(time.perf_counter() - self.started, 1e-9)

    def seconds_left(self, epoch: int, step: int) -> float:
        """Until the end of training, at the present rate."""
        steps = (self.epochs - epoch) * self.steps - step
        return steps * self.batch_size / max(self.rate(step), 1e-9)

    def due(self) -> bool:
        """Whether the bar wants new numbers; reading them waits for the device, so only now and then."""
        return self.live and time.perf_counter() - self.shown > 0.25

    def show(self, epoch: int, step: int, totals: Totals, learning_rate: float) -> None:
        """Move the bar to step `step` of the epoch; `totals` may be a step or two behind."""
        loss, accuracy = totals.means()
        self.shown = time.perf_counter()
        self.bar.n = step
        self.bar.set_postfix_str(
            f"loss {loss:.4f} acc {accuracy:.2%} lr {learning_rate:.3g} "
            f"{self.rate(step):,.0f} img/s {duration(self.seconds_left(epoch, step))} left",
        )

    def end_epoch(self, history: list[Row], images_per_second: float) -> None:
        """Record the last row of `history` everywhere."""
        row = history[-1]
        self.bar.close()
        left = (self.epochs - row["epoch"]) * self.steps * self.batch_size / images_per_second
        print(epoch_line(row, self.epochs, images_per_second, left), flush=True)
        write_csv(history, self.workdir / "metrics.csv")
        for name, value in row.items():
            if name not in ("epoch", "step"):
                self.writer.add_scalar(name, value, int(row["step"]))
        self.writer.add_scalar("images_per_second", images_per_second, int(row["step"]))
        self.writer.flush()
