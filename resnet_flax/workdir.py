"""A run's folder: one process trains there at a time, and files in it are never half written."""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from resnet_flax import config as configs
from resnet_flax.errors import Damaged, UserError
from resnet_flax.text import say

HELD = (errno.EAGAIN, errno.EACCES)  # what flock raises where somebody else has the lock


@contextlib.contextmanager
def hold(workdir: Path) -> Iterator[None]:
    """Make `workdir` and keep other processes from training there. UserError names the one that does already.

    The lock is the system's, on the file .lock: it ends with the process, however that ends, and readers need none.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in HELD:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise UserError(
                    f"{holder} trains in {workdir} already: wait for it, or choose another --workdir"
                ) from None
            say(f"note: {workdir} cannot be locked ({error.strerror}): do not start two runs in it")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def claim(workdir: Path, config: configs.FrozenConfigDict) -> None:
    """Leave the config in `workdir`, or raise UserError if it holds a run of another config."""
    path = workdir / "config.json"
    if path.exists():
        try:
            changed = configs.differences(configs.complete(configs.read(workdir)).to_dict(), config.to_dict())
        except Damaged as damage:
            say(damage)
        else:
            if changed:
                changes = "; ".join(changed)
                raise UserError(f"{workdir} holds a run of another config ({changes}): choose another --workdir")
            return
    with replacing(path) as file:
        file.write(configs.to_json(config))


@contextlib.contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO]:
    """A file to write, which takes the place of `path` once it is complete and on disk; else `path` stays as it is."""
    unfinished = path.with_name(f"{path.name}.tmp")
    try:
        with open(unfinished, mode, newline="" if mode == "w" else None) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and not error.filename:
            error.filename = str(path)  # a failed write does not say of what
        raise
