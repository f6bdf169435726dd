"""The processor of this machine, by its name and vector instructions."""

import os
import platform
import subprocess
from functools import cache
from pathlib import Path

# Vector instructions of x86 by their flag in /proc/cpuinfo, the fastest first.
VECTORS = {"avx512_bf16": "AVX-512 and bfloat16", "avx512f": "AVX-512", "avx2": "AVX2"}
# AMD's Zen 4 multiplies 512 bits in two halves, so no faster than with AVX2; Zen 5, family 26, multiplies them at once.
# Source: numberworld.org/blogs/2024_8_7_zen5_avx512_teardown.
ZEN_4 = {"vendor_id": "AuthenticAMD", "cpu family": "25"}


@cache
def has_full_rate_avx512() -> bool:
    """Return whether the processor multiplies vectors of 512 bits at once, as far as the system says."""
    return "with AVX-512" in processor_name()


def usable_cores() -> int:
    """Return how many cores this process may use: on Linux they can be fewer than the machine has, as under SLURM."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """Return the name of the processor, or its architecture if the system does not know it.

    On Linux, with its vector instructions, such as "AMD EPYC with AVX-512": virtual machines hide the model, and
    generations of one name differ in speed by a factor of several.
    """
    try:
        if platform.system() == "Darwin":
            asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
            name = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        else:
            name = described_processor(Path("/proc/cpuinfo").read_text(errors="replace"))
    except (OSError, subprocess.CalledProcessError):
        name = ""
    return name or platform.machine()


def described_processor(cpuinfo: str) -> str:
    """Return the name and vector instructions of the processor that /proc/cpuinfo describes, "" if it has no name."""
    fields = dict(line.replace("\t", "").split(": ", 1) for line in cpuinfo.splitlines() if ": " in line)
    name, flags = fields.get("model name", "").strip(), fields.get("flags", "").split()
    vectors = next((instructions for flag, instructions in VECTORS.items() if flag in flags), "")
    if ZEN_4.items() <= fields.items():
        vectors = vectors.replace("AVX-512", "half-rate AVX-512")
    return f"{name} with {vectors}" if name and vectors else name
