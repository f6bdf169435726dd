"""Checkpoints of a whole run with Orbax: which are kept, and what is restored when one is damaged."""

import contextlib
import itertools
import json
import logging
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import PreservationPolicy

from resnet_flax.errors import UserError, reason
from resnet_flax.files import atomic_write
from resnet_flax.parallel.processes import broadcast_arrays, is_first_process, run_on_first_process
from resnet_flax.text import print_line
from resnet_flax.workdir.history import EpochRow, check_history


@dataclass
class Checkpoint:
    """A moment of a run: everything needed to go on from it exactly.

    `tree` is a pytree of arrays, `history` has a row for every finished epoch.
    """

    step: int
    tree: chex.ArrayTree
    history: list[EpochRow] = field(default_factory=list)


class KeepNewestAndBest(PreservationPolicy):
    """Keep the two newest checkpoints, as one of them may turn out to be damaged, and that of the step `best`.

    Which one is best follows from the history, so Orbax need not keep metrics of its own, whose files can be damaged.
    """

    best: int | None = None

    def should_preserve(self, checkpoints, *, context):
        newest = [checkpoint.step for checkpoint in checkpoints[-2:]]
        return [checkpoint.step in (*newest, self.best) for checkpoint in checkpoints]


class Checkpoints:
    """The checkpoints in a folder. A context manager, which waits for the last save.

    Several processes call everything alike; the first reads and writes for all, as they hold the same.
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
        """The steps that something is there for, newest first, sound or not."""
        names = [path.name for path in self.folder.iterdir()]
        return sorted((int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name)), reverse=True)

    def save(self, checkpoint: Checkpoint, best_step: int | None) -> None:
        """Write in the background, and then delete all others but the newest before and that of `best_step`.

        The arrays may change once this returns. Those of a step that is there already are left as they are, as the same
        run has the same arrays at the same step; its history may have grown since. Raises UserError where this
        checkpoint, or the one before, cannot be written: whatever was saved before it is still there.
        """
        run_on_first_process(lambda: self._save(checkpoint, best_step))

    def wait(self) -> None:
        """Until the last save is complete, or a UserError."""
        run_on_first_process(self._wait)

    def restore(self, step: int, like: chex.ArrayTree) -> Checkpoint:
        """The checkpoint of a step, on the devices that `like` is on. If damaged, raises any exception."""
        found = broadcast_checkpoint(lambda: self._restore(step, like), like)
        assert found  # or it has raised
        return found

    def restore_newest(self, like: chex.ArrayTree) -> Checkpoint | None:
        """The newest sound checkpoint, None if there is none at all. Newer ones are renamed, and a line says so.

        Raises UserError when none of several is sound, and leaves them as they are: starting from scratch would
        silently lose the run. What a process killed while it saved has left is deleted.
        """
        return broadcast_checkpoint(lambda: self._restore_newest(like), like)

    def _save(self, checkpoint: Checkpoint, best_step: int | None) -> None:
        self._kept.best = best_step
        host = replace(checkpoint, tree=jax.device_get(checkpoint.tree))
        record = {"history": host.history, "checksum": checksum(host)}
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
        """As NumPy arrays."""
        items = self._manager.restore(
            step,
            args=ocp.args.Composite(
                tree=ocp.args.StandardRestore(host_arrays_like(like)), record=ocp.args.JsonRestore()
            ),
        )
        checkpoint = Checkpoint(step, items.tree, check_history(items.record["history"]))
        if checksum(checkpoint) != items.record["checksum"]:
            raise ValueError("its content does not match its checksum")
        return checkpoint

    def _restore_newest(self, like: chex.ArrayTree) -> Checkpoint | None:
        """As NumPy arrays."""
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
            raise UserError(f"no checkpoint in {self.folder} is sound: choose another --workdir to start from scratch")
        return None

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Makes a UserError of whatever fails, here or in the background since the last time."""
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise many kinds
            self._delete_unfinished()
            raise UserError(
                f"no checkpoint could be written to {self.folder}: {reason(error)}; those before are kept, and the "
                "same command goes on from there"
            ) from error

    def _replace_record(self, step: int, record: dict) -> None:
        """Orbax never writes a step twice."""
        with atomic_write(self.folder / str(step) / "record" / "metadata") as file:
            json.dump(record, file)

    def _set_aside(self, steps: list[int]) -> None:
        """Rename checkpoints so that their place can be written again."""
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
    """Let Orbax and TensorStore say nothing themselves: what goes wrong they raise as well.

    After a first error TensorStore goes on answering to Orbax's event loop, which is closed by then, and Python would
    print a traceback for each answer.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    show = sys.unraisablehook

    def show_others(unraisable) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            show(unraisable)

    sys.unraisablehook = show_others


def broadcast_checkpoint(find: Callable[[], Checkpoint | None], like: chex.ArrayTree) -> Checkpoint | None:
    """The checkpoint of NumPy arrays that `find` returns in the first process, on the devices that `like` is on."""
    found: Checkpoint | None = None

    def find_and_describe() -> tuple[int, list[EpochRow]] | None:
        nonlocal found
        found = find()
        return (found.step, found.history) if found else None

    described = run_on_first_process(find_and_describe)
    if described is None:
        return None
    step, history = described
    tree = broadcast_arrays(found.tree if found else host_arrays_like(like))

    def put(host: np.ndarray, leaf: jax.Array) -> jax.Array:
        return jax.make_array_from_process_local_data(leaf.sharding, host)

    return Checkpoint(step, jax.tree.map(put, tree, like), history)


def host_arrays_like(like: chex.ArrayTree) -> chex.ArrayTree:
    """NumPy arrays of the same shapes and types, with anything in them."""
    return jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)


def checksum(checkpoint: Checkpoint) -> int:
    """CRC-32 of all arrays and of the history. Orbax itself notices no flipped byte."""
    crc = zlib.crc32(json.dumps(checkpoint.history).encode())
    for leaf in jax.tree.leaves(checkpoint.tree):
        crc = zlib.crc32(np.ascontiguousarray(leaf).data, crc)
    return crc
