"""Run `python -m resnet_flax.main` until its first training step is done: python -m benchmarks.first_step --config=...

Then print one line of JSON with the parts of the time since STARTED (an environment variable with a value of
time.time()) and end the process. The command itself is not changed, only observed.
"""

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps

from resnet_flax import main
from resnet_flax.training.run import Run

import jax  # isort: skip  the package must import it first

# jax's names for the parts of compiling a program, and ours.
EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile",
}

# Packages that take long to import; a first step on the device needs none of them.
HEAVY = ("tensorflow", "keras", "torch", "matplotlib", "scipy", "sklearn", "pandas", "optuna")


class Watch:
    """The parts of the time since the process was started."""

    def __init__(self) -> None:
        self.parts: defaultdict[str, float] = defaultdict(float)
        self.last = float(os.environ["STARTED"])
        jax.monitoring.register_event_duration_secs_listener(self.add)

    def part(self, name: str) -> None:
        """Add the time since the last part to the part `name`."""
        now = time.time()
        self.parts[name] += now - self.last
        self.last = now

    def add(self, event: str, seconds: float, **_) -> None:
        if event in EVENTS:
            self.parts[EVENTS[event]] += seconds

    def after(self, name: str, function: Callable) -> Callable:
        """Return `function`, after whose calls all time since the last part is added to the part `name`."""

        @wraps(function)
        def watched(*arguments):
            result = function(*arguments)
            self.part(name)
            return result

        return watched

    def end(self) -> None:
        """Print the parts and end the process at once."""
        print(
            json.dumps({"parts": self.parts, "imported": [name for name in HEAVY if name in sys.modules]}), flush=True
        )
        os._exit(0)


def end_after_first_step(watch: Watch) -> None:
    """Make the next training end after its first step."""
    advance = Run.advance
    Run.__init__ = watch.after("data", Run.__init__)  # type: ignore[method-assign]
    Run.fresh_state = watch.after("init", Run.fresh_state)  # type: ignore[method-assign]

    def advance_once(run: Run, first_step: int) -> Callable:
        dispatch = advance(run, first_step)
        watch.part("feed")

        def first(*arguments) -> None:
            jax.block_until_ready(dispatch(*arguments))
            watch.part("step")
            watch.end()

        return first

    Run.advance = advance_once  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    watch = Watch()
    watch.part("imports")
    end_after_first_step(watch)
    sys.exit(main.main(sys.argv[1:]))
