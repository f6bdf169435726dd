"""python -m benchmarks.fidelity [--write]

Compares everything with PyTorch and prints one table: what, the largest difference, its bound, and whether it holds.
Leaves with exit code 1 if a row does not hold. Keeps the table in benchmarks/results/fidelity.md. --write makes the
golden files under tests/golden anew; without it they must be what PyTorch makes of them now.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.fidelity import Row, augmentation, networks, optimizers, relative, schedules
from benchmarks.record import RESULTS, circumstances, processor

GOLDEN = Path(__file__).parents[2] / "tests" / "golden"
MODULES = {"networks": networks, "optimizers": optimizers, "schedules": schedules, "augmentation": augmentation}


def compare_golden(name: str, arrays: dict[str, np.ndarray]) -> Row:
    """Compare the arrays of a golden file with those that the oracle makes now, relative to each array."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        kept = dict(file)
    same = kept.keys() == arrays.keys() and all(kept[key].shape == np.shape(arrays[key]) for key in kept)
    worst = max(relative(arrays[key], kept[key]) for key in kept) if same else np.inf
    return Row(f"tests/golden/{name}.npz: what PyTorch makes now, relative", worst, 1e-4)


def write_golden(name: str, arrays: dict[str, np.ndarray]) -> Row:
    GOLDEN.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN / f"{name}.npz", **arrays)
    return Row(f"tests/golden/{name}.npz: written", 0.0, 0.0)


def rows(write: bool) -> Iterator[Row]:
    for name, module in MODULES.items():
        yield from module.compare()
        yield (write_golden if write else compare_golden)(name, module.golden())


def heading() -> str:
    """Return the versions that the table was made with."""
    made = circumstances()
    versions = ", ".join(f"{package} {version}" for package, version in made["versions"].items())
    return (
        f"# Fidelity\n\n`python -m benchmarks.fidelity` on {made['date']}, commit {made['commit']}, {processor()}, "
        f"Python {made['python']}, {versions}.\n"
    )


def main() -> int:
    found = []
    lines = ["| what | largest difference | bound | ok |", "|:--|--:|--:|:--|"]
    for row in rows(write="--write" in sys.argv[1:]):
        found.append(row)
        lines.append(f"| {row.what:84} | {row.difference:9.2e} | {row.bound:7.0e} | {'yes' if row.ok else 'NO':3} |")
        print(lines[-1], flush=True)
    failed = [row for row in found if not row.ok]
    summary = f"{len(found) - len(failed)} of {len(found)} hold"
    print(summary)
    table = "\n".join([heading(), *lines, "", summary, ""])
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "fidelity.md").write_text(table)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
