"""The folder of a run: one process trains there at a time, with one config."""

import contextlib
import fcntl
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ml_collections import FrozenConfigDict

from resnet_flax.config.checks import complete
from resnet_flax.config.stored import config_to_json, read_config
from resnet_flax.errors import Damaged, UserError
from resnet_flax.files import atomic_write, try_lock
from resnet_flax.text import print_line
from resnet_flax.workdir.checkpoints import steps_in
from resnet_flax.workdir.history import read_rows
from resnet_flax.workdir.identity import is_extension, training_changes

LOOK_SECONDS = 0.2  # longer than is_locked holds the lock
LEFTOVER = re.compile(r"\..+\.(\d+)\.tmp")  # a file that files.atomic_write is writing, and its process


class Job(NamedTuple):
    """A complete config and the workdir of its run, for a verb to work on."""

    config: FrozenConfigDict
    workdir: Path


@contextlib.contextmanager
def lock_workdir(workdir: Path) -> Iterator[None]:
    """Create `workdir` and keep other processes from training there; UserError names one that already does."""
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / ".lock"
    try:
        if not (file := try_lock(path)):
            time.sleep(LOOK_SECONDS)
            file = try_lock(path)
    except OSError as error:
        if error.filename:  # the file cannot be opened
            raise
        print_line(f"note: {workdir} cannot be locked ({error.strerror}): do not start a second run in it")
        yield
        return
    if not file:
        holder = path.read_text().strip() or "another process"
        raise UserError(f"{holder} is already training in {workdir}: wait for it, or choose another --workdir")
    with file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def is_locked(workdir: Path) -> bool:
    """Return whether a process trains in `workdir`. One that starts at this very moment must try the lock twice."""
    try:
        with open(workdir / ".lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is no lock, or no way to ask
        pass
    return False


@contextlib.contextmanager
def wait_for_lock(path: Path) -> Iterator[None]:
    """Wait until no other process has locked the file at `path`, and lock it; UserError if that is impossible."""
    try:
        while not (file := try_lock(path)):
            time.sleep(0.05)
    except OSError as error:
        raise UserError(f"{path} cannot be locked, which a sweep needs: {error.strerror}") from None
    with file:
        yield


def remove_leftovers(workdir: Path) -> None:
    """Remove files that killed processes left half written in a locked `workdir`, see files.atomic_write."""
    for path in workdir.rglob(".*.tmp"):
        leftover = LEFTOVER.fullmatch(path.name)
        if leftover and not is_another_process(int(leftover[1])):
            path.unlink(missing_ok=True)


def is_another_process(pid: int) -> bool:
    """Return whether a process other than this one has this ID; in a container, this one may have the same ID again."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return pid != os.getpid()


def has_begun(workdir: Path) -> bool:
    """Return whether the run in `workdir` has an epoch or a checkpoint: what ended before that need not be kept."""
    return bool(read_rows(workdir / "metrics.csv") or steps_in(workdir / "checkpoints"))


def check_config(workdir: Path, config: FrozenConfigDict) -> bool:
    """Write `config` into `workdir`, unless it is there, and return whether it extends the run there to more epochs.

    Raises UserError if another config has trained there.
    """
    path, extends = workdir / "config.json", False
    if path.exists():
        try:
            stored = complete(read_config(workdir))
        except Damaged as damage:
            print_line(damage)
        else:
            if stored == config:
                return False
            changed = training_changes(stored.to_dict(), config.to_dict())
            if changed and has_begun(workdir):
                if not is_extension(workdir, changed, stored.to_dict(), config.to_dict()):
                    changes = "; ".join(changed.values())
                    raise UserError(f"{workdir} holds a run with another config ({changes}): choose another --workdir")
                print_line(f"extending the run from {stored.train.epochs} to {config.train.epochs} epochs")
                extends = True
    with atomic_write(path) as file:
        file.write(config_to_json(config))
    return extends
