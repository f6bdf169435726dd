"""Notice at once that another process of the run has died, where jax would wait, or abort with a page of C++.

The first process holds a connection to each other one. The system closes it when either end dies, however that happens.
"""

import contextlib
import os
import secrets
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, wait

import jax
from jax._src.distributed import global_state

from resnet_flax.errors import INTERRUPTED, report_error
from resnet_flax.parallel.processes import PEER_LOST, run_on_first_process, start
from resnet_flax.text import erase_line, print_line

LEAVING, REPORTED = b"leaving", b"reported"  # a process's last words: it ends as it should; it has reported a death
NOTICE_SECONDS = 2  # within which the watch notices that another process is dead


@contextlib.contextmanager
def joined_processes() -> Iterator[None]:
    """Join the other processes of this run, see processes.start, for as long as the context lasts.

    If one of them dies in it, the others end at once, with the exit code PEER_LOST and one line.
    """
    start()
    if not jax.distributed.is_initialized() or jax.process_count() == 1:  # as on a Cloud TPU of one host
        yield
        return
    watch = Watch((global_state.coordinator_address or "").rpartition(":")[0])
    try:
        yield
    except BaseException as error:
        if not getattr(error, "in_all_processes", False):
            end_alone(error)
        raise
    finally:
        watch.leave()


def end_alone(error: BaseException) -> None:
    """Report an error that the other processes do not have and end this one; jax would wait for them at exit."""
    time.sleep(NOTICE_SECONDS)  # if the error is that another process is dead, the watch ends this one meanwhile
    try:
        code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else report_error(error)  # type: ignore[arg-type]
    except BaseException:
        traceback.print_exc()
        code = os.EX_SOFTWARE
    os._exit(code)


class Watch:
    """End this process as soon as another one has ended without `leave`. All processes create theirs together.

    A process that cannot connect to the first one, at `host`, is not watched; jax notices its death after two minutes.
    """

    def __init__(self, host: str):
        self.left = False
        self.connections: list[Connection] = []
        listeners: list[Listener] = []

        def listen() -> tuple[int, str]:
            key = secrets.token_bytes(16)
            listeners.append(Listener(("", 0), backlog=jax.process_count(), authkey=key))
            return listeners[0].address[1], key.hex()  # type: ignore[return-value]

        port, key = run_on_first_process(listen)
        if listeners:
            threading.Thread(target=self._watch_others, args=listeners, daemon=True).start()
            return
        # In a thread, as the first process may be waiting for a stranger at its port that says nothing.
        threading.Thread(target=self._watch_first, args=((host, port), bytes.fromhex(key)), daemon=True).start()

    def leave(self) -> None:
        """Tell the others that this process ends as it should."""
        self.left = True
        self._tell(LEAVING)

    def _watch_others(self, listener: Listener) -> None:
        indices: dict[object, int] = {}
        while len(indices) < jax.process_count() - 1:
            with contextlib.suppress(OSError, EOFError, ValueError, AuthenticationError):  # a stranger at our port
                connection = listener.accept()
                indices[connection] = int(connection.recv_bytes(10))
                self.connections.append(connection)
        while indices:
            for ended in wait(list(indices)):  # type: ignore[arg-type]
                index = indices.pop(ended)
                if last_words(ended) != LEAVING:
                    self._end(f"process {index}")

    def _watch_first(self, address: tuple[str, int], key: bytes) -> None:
        try:
            first = Client(address, authkey=key)
            first.send_bytes(str(jax.process_index()).encode())
        except (OSError, EOFError, AuthenticationError):
            return
        self.connections.append(first)
        if self.left:
            self._tell(LEAVING)
        words = last_words(first)
        if words != LEAVING:
            self._end("" if words == REPORTED or jax.process_index() > 1 else "process 0")  # another one reports it

    def _end(self, dead: str) -> None:
        """End this process, unless it is ending already, and report the process that is `dead`, if any."""
        if self.left:
            return
        self._tell(REPORTED)
        if dead:
            if sys.stderr.isatty():
                erase_line(sys.stderr)
            print_line(f"error: {dead} of this run died; the same command resumes from the last checkpoint", sys.stderr)
        os._exit(PEER_LOST)

    def _tell(self, words: bytes) -> None:
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.send_bytes(words)


def last_words(connection) -> bytes:
    """Wait for the last words of the process at the other end and return them, b"" if it dies first."""
    try:
        return connection.recv_bytes(100)
    except (OSError, EOFError):
        return b""
