"""All devices as one: where arrays live and how a step is compiled.

`Jit` is a one-axis mesh and a global view, so the result does not depend on the number of devices: BatchNorm and the
loss see the whole batch. `Pmap` runs the same step once a device, with the sums over devices written out.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, Protocol

import chex
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from resnet_flax.errors import UserError
from resnet_flax.parallel.processes import device_mesh

AXIS = "data"


class Parallel(Protocol):
    """How a run uses its devices."""

    axis_name: str | None  # what a step must sum over itself

    def replicate(self, tree: chex.ArrayTree) -> chex.ArrayTree:
        """The same arrays on every device."""

    def shard(self, batch: dict[str, Any], axis: int = 0) -> dict[str, Any]:
        """This process's rows of a batch, spread over its devices; the rows of each array lie along `axis`."""

    def compile(self, step: Callable, sharded: tuple[int, ...], donate: tuple[int, ...] = ()) -> Callable:
        """A step whose arguments and results are on every device, compiled.

        Those arguments in `sharded` are spread over the devices instead; those in `donate` are used up.
        """

    def compile_order(self, make: Callable) -> Callable:
        """A function of replicated arguments -> (steps, batch), compiled; its columns are spread over the devices."""


class Jit:
    axis_name = None

    def __init__(self) -> None:
        self.mesh = device_mesh(AXIS)
        self.replicated = NamedSharding(self.mesh, PartitionSpec())

    def sharded(self, axis: int) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, AXIS))

    def replicate(self, tree: chex.ArrayTree) -> chex.ArrayTree:
        if jax.process_count() == 1:
            return jax.device_put(tree, self.replicated)
        place = partial(jax.make_array_from_process_local_data, self.replicated)
        return jax.tree.map(lambda leaf: place(np.asarray(leaf)), tree)

    def shard(self, batch: dict[str, Any], axis: int = 0) -> dict[str, Any]:
        if jax.process_count() == 1:
            return jax.device_put(batch, self.sharded(axis))
        place = self.sharded(axis)
        return {name: jax.make_array_from_process_local_data(place, rows) for name, rows in batch.items()}

    def compile(self, step: Callable, sharded: tuple[int, ...], donate: tuple[int, ...] = ()) -> Callable:
        options = compiler_options()
        return jax.jit(step, donate_argnums=donate, out_shardings=self.replicated, compiler_options=options)

    def compile_order(self, make: Callable) -> Callable:
        return jax.jit(make, out_shardings=self.sharded(1))


class Pmap:
    axis_name = AXIS

    def replicate(self, tree: chex.ArrayTree) -> chex.ArrayTree:
        return jax.device_put(tree)

    def shard(self, batch: dict[str, Any], axis: int = 0) -> dict[str, Any]:
        return {name: self._split(rows, axis) for name, rows in batch.items()}

    def compile(self, step: Callable, sharded: tuple[int, ...], donate: tuple[int, ...] = ()) -> Callable:
        # What is on every device goes in and out as one copy; pmap spreads and collects it.
        @cache
        def mapped(arguments: int) -> Callable:
            axes = tuple(0 if index in sharded else None for index in range(arguments))
            return jax.pmap(step, axis_name=AXIS, in_axes=axes, out_axes=None)

        return lambda *arguments: mapped(len(arguments))(*arguments)

    def compile_order(self, make: Callable) -> Callable:
        return jax.jit(lambda *arguments: self._split(local_rows(make(*arguments), axis=1), axis=1))

    def _split(self, rows, axis: int):
        """`axis` cut into a leading axis of devices and what is left for each."""
        shape, devices = rows.shape, jax.local_device_count()
        parts = rows.reshape(*shape[:axis], devices, shape[axis] // devices, *shape[axis + 1 :])
        return parts.swapaxes(0, axis) if axis else parts


PARALLEL: dict[str, Callable[[], Any]] = {"jit": Jit, "pmap": Pmap}


@cache
def compiler_options() -> dict[str, str] | None:
    """What XLA is told on a CPU: no convolutions in YNNPACK, where weight gradients take up to four times as long.

    A jaxlib that has no such option is told nothing.
    """
    if jax.default_backend() != "cpu":
        return None
    left_to_it = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    options = {"xla_cpu_experimental_ynn_fusion_type": left_to_it}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return None
    return options


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
