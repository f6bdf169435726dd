"""Profile a training step by kind of kernel: python -m benchmarks.profile [--recipes=preact]

Runs training steps under jax.profiler, one per dispatch, with the data on the device and batches made there. The kind
of a kernel follows from the compiled program: its operations, and the names that Flax modules, jax.named_scope and
differentiation left on them. Logs the milliseconds per step of each kind and of the --top longest kernels.
--trace=FOLDER keeps the traces, which ui.perfetto.dev shows.

On a GPU, a kernel's time is the time it ran, and the rest of a step is "idle"; kernels are launched one by one, since
those of a CUDA graph have no names. On a CPU, convolutions continue after their event has ended, so an operation's time
is the time until the next one starts.
"""

import gzip
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import jax

from benchmarks import command_line, recipes, record
from benchmarks.hlo import COLLECTIVES, Instruction, Program
from resnet_flax.data.device_feed import DeviceFeed
from resnet_flax.parallel.devices import compiler_options
from resnet_flax.report.tables import text_table
from resnet_flax.training.dispatch import at
from resnet_flax.training.run import Run
from resnet_flax.training.step import Totals

MOVES = {"copy", "transpose", "bitcast", "reshape", "broadcast", "convert", "pad", "slice", "concatenate", "reverse"}
MOVES |= {"parameter", "constant", "tuple", "get-tuple-element", "dynamic-slice", "copy-start", "copy-done"}
LARGEST_KERNEL = 3  # pixels; the window of a weight gradient is as large as the image


def kind(operation: Instruction, kernels: dict[str, int]) -> str:
    """Return the kind of an instruction; `kernels` has the kernel size of each module, such as stage1_block1/conv1."""
    codes, scope, target = operation.opcodes, operation.scope, operation.target.lower()
    module = next((path for path in kernels if f"/{path}/" in scope), None)
    matmul = "dot" in codes or any(word in target for word in ("gemm", "matmul", "cublas"))
    if "/feed/" in scope:
        return "feed"
    if "convolution" in codes or "conv" in target or (module and (matmul or operation.target)):
        sizes = {kernels[module]} if module else set(kernels.values())
        if "backwardfilter" in target or operation.largest_window > LARGEST_KERNEL:
            return "convolution, weight gradient"
        if "transpose(" in scope and operation.elements in sizes:
            return "convolution, weight gradient"
        backward = "backwardinput" in target or "transpose(" in scope
        return "convolution, input gradient" if backward else "convolution, forward"
    if matmul:
        return "matmul"
    if "/optimizer/" in scope:
        return "optimizer"
    if any(code.removesuffix("-start").removesuffix("-done") in COLLECTIVES for code in codes):
        return "collectives"
    if codes & {"reduce", "reduce-window"}:
        return "reductions"
    if codes - {"fusion"} <= MOVES:
        return "copies, transposes, casts"
    return "BatchNorm and elementwise"


def kernel_sizes(params: Any) -> dict[str, int]:
    """Return the size of the kernel of each convolution in a network's parameters, by its module: see `kind`."""
    leaves = jax.tree.leaves_with_path(params)
    return {"/".join(key.key for key in path[:-1]): leaf.size for path, leaf in leaves if len(leaf.shape) == 4}


@dataclass
class Event:
    """One execution of an operation; microseconds."""

    name: str
    start: float
    duration: float
    run: str


def read_trace(folder: Path) -> tuple[list[Event], bool]:
    """Return (events of kernels and operations in order, whether a GPU ran them) from a trace by jax.profiler."""
    path = max(folder.rglob("*.trace.json.gz"), key=lambda path: path.stat().st_mtime_ns)  # of this measurement
    with gzip.open(path) as file:
        rows = json.load(file)["traceEvents"]
    labels = [row for row in rows if row.get("name") in ("process_name", "thread_name")]
    names = {(row["pid"], row.get("tid")): row["args"]["name"] for row in labels}
    gpu = {pid for (pid, _), name in names.items() if "device:GPU" in name}

    def wanted(row: dict) -> bool:
        if row.get("ph") != "X":
            return False
        if gpu:  # the kernels of streams; other rows of the device summarise them
            return row["pid"] in gpu and names.get((row["pid"], row["tid"]), "").startswith("Stream")
        return "hlo_op" in row.get("args", {})

    def event(row: dict) -> Event:
        arguments = row.get("args", {})
        return Event(arguments.get("hlo_op", row["name"]), row["ts"], row["dur"], arguments.get("run_id", ""))

    return sorted(map(event, filter(wanted, rows)), key=lambda event: event.start), bool(gpu)


def lasting(events: list[Event]) -> Iterator[tuple[str, float]]:
    """Yield (name, microseconds) of each event on a CPU: the time until the next event of its run."""
    by_run = sorted(events, key=lambda event: event.run)  # stable, so the order within a run is kept
    for _, run in groupby(by_run, key=lambda event: event.run):
        sequence = list(run)
        yield from ((event.name, after.start - event.start) for event, after in pairwise(sequence))
        yield sequence[-1].name, sequence[-1].duration


def summarise(folder: Path, hlo: str, kernels: dict[str, int], steps: int, top: int) -> dict:
    """Return the milliseconds per step of a trace of `steps` steps: in total, by kind, and of the `top` kernels."""
    events, gpu = read_trace(folder)
    if not events:
        raise SystemExit(f"error: the trace in {folder} contains no kernel")
    known = Program.parse(hlo).instructions
    known |= {name.replace(".", "_").replace("-", "_"): operation for name, operation in known.items()}
    # A call has an event of its own beside the events of the operations inside it.
    events = [event for event in events if event.name not in known or known[event.name].opcode != "call"]
    spent: dict[str, float] = {}
    for name, microseconds in [(e.name, e.duration) for e in events] if gpu else lasting(events):
        spent[name] = spent.get(name, 0.0) + microseconds / 1000 / steps
    whole = (max(e.start + e.duration for e in events) - events[0].start) / 1000 / steps if gpu else sum(spent.values())

    def kind_of(name: str) -> str:
        if name in known:
            return kind(known[name], kernels)
        return "copies, transposes, casts" if name.lower().startswith("mem") else "other"

    kinds: dict[str, float] = {"idle": max(0.0, whole - sum(spent.values()))} if gpu else {}
    for name, milliseconds in spent.items():
        kinds[kind_of(name)] = kinds.get(kind_of(name), 0.0) + milliseconds
    longest = sorted(spent, key=lambda name: -spent[name])[:top]
    return {
        "milliseconds": round(whole, 4),
        "kinds": {name: round(ms, 4) for name, ms in sorted(kinds.items(), key=lambda item: -item[1])},
        "top": [
            {"name": name, "kind": kind_of(name), "milliseconds": round(spent[name], 4)}
            | ({"scope": known[name].scope[:200]} if name in known else {})
            for name in longest
        ],
    }


def profile(run: Run, steps: int, folder: Path, top: int) -> dict:
    """Trace `steps` steps of a run into `folder`; return their summary."""
    feed, step = DeviceFeed(run.stream, run.parallel), run.step()

    def training_step(state, totals, arrays, order, given, position):
        return step(state, totals, feed.batch(arrays, order, 0, position), *given)

    state, totals = run.fresh_state(), run.parallel.replicate(Totals.zero())
    given = run.parallel.replicate(at(run.scheduled(0), 0)), run.constants()
    arrays = feed.arrays, feed.order(0), given
    lowered = jax.jit(training_step, donate_argnums=0).lower(state, totals, *arrays, 0)
    options = compiler_options() if jax.default_backend() == "cpu" else {"xla_gpu_enable_command_buffer": ""}
    compiled = lowered.compile(compiler_options=options)
    state, totals = compiled(state, totals, *arrays, 0)
    jax.block_until_ready(totals)
    tracing = jax.profiler.ProfileOptions()
    tracing.python_tracer_level = 0
    with jax.profiler.trace(folder, profiler_options=tracing):
        for position in range(steps):
            state, totals = compiled(state, totals, *arrays, position % run.stream.steps_per_epoch)
        jax.block_until_ready(totals)
    return summarise(folder, compiled.as_text(), kernel_sizes(state.params), steps, top)


def table(found: dict) -> str:
    """Return a table of the kinds and the longest kernels as text."""

    def row(name: str, milliseconds: float) -> list[str]:
        return [name, f"{milliseconds:.3f}", f"{milliseconds / found['milliseconds']:.1%}"]

    header = ["kind", "ms per step", "share"]
    kinds = [row(name, milliseconds) for name, milliseconds in found["kinds"].items()]
    kernels = [row(f"  {top['name']} ({top['kind']})", top["milliseconds"]) for top in found["top"]]
    return text_table(header, [*kinds, row("all", found["milliseconds"]), *kernels])


def main() -> None:
    parser = command_line.journal_parser(__doc__, ["resnet_353"])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--top", type=int, default=15)
    parser.add_argument("--examples", type=int, default=5_000, help="size of the training split")
    parser.add_argument("--trace", type=Path, help="keep the traces in this folder")
    arguments, changes = command_line.read(parser)
    journal = record.Journal("profile", arguments.output, arguments.again)
    for recipe in arguments.recipes:
        with tempfile.TemporaryDirectory() as folder:
            data = recipes.random_images(Path(folder), arguments.examples)
            run = Run(recipes.config(recipe, [*data, *changes]))
            case = {
                "recipe": recipe,
                "batch": run.stream.batch_size,
                "dtype": str(run.model.dtype),
                "changes": record.changes_to_log(changes),
            }
            if journal.has(case):
                continue
            found = profile(run, arguments.steps, (arguments.trace or Path(folder)) / f"trace-{recipe}", arguments.top)
            print(table(found))
            journal.add(case, found)


if __name__ == "__main__":
    sys.exit(command_line.run(main))
