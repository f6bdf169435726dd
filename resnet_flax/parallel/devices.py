"""Use all devices as one: place arrays on them and compile steps for them.

`Jit` has a one-axis mesh and a global view, so the result does not depend on the number of devices: BatchNorm and the
loss see the whole batch. `Pmap` runs the same step on each device, and that step itself sums over the axis "data".
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, Protocol

import chex
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from resnet_flax.errors import UserError
from resnet_flax.parallel.processes import AXIS, device_mesh
from resnet_flax.processor import processor_name, usable_cores


class Parallel(Protocol):
    """A way to use all devices."""

    axis_name: str | None  # the mapped axis that a step must sum over itself

    def replicate(self, tree: chex.ArrayTree) -> chex.ArrayTree:
        """Return `tree` with its arrays copied to every device."""

    def shard(self, batch: dict[str, Any], axis: int = 0) -> dict[str, Any]:
        """Return a batch spread over all devices, given the rows of this process, which lie along `axis`."""

    def compile(self, step: Callable, sharded: tuple[int, ...], donate: tuple[int, ...] = ()) -> Callable:
        """Compile a step whose arguments and results are replicated on all devices.

        The arguments numbered in `sharded` are spread over the devices instead, and those in `donate` are donated.
        """

    def compile_order(self, make: Callable) -> Callable:
        """Compile a function of replicated arguments to (steps, batch), with its columns spread over the devices."""


class Jit:
    """One program for all devices, compiled by jax.jit over a mesh."""

    axis_name = None

    def __init__(self) -> None:
        self.mesh = device_mesh()
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
    """The same program on each device, compiled by jax.pmap."""

    axis_name = AXIS

    def __init__(self) -> None:
        # pmap's devices in its own order: arrays placed like this go in and come out without a copy.
        mesh = Mesh(np.array(jax.local_devices()), (AXIS,), axis_types=(AxisType.Auto,))
        self.replicated, self.sharded = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), (AXIS,)))

    def replicate(self, tree: chex.ArrayTree) -> chex.ArrayTree:
        return jax.device_put(tree, self.replicated)

    def shard(self, batch: dict[str, Any], axis: int = 0) -> dict[str, Any]:
        return jax.device_put({name: self._split(rows, axis) for name, rows in batch.items()}, self.sharded)

    def compile(self, step: Callable, sharded: tuple[int, ...], donate: tuple[int, ...] = ()) -> Callable:
        @cache
        def mapped(arguments: int) -> Callable:
            axes = tuple(0 if index in sharded else None for index in range(arguments))
            return jax.pmap(step, axis_name=AXIS, in_axes=axes, out_axes=None, donate_argnums=donate)

        return lambda *arguments: mapped(len(arguments))(*arguments)

    def compile_order(self, make: Callable) -> Callable:
        def order(*arguments):
            return self._split(local_rows(make(*arguments), axis=1), axis=1)

        return jax.jit(order, out_shardings=self.sharded)

    def _split(self, rows, axis: int):
        """Split `axis` into a leading axis of devices and the rows of each."""
        shape, devices = rows.shape, jax.local_device_count()
        parts = rows.reshape(*shape[:axis], devices, shape[axis] // devices, *shape[axis + 1 :])
        return parts.swapaxes(0, axis) if axis else parts


PARALLEL: dict[str, Callable[[], Any]] = {"jit": Jit, "pmap": Pmap}


@cache
def compiler_options() -> dict[str, str] | None:
    """Return options of XLA for a CPU: no convolutions in YNNPACK, where weight gradients take up to four times longer.

    None for other devices, and for a jaxlib without that option.
    """
    if jax.default_backend() != "cpu":
        return None
    for_ynnpack = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    options = {"xla_cpu_experimental_ynn_fusion_type": for_ynnpack}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return None
    return options


def device_name() -> str:
    """Return the name of all devices: "8 x NVIDIA H200", or "2 cores of Apple M4" where JAX says only "cpu".

    Several devices that share a CPU, which is for tests, are "4 x cpu on 2 cores of Apple M4".
    """
    count, kind = jax.device_count(), jax.devices()[0].device_kind
    if kind != "cpu":
        return f"{count} x {kind}"
    cores = f"{usable_cores()} cores of {processor_name()}"
    return cores if count == 1 else f"{count} x cpu on {cores}"


def check_batch_size(size: int) -> None:
    """Raise UserError unless all devices get an equal share of a batch."""
    devices = jax.device_count()
    if size % devices:
        fitting = max(round(size / devices), 1) * devices
        raise UserError(
            f"config.train.batch_size {size} cannot be divided evenly among {devices} devices: the nearest is {fitting}"
        )


def smaller_batch_size(size: int) -> int:
    """Return half of a batch size, or a little less, that divides among all devices; 0 if there is none."""
    return size // 2 - size // 2 % jax.device_count()


def local_rows(rows, axis: int = 0):
    """Return the rows of a batch that this process feeds to its own devices; NumPy, JAX or TensorFlow arrays."""
    share = rows.shape[axis] // jax.process_count()
    own = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    return rows[(slice(None),) * axis + (own,)]
