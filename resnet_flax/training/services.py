"""Trackers for services, W&B and MLflow, imported and run in a process of their own: see trackers.Service."""

import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from resnet_flax.config.defaults import flatten
from resnet_flax.errors import reason
from resnet_flax.files import atomic_write, read_json
from resnet_flax.text import print_line
from resnet_flax.training.trackers import Tracker
from resnet_flax.workdir.history import EpochRow

PROJECT = "resnet_flax"  # what runs are grouped under, unless the environment names something else
MLFLOW_PARAMETERS = 100  # in one call
MLFLOW_PARAMETER_CHARS = 500
MLFLOW_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class Remote:
    """A run at a service. NAME.json in the workdir holds its `id` and number of epochs, so that it can be resumed."""

    name = ""

    def start(self, workdir: Path, config: dict, history: list[EpochRow]) -> None:
        self.file = workdir / f"{self.name}.json"
        self.id, self.epochs = read_record(self.file)
        self.open(workdir, config)
        for row in history:
            self.add(row)
        self.save()

    def epoch(self, row: EpochRow) -> None:
        self.add(row)
        self.save()

    def add(self, row: EpochRow) -> None:
        """Log an epoch unless it is logged already: a killed run repeats the epochs since its last checkpoint."""
        if row["epoch"] > self.epochs:
            self.log(int(row["epoch"]), {name: value for name, value in row.items() if name != "epoch"})
            self.epochs = int(row["epoch"])

    def save(self) -> None:
        with atomic_write(self.file) as file:
            json.dump({"id": self.id, "epochs": self.epochs}, file)

    def open(self, workdir: Path, config: dict) -> None:
        """Open the run with `id` or, if that is "", a new one, and set its `id`."""
        raise NotImplementedError

    def log(self, epoch: int, metrics: dict[str, float]) -> None:
        raise NotImplementedError

    def end(self, results: dict, outcome: str) -> None:
        raise NotImplementedError


def read_record(file: Path) -> tuple[str, int]:
    """Return the id and the number of epochs in the file of a tracked run, ("", 0) if that is missing or damaged."""
    try:
        record = read_json(file)
        return str(record["id"]), int(record["epochs"])
    except (OSError, ValueError, TypeError, KeyError):
        return "", 0


def named_results(results: dict) -> dict[str, Any]:
    """Return results with "results/" before their names, as epochs also have a train_loss and so on."""
    return {f"results/{name}": value for name, value in results.items() if value is not None}


class Wandb(Remote):
    """A run of W&B, whose own environment variables apply, such as WANDB_MODE=offline and WANDB_PROJECT."""

    name = "wandb"

    def open(self, workdir: Path, config: dict) -> None:
        import wandb

        self.id = self.id or secrets.token_hex(4)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", str(workdir)),
            dir=os.environ.get("WANDB_DIR", str(workdir)),
            id=self.id,
            resume="allow",
            config=config,
            settings=wandb.Settings(console="off"),
        )

    def log(self, epoch: int, metrics: dict[str, float]) -> None:
        self.run.log(metrics, step=epoch)

    def end(self, results: dict, outcome: str) -> None:
        self.run.summary.update(named_results(results))
        self.run.finish(exit_code=0 if outcome == "finished" else 1)


class Mlflow(Remote):
    """A run of MLflow, whose own environment variables apply: MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME."""

    name = "mlflow"

    def open(self, workdir: Path, config: dict) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self.client = MlflowClient()
        if self.id:
            self.client.update_run(self.id, "RUNNING")
            return
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(title)
        experiment = found.experiment_id if found else self.client.create_experiment(title)
        self.id = self.client.create_run(experiment, run_name=str(workdir)).info.run_id
        parameters = [Param(name, str(value)[:MLFLOW_PARAMETER_CHARS]) for name, value in flatten(config).items()]
        for first in range(0, len(parameters), MLFLOW_PARAMETERS):
            self.client.log_batch(self.id, params=parameters[first : first + MLFLOW_PARAMETERS])

    def log(self, epoch: int, metrics: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = round(1000 * time.time())
        self.client.log_batch(self.id, [Metric(name, value, now, epoch) for name, value in metrics.items()])

    def end(self, results: dict, outcome: str) -> None:
        for name, value in named_results(results).items():
            if isinstance(value, int | float):
                self.client.log_metric(self.id, name, value)
            else:
                self.client.set_tag(self.id, name, value)
        self.client.set_terminated(self.id, MLFLOW_STATUS[outcome])


def follow(tracker: Tracker, lines: Iterable[str]) -> None:
    """Call a tracker as `lines` say, each a method and its arguments in JSON; if they end too early, the run failed."""
    for line in lines:
        method, *arguments = json.loads(line)
        if method == "start":
            tracker.start(Path(arguments[0]), *arguments[1:])
        elif method == "epoch":
            tracker.epoch(*arguments)
        else:
            tracker.end(*arguments)
            return
    tracker.end({}, "failed")


def main(name: str) -> int:
    """Follow the run that writes to stdin and return the exit code; the last line printed gives a failure's reason."""
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # the process ends when the run does
        signal.signal(signum, signal.SIG_IGN)
    try:
        follow({"wandb": Wandb, "mlflow": Mlflow}[name](), sys.stdin)
    except BaseException as error:
        print_line(reason(error), sys.stderr)
        os._exit(1)  # at exit, libraries wait until everything is sent, which may be never
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
