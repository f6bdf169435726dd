"""Send training steps to the devices: one at a time with a batch from the host, or many with the data on them."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from resnet_flax.data import host_feed
from resnet_flax.data.device_feed import DeviceFeed
from resnet_flax.data.stream import Stream
from resnet_flax.parallel.devices import Parallel
from resnet_flax.training.packing import packing
from resnet_flax.training.step import Totals, TrainState

# (state, totals, batch, scheduled, constants, kernels) -> (state, totals). `scheduled` and `constants` are trees of
# arrays: the values of the schedules at this step, and the arguments that all steps share. `kernels`, by default (),
# are those of the state in the dtype of the network.
TrainStep = Callable[..., tuple[TrainState, Totals]]
# An epoch (from 0) -> the values of the schedules at its steps, (steps,) float32 each.
Scheduled = Callable[[int], dict[str, np.ndarray]]
# (state, totals, most) -> (state, totals, steps sent): sends the next steps of the epoch in one dispatch, at most
# `most` of them or a fixed number. The state passed in is donated.
Advance = Callable[[TrainState, Totals, int], tuple[TrainState, Totals, int]]


def at(rates: dict[str, np.ndarray], position: int) -> dict[str, np.float32]:
    """Return the values of the schedules at one step, given those at all steps of its epoch."""
    return {name: values[position] for name, values in rates.items()}


def host_steps(
    step: TrainStep,
    stream: Stream,
    scheduled: Scheduled,
    first_step: int,
    parallel: Parallel,
    constants: chex.ArrayTree,
) -> Advance:
    """Return a function that sends one step at a time, from `first_step` on, with batches prepared ahead by tf.data."""
    compiled = parallel.compile(step, sharded=(2,), donate=(0,))
    batches = host_feed.batches(stream, first_step)
    sent, rates = first_step, None

    def advance(state, totals, most):
        nonlocal sent, rates
        epoch, position = divmod(sent, stream.steps_per_epoch)
        if rates is None or position == 0:
            rates = scheduled(epoch)
        sent += 1
        return *compiled(state, totals, parallel.shard(next(batches)), at(rates, position), constants), 1

    return advance


def group_length(steps_per_epoch: int) -> int:
    """Return the group length that wastes the fewest steps at the end of an epoch: 8 to 16, if it has that many."""
    longest, shortest = min(16, steps_per_epoch), min(8, steps_per_epoch)
    return min(range(longest, shortest - 1, -1), key=lambda length: -steps_per_epoch % length)


def device_steps(
    step: TrainStep,
    stream: Stream,
    scheduled: Scheduled,
    first_step: int,
    parallel: Parallel,
    constants: chex.ArrayTree,
    rounded: Callable[[TrainState], list[jax.Array]] = lambda state: [],
    length: int = 0,
) -> Advance:
    """Return a function that sends several steps at a time, from `first_step` on, with the data on the devices.

    The steps of a dispatch are a loop in the compiled program. With `length` 0 it has as many steps as asked for: their
    number is an argument, so one program serves all, but a GPU waits for the host before each step. Any other `length`
    avoids that: every dispatch has that many steps, and those after the end of the epoch change nothing. What `rounded`
    returns for a state is computed at the end of the preceding step, when the optimiser has the weights at hand.
    """
    feed = DeviceFeed(stream, parallel)

    def steps(state, totals, arrays, order, rates, epoch, position, count, constants):
        pack, unpack = packing((state, totals))
        # A row per step, read at once; its last value is 1, and 0 in the rows after the end of the epoch.
        table = jnp.stack([*rates.values(), jnp.ones(stream.steps_per_epoch)], axis=1)
        table = jnp.pad(table, ((0, length), (0, 0)))

        def one(index, carry):
            packed, kernels = carry
            batch = feed.batch(arrays, order, epoch, position + index)
            *values, inside = table[position + index]
            now = dict(zip(rates, values, strict=True))
            state, totals = step(*unpack(packed), batch, now, constants, kernels)
            after = pack((state, totals)), rounded(state)
            if length < 2:
                return after
            return jax.tree.map(lambda new, old: jnp.where(inside > 0, new, old), after, carry)

        carry = pack((state, totals)), rounded(state)
        packed, _ = jax.lax.fori_loop(0, length or count, one, carry)
        return unpack(packed)

    compiled = parallel.compile(steps, sharded=(3,), donate=(0,))
    sent, order, rates = first_step, None, None

    def advance(state, totals, most):
        nonlocal sent, order, rates
        epoch, position = divmod(sent, stream.steps_per_epoch)
        if order is None or position == 0:
            order, rates = feed.order(epoch), parallel.replicate(scheduled(epoch))
        count = min(length or most, stream.steps_per_epoch - position)
        sent += count
        return *compiled(state, totals, feed.arrays, order, rates, epoch, position, count, constants), count

    return advance
