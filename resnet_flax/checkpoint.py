"""Checkpoints of a whole run with Orbax: which are kept, and what is restored when one is damaged."""

import json
import logging
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import PreservationPolicy

from resnet_flax.errors import UserError
from resnet_flax.text import say

Row = dict[str, float]  # one epoch's results, column -> value


@dataclass
class Checkpoint:
    """A moment of a run: everything needed to go on from it exactly.

    `tree` is a pytree of arrays, `history` has a row for every finished epoch.
    """

    step: int
    tree: chex.ArrayTree
    history: list[Row] = field(default_factory=list)


class KeepSteps(PreservationPolicy):
    """Delete every checkpoint whose step is not in `steps`.

    Which one is best follows from the history, so Orbax need not keep metrics of its own, whose files can be damaged.
    """

    def __init__(self) -> None:
        self.steps: set[int] = set()

    def should_preserve(self, checkpoints, *, context):
        return [checkpoint.step in self.steps for checkpoint in checkpoints]


class Checkpoints:
    """The checkpoints in a folder. A context manager, which waits for the last save."""

    def __init__(self, folder: Path):
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax's narration
        self.folder = folder.absolute()  # Orbax refuses relative paths
        self._kept = KeepSteps()
        self._manager = ocp.CheckpointManager(
            self.folder, options=ocp.CheckpointManagerOptions(preservation_policy=self._kept)
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.close()

    def steps(self) -> list[int]:
        """The steps that have a folder, newest first, sound or not."""
        return sorted((int(path.name) for path in self.folder.iterdir() if path.name.isdigit()), reverse=True)

    def save(self, checkpoint: Checkpoint, best_step: int | None) -> None:
        """Write in the background, and delete all others but `best_step`. The arrays may change once this returns.

        A step that is there already is left as it is: the same run has the same content at the same step.
        """
        self._kept.steps = {checkpoint.step} if best_step is None else {checkpoint.step, best_step}
        record = {"history": checkpoint.history, "checksum": checksum(checkpoint)}
        self._manager.save(
            checkpoint.step,
            args=ocp.args.Composite(tree=ocp.args.StandardSave(checkpoint.tree), record=ocp.args.JsonSave(record)),
        )

    def restore(self, step: int, like: chex.ArrayTree) -> Checkpoint:
        """The checkpoint of a step, on the devices that `like` is on. If damaged, raises any exception."""
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = self._manager.restore(
            step,
            args=ocp.args.Composite(tree=ocp.args.StandardRestore(target), record=ocp.args.JsonRestore()),
        )
        checkpoint = Checkpoint(step, items.tree, items.record["history"])
        if checksum(checkpoint) != items.record["checksum"]:
            raise ValueError("its content does not match its checksum")
        return checkpoint

    def restore_newest(self, like: chex.ArrayTree) -> Checkpoint | None:
        """The newest sound checkpoint, None if there is none at all. Damaged ones are renamed, and a line says so.

        Raises UserError when all of several are damaged: starting from scratch would silently lose the run.
        """
        self._manager.wait_until_finished()
        steps = self.steps()
        for step in steps:
            try:
                return self.restore(step, like)
            except Exception as error:  # Orbax and TensorStore raise many kinds
                reason = (str(error) or type(error).__name__).splitlines()[0][:200]
                say(f"checkpoint {step} is damaged and is skipped: {reason}")
                (self.folder / str(step)).rename(self.folder / f"{step}.damaged")
                self._manager.reload()
        if steps:
            raise UserError(f"no checkpoint in {self.folder} is sound: choose another --workdir to start from scratch")
        return None


def best_row(history: list[Row], monitor: str) -> Row | None:
    """The first of the epochs that are best at the column `monitor`, None without validation."""
    if not history or monitor not in history[0]:
        return None
    choose = min if monitor.endswith("loss") else max
    return choose(history, key=lambda row: row[monitor])


def checksum(checkpoint: Checkpoint) -> int:
    """CRC-32 of all arrays and of the history. Orbax itself notices no flipped byte."""
    crc = zlib.crc32(json.dumps(checkpoint.history).encode())
    for leaf in jax.tree.leaves(checkpoint.tree):
        crc = zlib.crc32(np.ascontiguousarray(jax.device_get(leaf)).data, crc)
    return crc
