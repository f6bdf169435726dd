"""Read what W&B and MLflow have of a run, from the files of their offline modes."""

import contextlib
import sqlite3
import struct
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

INSTALLED = all(map(find_spec, ("wandb", "mlflow")))  # as the extra dev does
TRACK = ["--track=wandb,mlflow"] if INSTALLED else []
Logged = list[tuple[int, dict[str, float]]]  # (epoch, metrics), in the order in which they were logged


def offline(workdir: Path) -> dict[str, str]:
    """Return the environment in which both write files only."""
    return {"WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": f"sqlite:///{workdir / 'mlflow.db'}"}


def wandb_logged(workdir: Path, columns: list[str]) -> tuple[set[str], Logged, dict]:
    """Return the ids of the runs of W&B, the `columns` that they were sent, and the last results."""
    from wandb.proto.wandb_internal_pb2 import Record

    ids, logged, results = set(), [], {}
    for path in sorted((workdir / "wandb").glob("offline-run-*/run-*.wandb")):
        for content in leveldb_records(path.read_bytes()[7:], 7):
            record = Record.FromString(content)
            if record.HasField("run"):
                ids.add(record.run.run_id)
            found = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
            if found:
                logged.append((record.history.step.num, {name: float(found[name]) for name in columns}))
            results |= {item.key: item.value_json for item in record.summary.update if item.key.startswith("results/")}
    return ids, logged, results


def leveldb_records(content: bytes, position: int) -> Iterator[bytes]:
    """Yield the records of a log in LevelDB's format, whose first `position` bytes are left out of `content`.

    A block of 2**15 bytes has fragments, each with a checksum, its size and its kind: 1 is a whole record, 4 the last
    fragment of one. Source: github.com/google/leveldb, doc/log_format.md.
    """
    first, whole = position, b""
    while position < first + len(content):
        if (rest := -position % 2**15) < 7:
            position += rest
            continue
        start = position - first + 7
        _, size, kind = struct.unpack("<IHB", content[start - 7 : start])
        whole += content[start : start + size]
        position += 7 + size
        if kind in (1, 4):
            yield whole
            whole = b""


def mlflow_logged(workdir: Path, columns: list[str]) -> tuple[list[str], Logged, dict]:
    """Return the status of each run of MLflow, the `columns` that it was sent, and its results."""
    with contextlib.closing(sqlite3.connect(workdir / "mlflow.db")) as database:
        statuses = [status for (status,) in database.execute("select status from runs")]
        rows = database.execute("select key, step, value from metrics order by step").fetchall()
    history = {name: [(step, value) for key, step, value in rows if key == name] for name in columns}
    logged = [
        (at[0][0], {name: value for name, (_, value) in zip(columns, at, strict=True)})
        for at in zip(*history.values(), strict=True)
    ]
    return statuses, logged, {key: value for key, _, value in rows if key.startswith("results/")}
