"""Malformed inputs for everything that reads untrusted files or text.

python -m benchmarks.faults.fuzz [--inputs=12000] [--seed=0] [--only=READER;...]

An input is a damaged copy of a valid one, or a bomb. Its reader must end, with less than a gigabyte of memory, and
return a value or raise an error that becomes one line for the user. Prints counts and the slowest input as JSON; exits
with 1 if a reader did anything else, and leaves that input in a file. Input N of a reader is always the same.
"""

import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

from benchmarks import command_line
from benchmarks.faults.readers import SIZES, Figures, Reader, all_readers
from resnet_flax.text import escape_lines

SECONDS = 30  # of CPU time for one input: none is near it (see slowest_seconds), so more means an endless loop
MEMORY = 2**30  # bytes beyond those that the process has when it starts
LONGEST = 5000  # characters of a message
DRAWN = 0.05  # the largest share of inputs whose figures are drawn, as drawing takes longer than reading
MAY_REFUSE = ("command",)  # the valid inputs of these name runs that do not exist


def damaged(rng: random.Random, reader: Reader) -> bytes:
    """Return a valid input of `reader` with one to five changes, most often one."""
    content = bytearray(rng.choice(reader.valid))
    for _ in range(min(rng.randint(1, 5), rng.randint(1, 5), rng.randint(1, 5))):
        at = rng.randrange(len(content) + 1)
        length = min(int(rng.expovariate(0.1)) + 1, len(content) - at)
        match rng.randrange(8):
            case 0:
                content[at : at + 1] = bytes([rng.randrange(256)])
            case 1 if at < len(content):
                content[at] ^= 1 << rng.randrange(8)
            case 2:
                del content[at : at + length]
            case 3:
                content[at:at] = content[at : at + length] * rng.choice([1, 1, 2, 50])
            case 4:
                del content[at:]
            case 5:
                other = rng.choice(reader.valid)
                begin = rng.randrange(len(other) + 1)
                content[at : at + length] = other[begin : begin + length * 4]
            case _:
                token = rng.choice(reader.tokens or SIZES)
                content[at : at + (len(token) if reader.tokens is SIZES else rng.choice([0, length]))] = token
    return reader.pack(bytes(content))


def inputs(name: str, reader: Reader, count: int, seed: int) -> Iterator[bytes]:
    """Yield all bombs, and then damaged inputs."""
    yield from reader.bombs
    for index in range(count - len(reader.bombs)):
        yield damaged(random.Random(f"{seed} {name} {index}"), reader)


class Endless(BaseException):
    """An input took more than `SECONDS`."""


def answer(reader: Reader, content: bytes, folder: Path, draw: bool = True) -> tuple[str, float]:
    """Return ("value" or "refused", seconds), or raise whatever else happened; with `draw`, also draw the value."""

    def stop(signum: int, frame: object) -> None:
        raise Endless(f"more than {SECONDS} seconds")

    printed = io.StringIO()
    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    started = time.process_time()
    try:
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("error")
            value = reader.read(content)
        outcome = "value"
    except reader.refusals as refusal:
        outcome, message = "refused", str(refusal)
        if not message or len(escape_lines(message)) > LONGEST:
            raise AssertionError(f"a message of {len(message)} characters: {message[:200]!r}") from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if (taken := time.process_time() - started) > SECONDS:  # in C code, which no signal interrupts
        raise Endless(f"{taken:.1f} seconds")
    if draw and outcome == "value" and isinstance(value, Figures):
        value.draw(folder / "figure.png")
    if not escape_lines(printed.getvalue()) == printed.getvalue():
        raise AssertionError(f"prints {printed.getvalue()[:200]!r}")
    return outcome, taken


def fuzz(count: int, seed: int, only: list[str], folder: Path) -> dict:
    """Return the counts of `count` inputs over all readers, with what went wrong under "failures"."""
    readers = {name: reader for name, reader in all_readers(folder).items() if not only or name in only}
    for name, reader in readers.items():
        for content in reader.valid:
            if reader.pack(content) and name not in MAY_REFUSE:
                assert answer(reader, reader.pack(content), folder)[0] == "value", (name, content[:200])
    resource.setrlimit(resource.RLIMIT_AS, (virtual_memory() + MEMORY,) * 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes: dict[str, Counter] = {name: Counter() for name in readers}
    slowest: tuple[float, str] = (0.0, "")
    failures = []
    of_each = -(-count // len(readers))
    for name, reader in readers.items():
        for index, content in enumerate(inputs(name, reader, of_each, seed)):
            (folder / "input").write_bytes(content)
            try:
                draw = outcomes[name]["value"] < DRAWN * of_each
                outcome, seconds = answer(reader, content, folder, draw)
                outcomes[name][outcome] += 1
                slowest = max(slowest, (round(seconds, 2), f"{name} {index}"))
            except (Exception, Endless) as error:
                outcomes[name]["failed"] += 1
                kept = folder / f"{name.replace(', ', '-')}-{index}"
                kept.write_bytes(content)
                failures.append({"reader": name, "input": str(kept), "error": f"{type(error).__name__}: {error}"[:300]})
    return {
        "inputs": sum(sum(outcome.values()) for outcome in outcomes.values()),
        "seed": seed,
        "readers": {name: dict(outcome) for name, outcome in outcomes.items()},
        "slowest_seconds": slowest[0],
        "slowest_input": slowest[1],
        "memory_mb": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024),
        "failures": failures,
    }


def virtual_memory() -> int:
    """Return the bytes of address space of this process."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main() -> int:
    parser = command_line.parser(__doc__)
    parser.add_argument("--inputs", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="readers, separated by semicolons; all by default")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="resnet_flax-fuzz-"))
    os.environ["XDG_CACHE_HOME"] = str(folder)
    figures = fuzz(arguments.inputs, arguments.seed, [name for name in arguments.only.split(";") if name], folder)
    print(json.dumps(figures, indent=2))
    if figures["failures"]:
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(main))
