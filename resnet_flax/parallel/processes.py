"""Several processes as one: a run on a pod, a cluster or the GPUs of a host.

All compute the same; only the first one reads and writes a workdir and speaks, so that no folder need be shared.
"""

import io
import json
import os
import sys
from collections.abc import Callable
from functools import cache
from typing import TypeVar, cast

import chex
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from resnet_flax.errors import Interrupted, UserError

Result = TypeVar("Result")
Values = TypeVar("Values", bound=tuple)
Error = TypeVar("Error", UserError, Interrupted)

# Where srun, mpirun and a Cloud TPU of several slices say how many there are.
COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")

SHUTDOWN_SECONDS = 30  # when one process failed alone, how long the others are left waiting for it


def start() -> None:
    """Join the other processes of this run, where the environment says that there are some; all but one fall silent.

    It says so with JAX_NUM_PROCESSES, JAX_PROCESS_ID (from 0) and JAX_COORDINATOR_ADDRESS (HOST:PORT, a free port of
    the first), or is one that jax.distributed.initialize knows by itself: srun, mpirun, Cloud TPU. JAX_NUM_PROCESSES=1
    says that there are none after all. To be called before anything touches a device. Raises UserError where something
    is missing.
    """
    if jax.distributed.is_initialized() or not launched_with_others():
        return
    jax.config.update("jax_enable_preemption_service", False)  # it would catch SIGTERM itself
    if "JAX_NUM_PROCESSES" in os.environ:
        count, index = read_env_number("JAX_NUM_PROCESSES"), read_env_number("JAX_PROCESS_ID")
        address = os.environ.get("JAX_COORDINATOR_ADDRESS", "")
        if ":" not in address:
            raise UserError(f"JAX_COORDINATOR_ADDRESS must be HOST:PORT of process 0, not {address!r}")
        if index >= count:
            raise UserError(f"JAX_PROCESS_ID must be from 0 to {count - 1}, not {index}")
        jax.distributed.initialize(
            address,
            count,
            index,
            cluster_detection_method="deactivate",
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    else:
        jax.distributed.initialize(shutdown_timeout_seconds=SHUTDOWN_SECONDS)
    if not is_first_process():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def launched_with_others() -> bool:
    """Whether the environment speaks of several processes. Costs nothing where it does not."""
    if "JAX_NUM_PROCESSES" in os.environ:
        return read_env_number("JAX_NUM_PROCESSES") > 1
    if any(read_env_number(name) > 1 for name in COUNTS if name in os.environ):
        return True
    if "tpu" not in (jax.config.jax_platforms or ""):  # type: ignore[attr-defined]
        return False
    # On a Cloud TPU (importing jax finds that out). GKE names all hosts, elsewhere a metadata server does.
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES")
    return "," in hosts if hosts else "TPU_SKIP_MDS_QUERY" not in os.environ


def read_env_number(name: str) -> int:
    """The natural number that an environment variable holds, or a UserError."""
    value = os.environ.get(name, "")
    if not value.isdecimal():
        raise UserError(f"{name} must be a number from 0 on, not {value!r}")
    return int(value)


def is_first_process() -> bool:
    """Whether this is the process that writes and speaks; true where there is but one."""
    return jax.process_index() == 0


def run_on_first_process(compute: Callable[[], Result]) -> Result:
    """What `compute` returns in the first process, the only one to run it, in all of them, as far as JSON can say it.

    What it raises there is raised in the others too.
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
    if failure:
        raise failure
    if why is not None:
        raise reported_by_first_process(UserError(why))
    return result


def broadcast_arrays(tree: chex.ArrayTree) -> chex.ArrayTree:
    """The first process's `tree` of NumPy arrays in all of them; what others give has the same shapes and types."""
    if jax.process_count() == 1:
        return tree
    content = b"".join(leaf.tobytes() for leaf in jax.tree.leaves(tree))
    file = io.BytesIO(broadcast_bytes(content, len(content)))
    return jax.tree.map(lambda leaf: np.frombuffer(file.read(leaf.nbytes), leaf.dtype).reshape(leaf.shape), tree)


def broadcast_bytes(content: bytes, size: int) -> bytes:
    """The `size` bytes of the first process, in all of them; what the others give says nothing."""
    own = np.frombuffer(content[:size].ljust(size, b"\0"), np.uint8)
    return multihost_utils.broadcast_one_to_all(own).tobytes()


def reported_by_first_process(error: Error) -> Error:
    """An `error` that all processes have alike, to be raised; the first will tell it."""
    error.quiet = not is_first_process()
    return error


def max_over_processes(values: Values) -> Callable[[], Values]:
    """Start to find, for each of some int32 `values`, the largest that any process has.

    Returns a function that waits for them. `values` is a tuple or named tuple, and so is what comes back. All processes
    must call this equally often.
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
    mesh = device_mesh("data")
    across, everywhere = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    return across, jax.jit(lambda rows: rows.max(0), out_shardings=everywhere)


def device_mesh(axis: str) -> Mesh:
    """All devices along one axis, those of a process side by side and in the order of processes.

    jax.make_mesh may order them by the links between TPU chips, and rows would then not be the process's own.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), (axis,), axis_types=(AxisType.Auto,))
