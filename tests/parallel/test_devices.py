"""The result does not depend on the number of devices, nor on how they are used."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from resnet_flax.errors import UserError
from resnet_flax.parallel.devices import (
    check_batch_size,
    compiler_options,
    device_name,
    local_rows,
    smaller_batch_size,
)


def five_steps(way: str, devices: int, out: Path) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Return the results of five steps and an evaluation, and two batches: augmented, and patched together."""
    script = Path(__file__).with_name("parallel_steps.py")
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
    command = [sys.executable, "-W", "error", str(script), way, str(out)]
    subprocess.run(command, env=environment, check=True, cwd=script.parents[2])
    with np.load(out) as arrays:
        assert arrays["devices"] == devices
        batch = {name: arrays[name] for name in arrays.files if not name.startswith(("arr_", "devices"))}
        return [arrays[name] for name in arrays.files if name.startswith("arr_")], batch


def test_one_two_and_four_devices_agree(tmp_path):
    """Within rounding in what they compute, and exactly in the order, augmentation and patching of the examples."""
    one, batch = five_steps("jit", 1, tmp_path / "one.npz")
    for way, devices in (("jit", 2), ("pmap", 4)):
        many, same = five_steps(way, devices, tmp_path / f"{way}.npz")
        assert len(many) == len(one) > 20
        np.testing.assert_equal(same, batch)
        for a, b in zip(one, many, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("size", "nearest"), [(101, 104), (3, 8), (131, 128)])
def test_batch_that_does_not_divide_is_refused_with_the_nearest(size, nearest, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    with pytest.raises(UserError, match=f"{size} cannot be divided evenly among 8 devices: the nearest is {nearest}"):
        check_batch_size(size)
    check_batch_size(nearest)


@pytest.mark.parametrize(("size", "smaller"), [(512, 256), (24, 8), (8, 0)])
def test_a_smaller_batch_is_half_as_large_and_divides_among_all_devices(size, smaller, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert smaller_batch_size(size) == smaller


def test_local_rows_are_this_processes_share(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert local_rows(np.arange(6)).tolist() == [3, 4, 5]
    assert local_rows(np.arange(8).reshape(2, 4), axis=1).tolist() == [[2, 3], [6, 7]]


@pytest.mark.parametrize(("system", "processor"), [("Linux", "AMD EPYC"), ("Darwin", "Apple M4"), ("Darwin", "")])
def test_a_cpu_is_called_by_its_name(system, processor, monkeypatch):
    info = f"processor\t: 0\nmodel name\t: {processor}\n"
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 2}, raising=False)
    monkeypatch.setattr(Path, "read_text", lambda path, **_: info)
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, f"{processor}\n")
    )
    assert device_name() == f"2 cores of {processor or 'arm64'}"
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    assert device_name() == f"4 x cpu on 2 cores of {processor or 'arm64'}"


def test_options_of_xla_are_for_a_cpu_and_for_a_jaxlib_that_has_them(monkeypatch):
    fresh = compiler_options.__wrapped__
    assert fresh()
    with monkeypatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "gpu")
        assert fresh() is None
    jit = jax.jit
    monkeypatch.setattr(jax, "jit", lambda f, compiler_options: jit(f, compiler_options={"xla_cpu_renamed": "1"}))
    assert fresh() is None
