"""A run's folder: one process trains there at a time, and files in it are never half written."""

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from ml_collections import FrozenConfigDict

from resnet_flax.config.checks import complete
from resnet_flax.config.stored import config_to_json, differences, read_config
from resnet_flax.errors import Damaged, UserError
from resnet_flax.files import atomic_write
from resnet_flax.text import print_line

BUSY = (errno.EAGAIN, errno.EACCES)  # what flock raises where another process has the lock


class Job(NamedTuple):
    """What a verb works on: a complete config and the workdir of its run."""

    config: FrozenConfigDict
    workdir: Path


def try_lock(path: Path) -> IO | None:
    """Lock the file at `path`, made if need be, until it is closed, if only by dying; None if another process has it.

    The lock is the system's, so it ends with the process, however that ends. OSError where there are none.
    """
    file = open(path, "a+")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if error.errno in BUSY:
            return None
        raise
    return file


@contextlib.contextmanager
def lock_workdir(workdir: Path) -> Iterator[None]:
    """Make `workdir` and keep other processes from training there; UserError names the one that does already."""
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / ".lock"
    try:
        file = try_lock(path)
    except OSError as error:
        if error.filename:  # the file cannot be opened
            raise
        print_line(f"note: {workdir} cannot be locked ({error.strerror}): do not start two runs in it")
        yield
        return
    if not file:
        holder = path.read_text().strip() or "another process"
        raise UserError(f"{holder} already trains in {workdir}: wait for it, or choose another --workdir")
    with file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


@contextlib.contextmanager
def wait_for_lock(path: Path) -> Iterator[None]:
    """Wait until no other process has locked the file at `path`, and lock it; UserError where there are no locks."""
    try:
        while not (file := try_lock(path)):
            time.sleep(0.05)
    except OSError as error:
        raise UserError(f"{path} cannot be locked, which a sweep needs: {error.strerror}") from None
    with file:
        yield


def check_config(workdir: Path, config: FrozenConfigDict) -> None:
    """Write the config of a new run into `workdir`, or raise UserError if it holds a run of another config."""
    path = workdir / "config.json"
    if path.exists():
        try:
            changed = differences(complete(read_config(workdir)).to_dict(), config.to_dict())
        except Damaged as damage:
            print_line(damage)
        else:
            if changed:
                changes = "; ".join(changed)
                raise UserError(f"{workdir} holds a run of another config ({changes}): choose another --workdir")
            return
    with atomic_write(path) as file:
        file.write(config_to_json(config))
