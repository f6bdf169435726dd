"""Compare everything with PyTorch and Pillow: python -m benchmarks.fidelity [--write | --networks=PATTERN]

Prints one table: the largest difference of each comparison, its bound, and whether it holds; for augmentation also how
many values were compared and what share of them differs at all. The exit code is 1 if a bound does not hold. The table
is saved as benchmarks/results/fidelity.md.
--write recreates the golden files under tests/golden; without it they must equal what PyTorch and Pillow compute now.
--networks compares only the networks whose rows begin with PATTERN, a regular expression, and saves nothing.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import command_line
from benchmarks.fidelity import HEADING, Row, augmentation, losses, networks, optimizers, relative, schedules
from benchmarks.record import RESULTS, circumstances
from resnet_flax.files import atomic_write
from resnet_flax.parallel.devices import processor

GOLDEN = Path(__file__).parents[2] / "tests" / "golden"
MODULES = {
    "networks": networks,
    "losses": losses,
    "optimizers": optimizers,
    "schedules": schedules,
    "augmentation": augmentation,
}


def compare_golden(name: str, arrays: dict[str, np.ndarray]) -> Row:
    """Compare the arrays of a golden file with those that the oracle computes now, relative to each array."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        kept = dict(file)
    what, bound = f"tests/golden/{name}.npz: recomputed, relative", 0.0 if name == "augmentation" else 1e-4
    if kept.keys() != arrays.keys() or any(kept[key].shape != np.shape(arrays[key]) for key in kept):
        return Row(what, np.inf, bound)
    differing = sum(int(np.count_nonzero(kept[key] != arrays[key])) for key in kept)
    worst = max(relative(arrays[key], kept[key]) for key in kept)
    return Row(what, worst, bound, sum(array.size for array in kept.values()), differing)


def write_golden(name: str, arrays: dict[str, np.ndarray]) -> Row:
    GOLDEN.mkdir(exist_ok=True)
    with atomic_write(GOLDEN / f"{name}.npz", "wb") as file:
        np.savez_compressed(file, **arrays)
    return Row(f"tests/golden/{name}.npz: written", 0.0, 0.0)


def rows(write: bool) -> Iterator[Row]:
    for name, module in MODULES.items():
        yield from module.compare()
        yield (write_golden if write else compare_golden)(name, module.golden())


def heading() -> str:
    """Return the title of the table and the versions it was made with."""
    made = circumstances()
    versions = ", ".join(f"{package} {version}" for package, version in made["versions"].items())
    return (
        f"# Fidelity\n\n`python -m benchmarks.fidelity` on {made['date']}, commit {made['commit']}, {processor()}, "
        f"Python {made['python']}, {versions}.\n"
    )


def main() -> int:
    parser = command_line.parser(__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--networks", metavar="PATTERN")
    arguments = parser.parse_args()
    found = []
    print(HEADING)
    for row in networks.compare_networks(arguments.networks) if arguments.networks else rows(arguments.write):
        found.append(row)
        print(row, flush=True)
    failed = [row for row in found if not row.ok]
    summary = f"{len(found) - len(failed)} of {len(found)} hold"
    print(summary)
    if not arguments.networks:
        save("\n".join([heading(), HEADING, *map(str, found), "", summary, ""]))
    return 1 if failed else 0


def save(table: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    with atomic_write(RESULTS / "fidelity.md") as file:
        file.write(table)


if __name__ == "__main__":
    sys.exit(main())
