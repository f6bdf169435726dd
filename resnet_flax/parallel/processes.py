"""Several processes as one: a run on a pod, a cluster or the GPUs of a host.

All compute the same. Only the first one reads and writes the workdir and prints, so that no folder need be shared.
"""

import io
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import chex
import jax
import numpy as np
from jax._src.xla_bridge import backends_are_initialized
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from resnet_flax.errors import UserError, reason
from resnet_flax.files import read_text
from resnet_flax.text import first_few, print_line

Result = TypeVar("Result")
Values = TypeVar("Values", bound=tuple)
Error = TypeVar("Error", bound=Exception)

AXIS = "data"  # of all devices, over which a batch is spread

# Environment variables with the number of processes, set by srun, mpirun and a Cloud TPU of several slices.
COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")

VARIABLES = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JAX_COORDINATOR_ADDRESS")  # variables that name the processes
JOIN_SECONDS = 300  # how long a process waits for the others to start
SHUTDOWN_SECONDS = 30  # how long a process that ends as it should waits for the others to end
# Exit code if another process has died or never came: EX_TEMPFAIL of sysexits.h, which unlike 1 asks to try again.
PEER_LOST = 75


def start() -> None:
    """Join the other processes of this run, if the environment names any; all but the first one fall silent.

    The environment names them by JAX_NUM_PROCESSES, JAX_PROCESS_ID (from 0) and JAX_COORDINATOR_ADDRESS (HOST:PORT, a
    free port of the first), or is one that jax.distributed.initialize recognises: srun, mpirun, Cloud TPU.
    JAX_NUM_PROCESSES=1 turns that off. Call this before anything touches a device. Raises UserError if something is
    missing, or if processes have different numbers of devices.
    """
    if jax.distributed.is_initialized() or not launched_with_others():
        return
    jax.config.update("jax_enable_preemption_service", False)  # it would catch SIGTERM itself
    if "JAX_NUM_PROCESSES" in os.environ:
        count, index = read_env_number("JAX_NUM_PROCESSES"), read_env_number("JAX_PROCESS_ID")
        address = os.environ.get("JAX_COORDINATOR_ADDRESS", "")
        if not address.rpartition(":")[2].isdecimal() or ":" not in address:
            raise UserError(f"JAX_COORDINATOR_ADDRESS must be HOST:PORT of process 0, not {address!r}")
        if index >= count:
            raise UserError(f"JAX_PROCESS_ID must be from 0 to {count - 1}, not {index}")
        join(address, count, index, cluster_detection_method="deactivate")
    else:
        join()
    if not is_first_process():
        silence()
    check_equal_devices(Counter(device.process_index for device in jax.devices()))


def join(*where: Any, **options: Any) -> None:
    """Call jax.distributed.initialize; where that would wait too long and abort, end this process with one line."""

    def give_up() -> None:
        place = f" at {where[0]}" if where else ""
        print_line(f"error: not all processes of this run have joined{place} within {JOIN_SECONDS} s", sys.stderr)
        os._exit(PEER_LOST)

    timer = threading.Timer(JOIN_SECONDS, give_up)
    timer.daemon = True
    timer.start()
    options |= {"initialization_timeout": 2 * JOIN_SECONDS, "shutdown_timeout_seconds": SHUTDOWN_SECONDS}
    try:
        jax.distributed.initialize(*where, **options)
    except (RuntimeError, ValueError) as error:  # of XLA, or of JAX if it does not recognise where it runs
        place = f" at {where[0]}" if where else ""
        names = "" if where else f"; set {', '.join(VARIABLES)}"
        raise UserError(f"the processes of this run cannot connect{place}: {reason(error)}{names}") from None
    finally:
        timer.cancel()


def silence() -> None:
    """Discard what this process prints, except Python's own errors.

    Errors of C++ are discarded, too: gRPC and XLA print pages of them whenever the first process dies.
    """
    sys.stderr = os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1, errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)


def check_equal_devices(counts: Mapping[int, int]) -> None:
    """Raise UserError, in all processes, unless each has the same number of devices; `counts` is process -> devices."""
    if len(set(counts.values())) > 1:
        found = ", ".join(first_few([f"process {index} has {counts[index]}" for index in sorted(counts)], 8))
        raise reported_by_first_process(UserError(f"each process must have the same number of devices: {found}"))


def launched_with_others() -> bool:
    """Return whether the environment names several processes. Costs nothing if it does not."""
    if "JAX_NUM_PROCESSES" in os.environ:
        return read_env_number("JAX_NUM_PROCESSES") > 1
    if any(read_env_number(name) > 1 for name in COUNTS if name in os.environ):
        return True
    if "tpu" not in (jax.config.jax_platforms or ""):  # type: ignore[attr-defined]
        return False
    # On a Cloud TPU, which importing jax detects, GKE names all hosts; elsewhere a metadata server does, which only
    # jax.distributed asks, and once the chips are in use, as in a notebook, they know all hosts themselves.
    hosts = tpu_hosts()
    if hosts or "TPU_SKIP_MDS_QUERY" in os.environ:
        return "," in hosts
    return not backends_are_initialized() or jax.process_count() > 1


def tpu_hosts() -> str:
    """Return the hosts of a TPU slice on GKE, separated by commas, "" elsewhere.

    Looks where JAX does, in the same order (jax/_src/clusters/cloud_tpu_cluster.py of jax 0.12).
    """
    if path := os.environ.get("TPU_PROCESS_ADDRESSES_PATH"):
        return read_text(Path(path))
    return os.environ.get("TPU_PROCESS_ADDRESSES", os.environ.get("TPU_WORKER_HOSTNAMES", ""))


def read_env_number(name: str) -> int:
    """Return the natural number that an environment variable holds; UserError if it holds something else."""
    value = os.environ.get(name, "")
    if not value.isdecimal():
        raise UserError(f"{name} must be a whole number, 0 or more, not {value!r}")
    return int(value)


def is_first_process() -> bool:
    """Return whether this is the process that writes and prints; true if there is only one."""
    return jax.process_index() == 0


def run_on_first_process(compute: Callable[[], Result]) -> Result:
    """Run `compute` in the first process alone and return its result in all of them, as far as JSON can carry it.

    What it raises there is raised as a UserError in the others.
    """
    if jax.process_count() == 1:
        return compute()
    result, failure = None, None
    if is_first_process():
        try:
            result = compute()
        except Exception as error:
            failure = error
    message = json.dumps([result, failure and str(failure)]).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
    result, why = json.loads(broadcast_bytes(message, size))
    if why is not None:
        raise reported_by_first_process(failure or UserError(why))
    return result


def run_in_agreement(
    compute: Callable[[], Result], describe: Callable[[Result], dict[str, str]] = lambda result: {}
) -> Result:
    """Run `compute` in every process and return its own result there.

    Raises UserError in all processes if `compute` raises it in one, or if `describe` returns different results in two.
    """
    if jax.process_count() == 1:
        return compute()
    result, failure, described = None, None, {}
    try:
        result = compute()
        described = describe(result)
    except UserError as error:
        failure = error
    problem = disagreement(gather([failure and str(failure), described]))
    if problem:
        raise reported_by_first_process(failure if failure and is_first_process() else UserError(problem))
    return cast(Result, result)


def disagreement(found: list[tuple[str | None, dict[str, str]]]) -> str:
    """Return what is wrong with the (failure, description) of each process: a failure, what differs, or ""."""
    _, first = found[0]
    for index, (failure, described) in enumerate(found):
        if failure is not None:
            return f"process {index}: {failure}"
        differing = [
            f"{name} ({first.get(name)} in process 0, {described.get(name)} in process {index})"
            for name in first | described
            if first.get(name) != described.get(name)
        ]
        if differing:
            return f"all processes of a run must have the same {'; '.join(first_few(differing, 5))}"
    return ""


def gather(value: Any) -> list[Any]:
    """Return the `value` of every process, in all of them, as far as JSON can carry it."""
    content = json.dumps(value).encode()
    sizes = multihost_utils.process_allgather(np.int32(len(content)))
    own = np.frombuffer(content.ljust(max(sizes), b"\0"), np.uint8)
    rows = multihost_utils.process_allgather(own)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def broadcast_arrays(tree: chex.ArrayTree) -> chex.ArrayTree:
    """Return the first process's `tree` of NumPy arrays in all of them; theirs must have the same shapes and types."""
    if jax.process_count() == 1:
        return tree
    content = b"".join(leaf.tobytes() for leaf in jax.tree.leaves(tree))
    file = io.BytesIO(broadcast_bytes(content, len(content)))
    return jax.tree.map(lambda leaf: np.frombuffer(file.read(leaf.nbytes), leaf.dtype).reshape(leaf.shape), tree)


def broadcast_bytes(content: bytes, size: int) -> bytes:
    """Return the `size` bytes of the first process in all of them; the `content` of the others is ignored."""
    own = np.frombuffer(content[:size].ljust(size, b"\0"), np.uint8)
    return multihost_utils.broadcast_one_to_all(own).tobytes()


def reported_by_first_process(error: Error) -> Error:
    """Return `error`, which all processes are about to raise, marked so that only the first one reports it."""
    error.in_all_processes = True  # type: ignore[attr-defined]
    error.quiet = not is_first_process()  # type: ignore[attr-defined]
    return error


def max_over_processes(values: Values) -> Callable[[], Values]:
    """Start computing the maximum of each of the int32 `values` over all processes.

    Returns a function that waits for the maxima. `values` is a tuple or named tuple, and so is its result. All
    processes must call this equally often.
    """
    if jax.process_count() == 1:
        return lambda: values
    across, maximum = _maximum()
    rows = np.tile(np.array(values, np.int32), (jax.local_device_count(), 1))
    largest = maximum(jax.make_array_from_process_local_data(across, rows))
    make = cast(Callable[[list[int]], Values], getattr(values, "_make", tuple))  # a named tuple's own constructor
    return lambda: make(largest.tolist())


@cache
def _maximum():
    mesh = device_mesh()
    across, everywhere = NamedSharding(mesh, PartitionSpec(AXIS)), NamedSharding(mesh, PartitionSpec())
    return across, jax.jit(lambda rows: rows.max(0), out_shardings=everywhere)


def device_mesh() -> Mesh:
    """Return a mesh of all devices along AXIS, ordered by process, so that those of a process are side by side.

    jax.make_mesh may order them by the links between TPU chips; a process's rows would then not be its own.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))
