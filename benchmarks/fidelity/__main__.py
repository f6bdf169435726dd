"""Compare everything with PyTorch and Pillow: python -m benchmarks.fidelity
[--write | --networks=PATTERN | --libraries]

Prints one table: the largest difference of each comparison, its bound, and whether it holds; for augmentation also how
many values were compared and what share of them differs at all. The exit code is 1 if a bound does not hold. The table
is saved as benchmarks/results/fidelity.md.
--write recreates the golden files under tests/golden; without it they must equal what PyTorch and Pillow compute now.
--networks compares only the networks whose rows begin with PATTERN, a regular expression, and saves nothing.
--libraries compares with timm's networks and torchvision's functions instead, and saves the table as
benchmarks/results/libraries.md.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import command_line
from benchmarks.fidelity import HEADING, Row, augmentation, libraries, losses, networks, optimizers, relative, schedules
from benchmarks.record import RESULTS, circumstances
from resnet_flax.files import atomic_write
from resnet_flax.processor import processor_name

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


def heading(command: str) -> str:
    """Return the title of the table and the versions it was made with."""
    made = circumstances()
    versions = ", ".join(f"{package} {version}" for package, version in made["versions"].items())
    return (
        f"# Fidelity\n\n`{command}` on {made['date']}, commit {made['commit']}, {processor_name()}, "
        f"Python {made['python']}, {versions}.\n"
    )


def main() -> int:
    parser = command_line.parser(__doc__)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--write", action="store_true")
    chosen.add_argument("--networks", metavar="PATTERN")
    chosen.add_argument("--libraries", action="store_true")
    arguments = parser.parse_args()
    if arguments.libraries:
        return compare(libraries.compare(), "libraries", "python -m benchmarks.fidelity --libraries")
    if arguments.networks:
        return compare(networks.compare_networks(arguments.networks))
    return compare(rows(arguments.write), "fidelity", "python -m benchmarks.fidelity")


def compare(rows: Iterator[Row], name: str = "", command: str = "") -> int:
    """Print the rows as they are found; save the table under `name`, if there is one. Return 1 if a bound fails."""
    found = []
    print(HEADING)
    for row in rows:
        found.append(row)
        print(row, flush=True)
    failed = [row for row in found if not row.ok]
    summary = f"{len(found) - len(failed)} of {len(found)} hold"
    print(summary)
    if name:
        RESULTS.mkdir(exist_ok=True)
        with atomic_write(RESULTS / f"{name}.md") as file:
            file.write("\n".join([heading(command), HEADING, *map(str, found), "", summary, ""]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(command_line.run(main))
