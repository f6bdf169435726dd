"""All devices as one: where arrays live and how a step is compiled.

`Jit` is a one-axis mesh and a global view, so the result does not depend on the number of devices: BatchNorm and the
loss see the whole batch. `Pmap` runs the same step once a device, with the sums over devices written out.
"""

from collections.abc import Callable
from typing import Any, Protocol

import chex
import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from resnet_flax.errors import UserError

AXIS = "data"


class Parallel(Protocol):
    """How a run uses its devices."""

    axis_name: str | None  # what a step must sum over itself

    def replicate(self, tree: chex.ArrayTree) -> chex.ArrayTree:
        """The same arrays on every device."""

    def shard(self, batch: dict[str, Any]) -> dict[str, Any]:
        """This process's rows of a batch, spread over its devices."""

    def compile(self, step: Callable, donate: tuple[int, ...] = ()) -> Callable:
        """A step (replicated, replicated, batch) -> replicated, compiled; arguments in `donate` are used up."""

    def compile_batch(self, make: Callable) -> Callable:
        """A function (replicated, ...) -> batch, compiled; its rows come out spread over the devices."""


class Jit:
    axis_name = None

    def __init__(self) -> None:
        self.mesh = jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self.sharded = NamedSharding(self.mesh, PartitionSpec(AXIS))

    def replicate(self, tree: chex.ArrayTree) -> chex.ArrayTree:
        return jax.device_put(tree, self.replicated)

    def shard(self, batch: dict[str, Any]) -> dict[str, Any]:
        if jax.process_count() == 1:
            return jax.device_put(batch, self.sharded)
        return {name: jax.make_array_from_process_local_data(self.sharded, rows) for name, rows in batch.items()}

    def compile(self, step: Callable, donate: tuple[int, ...] = ()) -> Callable:
        return jax.jit(step, donate_argnums=donate, out_shardings=self.replicated)

    def compile_batch(self, make: Callable) -> Callable:
        return jax.jit(make, out_shardings=self.sharded)


class Pmap:
    axis_name = AXIS

    def replicate(self, tree: chex.ArrayTree) -> chex.ArrayTree:
        return jax.device_put(tree)

    def shard(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {name: rows.reshape(jax.local_device_count(), -1, *rows.shape[1:]) for name, rows in batch.items()}

    def compile(self, step: Callable, donate: tuple[int, ...] = ()) -> Callable:
        # The state goes in and out as one copy; pmap spreads and collects it.
        return jax.pmap(step, axis_name=AXIS, in_axes=(None, None, 0), out_axes=None)

    def compile_batch(self, make: Callable) -> Callable:
        return jax.jit(lambda *args: self.shard(make(*args)))


PARALLEL: dict[str, Callable[[], Any]] = {"jit": Jit, "pmap": Pmap}


def check_batch_size(size: int) -> None:
    """Raise UserError unless all devices get an equal share of a batch."""
    devices = jax.device_count()
    if size % devices:
        fitting = max(round(size / devices), 1) * devices
        raise UserError(
            f"config.train.batch_size {size} does not divide among {devices} devices: the nearest is {fitting}"
        )


def local_rows(rows, axis: int = 0):
    """The part of a batch's rows that this process feeds to its own devices; NumPy, JAX or TensorFlow arrays."""
    share = rows.shape[axis] // jax.process_count()
    at = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    return rows[(slice(None),) * axis + (at,)]
