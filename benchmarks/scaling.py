"""Predict the time of a step on many chips from compiled programs: python -m benchmarks.scaling

For each kind of chip and recipe that was compiled for one chip and for several, according to compiled.jsonl, prints a
table for more chips. Compile first, for example with

    python -m benchmarks.compiled --target=h200 --recipes=preact
    python -m benchmarks.compiled --target=h200:8 --recipes=preact

Parallelism is over the data, so every chip sums the same gradients and statistics of BatchNorm, however many chips
there are and whatever their batch is: number and bytes of the collectives are taken from one program, after those of
all others have been compared with it. With N chips and a batch of b for each, a step takes

    compute        max(kernels x launch, bytes(b) / memory bandwidth, FLOPs(b) / peak)
    communication  collectives x latency(N) + 2 (N - 1) / N x their bytes / bandwidth of a link(N)
    seconds        compute + communication

    efficiency     weak scaling, the batch grows with N:    seconds(1, b) / seconds(N, b)
                   strong scaling, the recipe's batch B:    seconds(1, B) / (N x seconds(N, B / N))

bytes(b) is the straight line through the two programs. Compute is as fast as it can be, and no communication is hidden
behind it. Nothing here is measured.
"""

import math
import sys
from typing import NamedTuple

from benchmarks import command_line
from benchmarks.compiled import LAUNCH, SPEEDS
from benchmarks.record import Journal
from benchmarks.tables import table
from resnet_flax.errors import UserError

NODE = 8  # GPUs of a machine
GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SLICES = {1: (1, 1), 4: (2, 2), 8: (2, 4), 16: (4, 4), 32: (4, 8), 64: (8, 8), 128: (8, 16), 256: (16, 16)}
RING = 16  # chips along an axis of a TPU v5e or v6e whose ends are connected
HOP = 1e-6  # seconds from a TPU to the next: jax-ml.github.io/scaling-book/sharding
# Bytes per second at which a whole pod of 256 chips sums, divided by the chips: "all-reduce bandwidth per Pod" of
# docs.cloud.google.com/tpu/docs/v5e and v6e. Half of it where no axis has its ends connected.
POD = {"v5e": 51.2e12 / 256, "v6e": 102.4e12 / 256}
# One direction of a GPU's 900 GB/s of NVLink, and a machine's eight adapters of 400 Gbit/s, through which eight rings
# lead: data sheets of NVIDIA's H200 and DGX H200.
NVLINK, INFINIBAND = 450e9, 8 * 50e9
# Seconds that NCCL takes to start an all-reduce by a ring or a tree, and for each hop in a single machine, in one of
# several machines, and between machines: its own model of small messages, github.com/NVIDIA/nccl, src/graph/tuning.cc.
START = {"ring": 3.6e-6, "tree": 4.4e-6}
HOPS = {"ring": (0.47e-6, 1.8 * 0.47e-6, 2.7e-6), "tree": (0.52e-6, 1.8 * 0.52e-6, 5.0e-6)}
SAME = 1.01  # times the bytes of another program's collectives, up to which they count as the same
HEADER = (
    "chips", "communication, ms", "weak: step, ms", "efficiency", "strong: batch per chip", "step, ms", "efficiency"
)  # fmt: skip


class Program(NamedTuple):
    """The numbers of the programs for one and for several chips of a kind, from which a prediction follows."""

    chip: str
    recipe: str
    batch: int  # the recipe's
    kernels: tuple[int, int]  # of a step on one chip, and on several
    fixed: float  # bytes of a step independent of the batch
    per_image: float  # bytes of a step for each image
    flops_per_image: float
    collectives: int
    summed: float  # bytes of all collectives
    compiled_for: tuple[int, ...]  # the numbers of chips

    def compute(self, chips: int, images: float) -> float:
        """Return the least seconds that a chip needs to compute a step on its `images`."""
        speed = SPEEDS[self.chip]
        launches = self.kernels[chips > 1] * LAUNCH if self.chip == "h200" else 0
        moved = self.fixed + self.per_image * images
        return max(launches, moved / speed.bandwidth, self.flops_per_image * images / speed.flops)

    def communicate(self, chips: int) -> float:
        """Return the seconds of the collectives of a step."""
        if chips == 1:
            return 0.0
        seconds, bandwidth = link(self.chip, chips)
        return self.collectives * seconds + 2 * (chips - 1) / chips * self.summed / bandwidth

    def seconds(self, chips: int, images: float) -> float:
        return self.compute(chips, images) + self.communicate(chips)


def link(chip: str, chips: int) -> tuple[float, float]:
    """Return (the least seconds of an all-reduce, bytes per second of its link) with several chips."""
    if chip == "h200":
        return min(start(way, chips) for way in START), NVLINK if chips <= NODE else INFINIBAND
    sides = SLICES[chips]
    hops = sum(side // 2 if side >= RING else side - 1 for side in sides)
    return 2 * hops * HOP, POD[chip] if max(sides) >= RING else POD[chip] / 2


def start(way: str, chips: int) -> float:
    """Return the seconds that NCCL takes to sum a few bytes over GPUs, by a ring or by a tree of the machines."""
    alone, within, between = HOPS[way]
    machines = -(-chips // NODE)
    within = alone if machines == 1 else within
    if way == "ring":
        return START[way] + 2 * (chips - machines) * within + 2 * (machines - 1) * between
    return START[way] + 2 * ((chips // machines - 1) * within + math.log2(machines) * between)


def programs(lines: list[dict]) -> list[Program]:
    """Return a program for each kind of chip and recipe that was compiled for one chip and for several."""
    found: dict[tuple[str, str], dict[tuple, dict]] = {}
    for line in lines:  # a later line of the same case replaces an earlier one
        case = line["case"]
        if case["parallel"] == "jit" and not case["changes"]:
            group = found.setdefault((case["target"].partition(":")[0], case["recipe"]), {})
            group[line["found"]["chips"], case["batch"]] = line
    counted = {key: {chips for chips, _ in group} for key, group in found.items()}
    return [program(*key, list(group.values())) for key, group in found.items() if {1} < counted[key]]


def program(chip: str, recipe: str, lines: list[dict]) -> Program:
    """Return the program of a kind of chip and recipe, from its lines. Raises UserError if their collectives differ."""
    one = next(line for line in lines if line["found"]["chips"] == 1)
    many = [line for line in lines if line["found"]["chips"] > 1]
    sums = sorted({total(line["found"]) for line in many})
    if len({number for number, _ in sums}) > 1 or sums[-1][1] > SAME * sums[0][1]:
        raise UserError(f"{chip} {recipe}: collectives depend on the chips or the batch, (number, bytes): {sums}")
    most = max(many, key=lambda line: line["found"]["chips"])
    images = [line["case"]["batch"] / line["found"]["chips"] for line in (one, most)]
    moved = [1e6 * line["found"].get("HBM_MB", line["found"]["MB"]) for line in (one, most)]
    per_image = max(0.0, (moved[0] - moved[1]) / (images[0] - images[1]))
    return Program(
        chip,
        recipe,
        one["case"]["batch"],
        (one["found"]["kernels"], most["found"]["kernels"]),
        moved[0] - per_image * images[0],
        per_image,
        1e9 * one["found"]["GFLOP"] / one["case"]["batch"],
        *sums[-1],
        tuple(sorted({line["found"]["chips"] for line in many})),
    )


def total(found: dict) -> tuple[int, float]:
    """Return number and bytes of the collectives of a step."""
    each = found["collectives"].values()
    return sum(number for number, _ in each), 1e6 * sum(megabytes for _, megabytes in each)


def rows(program: Program) -> list[list[str]]:
    """Return a row for each number of chips: step and efficiency with a batch that grows with them, and without."""
    found = []
    alone = program.seconds(1, program.batch)
    for chips in chip_counts(program):
        weak = program.seconds(chips, program.batch)
        cells = [f"{chips}", f"{program.communicate(chips) * 1e3:.3f}", f"{weak * 1e3:.3f}", f"{alone / weak:.0%}"]
        if chips in usable(program):
            strong = program.seconds(chips, program.batch / chips)
            cells += [f"{program.batch // chips}", f"{strong * 1e3:.3f}", f"{alone / chips / strong:.0%}"]
        found.append(cells + [""] * (len(HEADER) - len(cells)))
    return found


def chip_counts(program: Program) -> tuple[int, ...]:
    """Return the numbers of chips for which a step is predicted."""
    return GPUS if program.chip == "h200" else tuple(SLICES)


def usable(program: Program) -> list[int]:
    """Return the numbers of chips that divide the recipe's batch."""
    return [chips for chips in chip_counts(program) if program.batch % chips == 0]


def fastest(program: Program) -> int:
    """Return the number of chips that take the least time for a step on the recipe's batch."""
    return min(usable(program), key=lambda chips: program.seconds(chips, program.batch / chips))


def tables(lines: list[dict]) -> str:
    """Return a table for each kind of chip and recipe, with the facts behind it."""
    parts = []
    for one in programs(lines):
        chip = "H200" if one.chip == "h200" else f"TPU {one.chip}"
        sums = f"{one.collectives} collectives of {one.summed / 1e6:.1f} MB in all"
        checked, most = " and ".join(map(str, one.compiled_for)), fastest(one)
        pays = f"worthwhile up to {most} chips" if most > 1 else "not worthwhile"
        about = f"{one.recipe} on {chip}, batch {one.batch}: {sums}, as compiled for {checked} chips. "
        parts.append(f"{about}Splitting this batch is {pays}.\n\n{table(HEADER, rows(one))}")
    return "\n".join(parts)


def main() -> None:
    print(tables(Journal("compiled").lines()))


if __name__ == "__main__":
    sys.exit(command_line.run(main))
