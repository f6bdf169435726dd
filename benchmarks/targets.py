"""Devices that JAX compiles for although they are not present.

XLA needs no device to compile for one, only its description. A target is such a description, and a program takes its
usual path through JAX, as far as that goes without a device:

    jax.jit(f).lower(*arguments)    traces f on the shapes of its arguments; the result is a program of StableHLO
             .compile()             has XLA optimise it for the devices of the arguments' shardings
             .as_text()             is what the devices would execute: the optimised HLO

The arguments are `jax.ShapeDtypeStruct`: shape, dtype and the sharding that says on which devices an array would be.

h200        the compiler is in jax[cuda13]; it needs no driver. `h200.txtpb` describes the GPU to it.
v5e, v6e    the compiler is libtpu, in jax[tpu], which knows these chips. TPU_SKIP_MDS_QUERY=1 keeps it from asking the
            metadata server of a Cloud TPU where it is.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from resnet_flax.errors import UserError

H200 = Path(__file__).with_name("h200.txtpb")
CHIPS = ("h200", "v5e", "v6e")


@dataclass
class Target:
    """The devices of a target, and the programs that were lowered for them, in order."""

    name: str  # "h200:2" or "v5e:2x4"
    devices: Sequence[Any]
    platform: str  # as jax.default_backend() calls it
    programs: list[jax.stages.Lowered] = field(default_factory=list)

    @property
    def chip(self) -> str:
        return self.name.partition(":")[0]

    @classmethod
    def find(cls, name: str) -> "Target":
        """Return the target "h200", "h200:GPUS", or "v5e:AxB" or "v6e:AxB" with a topology that libtpu knows.

        "cpu" is the CPU of this machine. Raises UserError for other names, and if the compiler is not installed.
        """
        chip, _, size = name.partition(":")
        if chip == "cpu":
            return cls(name, jax.devices("cpu"), "cpu")
        if chip not in CHIPS or not re.fullmatch(r"\d*" if chip == "h200" else r"\d+x\d+", size):
            raise UserError(f"the target must be h200, h200:GPUS, v5e:AxB or v6e:AxB, such as v5e:2x4, not {name!r}")
        jax.config.update("jax_platforms", "cpu")  # a search for a GPU or TPU fails in many ways, and none is needed
        try:
            if chip == "h200":
                described = topologies.get_topology_desc(
                    "h200", "cuda", target_config=H200.read_text(), topology=f"1x1x{size or 1}"
                )
                return cls(name, described.devices, "gpu")
            os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}  # there is no TPU to share
            described = topologies.get_topology_desc(name, "tpu")
        except Exception as error:  # a missing plugin and an unknown topology raise many kinds of errors
            why = f"{type(error).__name__}: {(str(error) or ' ').splitlines()[0]}"
            extra = "cuda13" if chip == "h200" else "tpu"
            raise UserError(f"{name} needs '.[{extra}]' and a topology that its compiler knows: {why}") from None
        return cls(name, sorted(described.devices, key=lambda device: (device.process_index, device.id)), "tpu")

    @contextmanager
    def pretend(self) -> Iterator["Target"]:
        """Make JAX behave as on the target within this context, and lower compiled functions instead of running them.

        Arrays that are put on the devices, and those that a compiled function returns, are descriptions. Everything
        else, such as NumPy and operations that are not compiled, is computed on the CPU as usual.
        """
        devices = list(self.devices)
        answers = {
            "default_backend": lambda: self.platform,
            "devices": lambda *_, **__: devices,
            "local_devices": lambda *_, **__: devices,
            "device_count": lambda *_: len(devices),
            "local_device_count": lambda *_: len(devices),
            "device_put": described,
            "jit": self._lowering(jax.jit),
            "pmap": self._lowering(jax.pmap, devices=devices),
        }
        with ExitStack() as stack:
            for name, answer in answers.items():
                stack.enter_context(patch.object(jax, name, answer))
            yield self

    def _lowering(self, compiler, **given):
        return lambda function, **options: LoweredWhenCalled(compiler(function, **given, **options), self.programs)


class LoweredWhenCalled:
    """A compiled function that is lowered when it is called, and returns descriptions of its results."""

    def __init__(self, compiled: Any, programs: list[jax.stages.Lowered]):
        self.compiled, self.programs = compiled, programs

    def __call__(self, *arguments, **named):
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((arguments, named))):
            return self.compiled(*arguments, **named)  # a part of the function that is being lowered
        lowered = self.compiled.lower(*arguments, **named)
        self.programs.append(lowered)
        return jax.tree.map(lambda leaf: described(leaf, getattr(leaf, "sharding", None)), lowered.out_info)

    def __getattr__(self, name: str):
        return getattr(self.compiled, name)


def described(tree: Any, sharding: Any = None) -> Any:
    """Return `tree` with descriptions in place of arrays, on the devices of `sharding`."""

    def describe(leaf):
        dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
        return jax.ShapeDtypeStruct(np.shape(leaf), dtype, sharding=sharding)

    return jax.tree.map(describe, tree)
