"""Trackers, which follow a run from its start to its end: TensorBoard always, services such as W&B on request."""

import contextlib
import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, runtime_checkable

from resnet_flax.errors import Interrupted, UserError, lookup, reason
from resnet_flax.text import escape_line, print_line, short_repr
from resnet_flax.workdir.history import EpochRow

SERVICES = {"wandb": "W&B", "mlflow": "MLflow"}  # name of a package, and of the extra that installs it -> its title
END_SECONDS = 60  # for a service to send what is left, before it is killed


@runtime_checkable
class Tracker(Protocol):
    """An object that follows a run. Only the first of several processes calls it.

    `start` is called with the workdir, the nested dict of the config, and a row for each epoch finished earlier;
    `epoch` with the row of each further one, as in metrics.csv, and images_per_second where that was measured; `end`
    with the results of a run that is "finished", or {} if the outcome is "stopped" or "failed".
    """

    def start(self, workdir: Path, config: dict, history: list[EpochRow]) -> None: ...

    def epoch(self, row: EpochRow) -> None: ...

    def end(self, results: dict, outcome: str) -> None: ...


def find_trackers(track: "str | Tracker") -> list[Tracker]:
    """Return the trackers that names such as "wandb,mlflow" stand for, or `track` itself if it is a tracker.

    Raises UserError for an unknown name, and for a package that is not installed.
    """
    if not isinstance(track, str):
        if not isinstance(track, Tracker):
            raise UserError(
                f"track must be a name ({', '.join(SERVICES)}) or have the methods start, epoch and end, "
                f"not {short_repr(track)}"
            )
        return [track]
    names = [name.strip() for name in track.split(",")] if track else []
    for name in names:
        title, spec = lookup("tracker", name, SERVICES), importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # W&B's folder of runs has no origin
            raise UserError(f"--track={name} needs {title}: pip install -c constraints.txt -e '.[{name}]'")
    return [Service(name) for name in dict.fromkeys(names)]


class Tracking:
    """A context in which trackers follow a run. Its `results` are set once there are any."""

    def __init__(self, workdir: Path, config: dict, trackers: Sequence[Tracker]):
        self.workdir, self.config, self.trackers = workdir, config, trackers
        self.started: list[Tracker] = []
        self.results: dict = {}

    def __enter__(self) -> "Tracking":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        outcome = "finished" if error is None else "stopped" if stopped else "failed"
        for tracker in self.started:
            tracker.end(self.results, outcome)

    def start(self, history: list[EpochRow]) -> None:
        """Begin after the epochs of `history`; for the first of several processes."""
        from resnet_flax.training.tensorboard import TensorBoard  # takes an eighth of a second

        every: list[Tracker] = [*map(Guarded, self.trackers), TensorBoard()]
        for tracker in every:
            tracker.start(self.workdir, self.config, history)
            self.started.append(tracker)

    def epoch(self, row: EpochRow) -> None:
        for tracker in self.started:
            tracker.epoch(row)


class Guarded:
    """A tracker whose failure does not affect the run: it prints one line, and the tracker is not called again."""

    def __init__(self, tracker: Tracker):
        self.tracker: Tracker | None = tracker

    def start(self, workdir: Path, config: dict, history: list[EpochRow]) -> None:
        self._call("start", workdir, config, history)

    def epoch(self, row: EpochRow) -> None:
        self._call("epoch", row)

    def end(self, results: dict, outcome: str) -> None:
        self._call("end", results, outcome)

    def _call(self, method: str, *arguments: object) -> None:
        if self.tracker is None:
            return
        try:
            getattr(self.tracker, method)(*arguments)
        except Exception as error:
            name = getattr(self.tracker, "title", type(self.tracker).__name__)
            why = escape_line(reason(error), 300)
            print_line(f"warning: {name} no longer tracks this run: {why}", sys.stderr)
            self.tracker = None


class Service:
    """A tracker in a process of its own, see `services`: the run neither waits for it nor dies with it."""

    def __init__(self, name: str):
        self.title = SERVICES[name]
        self.command = [sys.executable, "-m", "resnet_flax.training.services", name]

    def start(self, workdir: Path, config: dict, history: list[EpochRow]) -> None:
        self.output = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=self.output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,  # Ctrl-C is for the run
        )
        self.calls: queue.SimpleQueue[list | None] = queue.SimpleQueue()
        self.sender = threading.Thread(target=self._send, daemon=True)
        self.sender.start()
        self.calls.put(["start", str(workdir), config, history])

    def epoch(self, row: EpochRow) -> None:
        if self.process.poll() is not None:
            self._close()
        self.calls.put(["epoch", row])

    def end(self, results: dict, outcome: str) -> None:
        """Wait at most END_SECONDS. Raises RuntimeError if the process has failed, TimeoutError if it hangs."""
        self.calls.put(["end", results, outcome])
        self.calls.put(None)
        with contextlib.suppress(subprocess.TimeoutExpired):
            try:
                self.process.wait(END_SECONDS)
            except KeyboardInterrupt:
                self._kill()
                raise
        self._close()

    def _send(self) -> None:
        """Write calls as lines of JSON. Runs in a thread, as a pipe that nobody reads blocks."""
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError), self.process.stdin as pipe:
            for call in iter(self.calls.get, None):
                pipe.write(json.dumps(call).encode() + b"\n")
                pipe.flush()

    def _close(self) -> None:
        """Release everything; RuntimeError with the last line of output if the process has failed."""
        hangs = self.process.poll() is None
        self._kill()
        self.calls.put(None)
        self.sender.join()
        with self.output:
            self.output.seek(0)
            lines = self.output.read().decode("utf-8", "replace").strip().splitlines()
        if hangs:
            raise TimeoutError(f"it did not end within {END_SECONDS} seconds")
        if self.process.returncode:
            raise RuntimeError(lines[-1] if lines else f"its process ended with code {self.process.returncode}")

    def _kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
