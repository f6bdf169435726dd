"""Write scalars for TensorBoard."""

import contextlib
import socket
import time
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from resnet_flax.workdir.history import EpochRow


class TensorBoard:
    """A tracker that writes an event file into the workdir, with the training step as step."""

    def start(self, workdir: Path, config: dict, history: list[EpochRow]) -> None:
        self.workdir, self.first_step = workdir, int(history[-1]["step"]) + 1 if history else 0
        self.file: EventFile | None = None

    def epoch(self, row: EpochRow) -> None:
        self.file = self.file or EventFile(self.workdir, self.first_step)
        self.file.add(int(row["step"]), {name: row[name] for name in row if name not in ("epoch", "step")})

    def end(self, results: dict, outcome: str) -> None:
        if self.file:
            self.file.close()


class EventFile:
    """A new event file in `workdir`, flushed at once. It supersedes what other files hold from `first_step` on.

    tensorboardX's SummaryWriter writes in a thread that dies if the disk is full; the run would then wait forever.
    """

    def __init__(self, workdir: Path, first_step: int):
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self.writer = RecordWriter(str(workdir / name))
        try:
            self._write(file_version="brain.Event:2")
            self._write(step=first_step, session_log=SessionLog(status=SessionLog.START))
        except OSError:
            with contextlib.suppress(OSError):
                self.close()
            raise

    def add(self, step: int, scalars: dict[str, float]) -> None:
        """Write `scalars`, name -> value, of a step."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._write(step=step, summary=Summary(value=values))

    def close(self) -> None:
        self.writer.close()

    def _write(self, **content) -> None:
        self.writer.write(Event(wall_time=time.time(), **content).SerializeToString())
        self.writer.flush()
