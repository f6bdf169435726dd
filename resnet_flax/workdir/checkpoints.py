"""Checkpoints of a whole run with Orbax: which are kept, and which is restored when one is damaged."""

import contextlib
import itertools
import json
import logging
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import PreservationPolicy

from resnet_flax.errors import Damaged, UserError, reason
from resnet_flax.files import atomic_write, read_json
from resnet_flax.parallel.processes import broadcast_arrays, is_first_process, run_on_first_process
from resnet_flax.text import print_line
from resnet_flax.workdir.history import EpochRow, check_history


@dataclass
class Checkpoint:
    """A run at the end of a step: everything needed to resume it exactly.

    `tree` is a pytree of arrays, whose `["state"].step` is the step; `history` has a row for every finished epoch.
    `run` is JSON that describes the run: its "config", its "data" (a fingerprint: {"train": {"examples": ...}, ...}),
    its "teacher" if it has one ({path: checksum}), the "seconds" that it has taken so far, and, if it started from
    trained weights, "init" (see training.initial). It is {} in checkpoints of older versions.
    """

    step: int
    tree: Any
    history: list[EpochRow] = field(default_factory=list)
    run: dict[str, Any] = field(default_factory=dict)


class KeepNewestAndBest(PreservationPolicy):
    """Keep the two newest checkpoints, as one may turn out to be damaged, and those of the steps `best`.

    The best ones follow from the history, so Orbax need not keep metrics itself, in files that can be damaged.
    """

    best: Collection[int] = ()

    def should_preserve(self, checkpoints, *, context):
        newest = [checkpoint.step for checkpoint in checkpoints[-2:]]
        return [checkpoint.step in (*newest, *self.best) for checkpoint in checkpoints]


class Checkpoints:
    """The checkpoints in a folder; a context manager, which waits for the last save.

    In a run of several processes all make the same calls; as all hold the same state, the first reads and writes it.
    """

    def __init__(self, folder: Path):
        silence_orbax()
        self.folder = folder.absolute()  # Orbax refuses relative paths
        if not is_first_process():
            return
        self._kept = KeepNewestAndBest()
        self.folder.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._kept,
            lightweight_initialize=True,
            create=False,
            multiprocessing_options=ocp.options.MultiprocessingOptions(active_processes={0}),
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        if is_first_process():
            with self._saving():
                self._manager.close()

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, intact or damaged, newest first."""
        return steps_in(self.folder)

    def save(self, checkpoint: Checkpoint, best: Collection[int] = ()) -> None:
        """Write `checkpoint` in the background, then delete all others but the newest before it and those of `best`.

        The arrays may change once this returns. If the step already has a checkpoint, its arrays are kept, as the same
        run has the same arrays at the same step; its history may have grown since. Raises UserError if this checkpoint,
        or the one before, cannot be written; whatever was saved earlier is still there.
        """
        run_on_first_process(lambda: self._save(checkpoint, best))

    def wait(self) -> None:
        """Wait until the last save is complete; UserError if it fails."""
        run_on_first_process(self._wait)

    def restore(self, step: int, like: chex.ArrayTree, name: str = "") -> Checkpoint:
        """Return the checkpoint of a step, on the devices of `like`.

        Raises FileNotFoundError if it is missing, Damaged if it is damaged; both call it `name`.
        """
        name = name or f"checkpoint {step}"
        try:
            found = broadcast_checkpoint(lambda: self._restore(step, like), like)
        except Exception as error:  # Orbax and TensorStore raise many kinds
            if step not in self.steps():
                raise FileNotFoundError(f"{name} is missing in {self.folder}") from error
            raise Damaged(f"{name} in {self.folder} is damaged: {reason(error)}") from error
        assert found  # or it has raised
        return found

    def restore_newest(self, like: chex.ArrayTree) -> Checkpoint | None:
        """Return the newest intact checkpoint, None if there are no checkpoints.

        Newer ones, which are damaged, are renamed, with a message. Raises UserError if there are some but none is
        intact, and leaves them as they are: starting from scratch would silently lose the run. Deletes what a process
        that was killed while saving has left.
        """
        return broadcast_checkpoint(lambda: self._restore_newest(like), like)

    def _save(self, checkpoint: Checkpoint, best: Collection[int]) -> None:
        self._kept.best = best
        host = replace(checkpoint, tree=jax.device_get(checkpoint.tree))
        record = {"history": host.history, "checksum": checksum(host)}
        record |= {"run": host.run, "run_checksum": json_checksum(host.run)}
        with self._saving():
            self._manager.wait_until_finished()
            if host.step in self.steps():
                self._replace_record(host.step, record)
                return
            self._manager.save(
                host.step,
                args=ocp.args.Composite(tree=ocp.args.StandardSave(host.tree), record=ocp.args.JsonSave(record)),
                force=True,  # Orbax's own decision goes by the names of the folders alone
            )

    def _wait(self) -> None:
        with self._saving():
            self._manager.wait_until_finished()

    def _restore(self, step: int, like: chex.ArrayTree) -> Checkpoint:
        """Do what `restore` does, with NumPy arrays."""
        items = self._manager.restore(
            step,
            args=ocp.args.Composite(
                tree=ocp.args.StandardRestore(host_arrays_like(like)), record=ocp.args.JsonRestore()
            ),
        )
        history, run = check_history(items.record["history"]), checked_run(items.record)
        checkpoint = Checkpoint(step, items.tree, history, run)
        if checksum(checkpoint) != items.record["checksum"]:
            raise ValueError("its content does not match its checksum")
        if checkpoint.tree["state"].step != step:
            raise ValueError(f"it is a copy of checkpoint {checkpoint.tree['state'].step}")
        return checkpoint

    def _restore_newest(self, like: chex.ArrayTree) -> Checkpoint | None:
        """Do what `restore_newest` does, with NumPy arrays."""
        self._wait()
        self._delete_unfinished()
        damaged: list[int] = []
        for step in self.steps():
            try:
                found = self._restore(step, like)
            except Exception as error:  # Orbax and TensorStore raise many kinds
                print_line(f"checkpoint {step} is damaged and is skipped: {reason(error)}")
                damaged.append(step)
            else:
                self._set_aside(damaged)
                return found
        if damaged:
            raise UserError(f"no checkpoint in {self.folder} is intact: choose another --workdir to start from scratch")
        return None

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Raise a UserError for whatever fails, here or in the background since the last call."""
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise many kinds
            self._delete_unfinished()
            raise UserError(
                f"no checkpoint could be written to {self.folder}: {reason(error)}; earlier ones are kept, and the "
                "same command resumes from there"
            ) from error

    def _replace_record(self, step: int, record: dict) -> None:
        """Rewrite the record of a step, which Orbax never does."""
        with atomic_write(record_path(self.folder, step)) as file:
            json.dump(record, file)

    def _set_aside(self, steps: list[int]) -> None:
        """Rename checkpoints so that their steps can be saved again."""
        for step in steps:
            names = (f"{step}.damaged{number or ''}" for number in itertools.count())
            free = next(self.folder / name for name in names if not (self.folder / name).exists())
            (self.folder / str(step)).rename(free)
        if steps:
            self._manager.reload()

    def _delete_unfinished(self) -> None:
        for path in self.folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(path, ignore_errors=True)


@cache
def silence_orbax() -> None:
    """Keep Orbax and TensorStore from printing what goes wrong, as they also raise it.

    After a first error, TensorStore keeps answering to Orbax's event loop, which is closed by then, and Python would
    print a traceback for each answer.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    show = sys.unraisablehook

    def show_others(unraisable) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            show(unraisable)

    sys.unraisablehook = show_others


def steps_in(folder: Path) -> list[int]:
    """Return the steps that have a checkpoint in `folder`, intact or damaged, newest first."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name)), reverse=True)


def record_path(folder: Path, step: int) -> Path:
    """Return where Orbax keeps the record of a checkpoint, a JSON file."""
    return folder / str(step) / "record" / "metadata"


def recorded_run(folder: Path) -> dict[str, Any]:
    """Return the `run` of the newest checkpoint in `folder` whose `run` is intact, or else {}; no array is read."""
    for step in steps_in(folder):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            if run := checked_run(read_json(record_path(folder, step))):
                return run
    return {}


def checked_run(record: dict[str, Any]) -> dict[str, Any]:
    """Return the `run` of a checkpoint's record; ValueError if it is damaged."""
    run = record.get("run", {})
    if run and json_checksum(run) != record["run_checksum"]:
        raise ValueError("its record does not match its checksum")
    return run


def broadcast_checkpoint(find: Callable[[], Checkpoint | None], like: chex.ArrayTree) -> Checkpoint | None:
    """Return the checkpoint of NumPy arrays that `find` returns in the first process, on the devices of `like`."""
    found: Checkpoint | None = None

    def find_and_describe() -> tuple[int, list[EpochRow], dict] | None:
        nonlocal found
        found = find()
        return (found.step, found.history, found.run) if found else None

    described = run_on_first_process(find_and_describe)
    if described is None:
        return None
    step, history, run = described
    tree = broadcast_arrays(found.tree if found else host_arrays_like(like))

    def put(host: np.ndarray, leaf: jax.Array) -> jax.Array:
        return jax.make_array_from_process_local_data(leaf.sharding, host)

    return Checkpoint(step, jax.tree.map(put, tree, like), history, run)


def host_arrays_like(like: chex.ArrayTree) -> chex.ArrayTree:
    """Return NumPy arrays of the same shapes and types, uninitialised."""
    return jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)


def checksum(checkpoint: Checkpoint) -> int:
    """Return the CRC-32 of all arrays and of the history. Orbax itself does not notice a flipped bit."""
    return arrays_checksum(checkpoint.tree, json_checksum(checkpoint.history))


def arrays_checksum(tree: chex.ArrayTree, crc: int = 0) -> int:
    """Return the CRC-32 of all arrays of `tree`, after data with the CRC-32 `crc`."""
    for leaf in jax.tree.leaves(tree):
        crc = zlib.crc32(np.ascontiguousarray(leaf).data, crc)
    return crc


def json_checksum(value: Any) -> int:
    return zlib.crc32(json.dumps(value).encode())
