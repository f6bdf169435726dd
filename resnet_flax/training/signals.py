"""Stop a run on SIGTERM, Ctrl-C or the end of its terminal (SIGHUP), without losing anything."""

import os
import signal
import sys
import threading

import jax

from resnet_flax import errors
from resnet_flax.errors import Interrupted
from resnet_flax.parallel.processes import max_over_processes
from resnet_flax.text import print_line


class StopRequest:
    """A context in which signals are noted, to be answered between two steps; a second Ctrl-C stops at once.

    `noted` is the signal that this process has received; it acts on `signum`, on which all processes agree.

    Python handles a signal between two of its own instructions, and so not while XLA compiles, perhaps for a minute.
    Until there is work to save (see `save_before_stopping`), a thread woken by the system ends the process instead.

    A request within another starts with the signal that the outer one has noted, and passes its own back to it. A
    signal that the process ignores, as under nohup, stays ignored.
    """

    def __init__(self) -> None:
        self.signum = self.noted = 0
        # One of several processes cannot leave alone, and one that runs other code, such as a notebook's, has more to
        # lose than this run.
        self._may_end_at_once = jax.process_count() == 1 and errors.runs_command_only
        self.previous: dict = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is not threading.main_thread():
            return self  # signals come to the main thread alone
        signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        heard = [signum for signum in signals if signal.getsignal(signum) != signal.SIG_IGN]
        self.previous = {signum: signal.signal(signum, self._note) for signum in heard}
        if outer := self._outer():
            self.noted, self.signum = outer.noted, outer.signum
        reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)
        self.previous_wakeup = signal.set_wakeup_fd(self.writer)
        threading.Thread(target=self._end_at_once, args=(reader,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        signal.set_wakeup_fd(self.previous_wakeup)
        os.close(self.writer)  # which ends the thread
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)
        if self.noted and (outer := self._outer()):
            outer.noted, outer.signum = self.noted, self.signum

    def _outer(self) -> "StopRequest | None":
        """Return the request that this one is within, if any."""
        handlers = (getattr(handler, "__self__", None) for handler in self.previous.values())
        return next((handler for handler in handlers if isinstance(handler, StopRequest)), None)

    def save_before_stopping(self) -> None:
        """From now on, treat a signal as a request for the user of this context to answer: there is work to save."""
        self._may_end_at_once = False

    def requested(self) -> bool:
        """Return whether the run is to stop."""
        return self.signum != 0

    def agree(self) -> bool:
        """Exchange signals with the other processes, which all call this at the same point; return `requested()`."""
        (self.signum,) = max_over_processes((self.noted,))()
        return self.requested()

    def _note(self, signum: int, frame: object) -> None:
        if self.noted and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.noted = signum
        if jax.process_count() == 1:
            self.signum = signum

    def _end_at_once(self, reader: int) -> None:
        with open(reader, "rb", buffering=0) as signals:
            while signum := signals.read(1):  # the system writes the number of each signal that has a handler
                if self._may_end_at_once and signum[0] in self.previous:
                    stop = Interrupted(signum[0])
                    print_line(stop, sys.stderr)
                    os._exit(stop.exit_code)
