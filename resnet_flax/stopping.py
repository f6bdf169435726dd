"""SIGTERM and Ctrl-C: a run answers them where nothing is lost."""

import os
import signal
import sys
import threading

import jax

from resnet_flax.errors import Interrupted
from resnet_flax.processes import largest
from resnet_flax.text import say


class StopRequest:
    """SIGTERM and Ctrl-C, noted and answered between two steps; a second Ctrl-C stops at once.

    Of several processes each has what it `noted` itself, and acts on `signum`, which all know.

    Python handles a signal between two of its own instructions, so not while XLA compiles, which may take a minute. As
    long as there is `nothing_to_save`, a thread that the system wakes answers instead, and ends the process.

    One request within another passes on what it has noted.
    """

    def __init__(self) -> None:
        self.signum = self.noted = 0
        self.nothing_to_save = jax.process_count() == 1  # of several none leaves alone

    def __enter__(self) -> "StopRequest":
        self.previous = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
        reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)
        self.previous_wakeup = signal.set_wakeup_fd(self.writer)
        threading.Thread(target=self._answer, args=(reader,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        signal.set_wakeup_fd(self.previous_wakeup)
        os.close(self.writer)  # which ends the thread
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)
            outer = getattr(handler, "__self__", None)
            if signum == self.signum and isinstance(outer, StopRequest):
                outer.signum = signum

    def requested(self) -> bool:
        return self.signum != 0

    def ask_all(self) -> None:
        """Tell the other processes, which all do the same, and hear of them."""
        self.signum = int(largest(self.noted)[0])

    def _note(self, signum: int, frame: object) -> None:
        if self.noted and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.noted = signum
        if jax.process_count() == 1:
            self.signum = signum

    def _answer(self, reader: int) -> None:
        with open(reader, "rb", buffering=0) as signals:
            while signum := signals.read(1):  # the system writes the number of each signal that has a handler
                if self.nothing_to_save and signum[0] in self.previous:
                    stop = Interrupted(signum[0])
                    say(stop, sys.stderr)
                    os._exit(stop.exit_code)
