"""Show what XLA makes of the training loop: python -m benchmarks.compiled --target=h200 [--recipes=preact] ...

Compiles the program that training runs, the loop over order, gather, augmentation and step, for devices that need not
be present (see targets.py), and reads the result. Nothing is executed, and only compile_seconds is a measured time.

  h200, h200:8     in an environment with '.[cuda13]'; no GPU and no driver are needed
  v5e:2x4, v6e:2x2 in an environment with '.[tpu]'; TPU_SKIP_MDS_QUERY=1 is set

kernels  what a device executes one after another in a step: fusions, convolutions of cuDNN, matrix products, copies
MB       operands and results of all kernels; of an array that is only indexed, the part that is read

Flags such as --config.model.widths=(8,16) change the recipe, and XLA_FLAGS the compiler; both are logged. The log has a
line for each program and commit. A program with more kernels than in its newest line, or with 2 % more bytes, is not
logged unless --accept-regression says that this is intended. --keep=FOLDER keeps the optimised HLO, whose kernels
`python -m benchmarks.hlo FILE` lists.
"""

import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import jax
from ml_collections import FrozenConfigDict

from benchmarks import command_line, hlo, profile, recipes, record
from benchmarks.tables import table
from benchmarks.targets import Target
from resnet_flax.errors import UserError
from resnet_flax.training.run import Run
from resnet_flax.training.step import Totals

ALL = (*recipes.RECIPES, "speed94", "speed96")  # speed95 has the program of speed96
SMALL = 0.3e6  # bytes below which a kernel takes less time than its launch
LAUNCH = 2.5e-6  # seconds of a launch on a GPU; within a graph it takes less
MORE_BYTES = 1.02  # times the bytes before; more than that is a regression
EXAMPLES = 50_000  # of CIFAR-10; the images are on the device
COLUMNS = (
    "recipe", "batch", "kernels", "at first", "under 0.3 MB", "MB", "MB at first", "padded MB", "HBM MB", "CUDA graphs",
    "launched alone", "collectives", "transposes", "temporary MiB",
    "by launches", "by bytes", "by FLOPs",  # thousand images per second
)  # fmt: skip


class Chip(NamedTuple):
    """The most that one chip can do per second."""

    flops: float  # bfloat16
    bandwidth: float  # bytes of its HBM


# H200: 80 and 90 % of its data sheet (989 TFLOP/s dense, 4.8 TB/s), nvidia.com/en-us/data-center/h200. TPUs: as
# published, cloud.google.com/tpu/docs/v5e and v6e.
SPEEDS = {"h200": Chip(790e12, 4.3e12), "v5e": Chip(197e12, 0.819e12), "v6e": Chip(918e12, 1.64e12)}


def lower(target: Target, config: FrozenConfigDict) -> tuple[jax.stages.Lowered, Run, dict[str, int]]:
    """Return the training loop of a complete config for a target, its run, and its kernel_sizes."""
    with target.pretend():
        run = Run(config)
        state = run.fresh_state()
        run.advance(0)(state, run.parallel.replicate(Totals.zero()), run.stream.steps_per_epoch)
    return target.programs[-1], run, profile.kernel_sizes(state.params)


def compile_for(target: Target, lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled, str, float]:
    """Return the compiled program, its list of launches ("" except on a GPU), and the seconds that compiling took."""
    with tempfile.TemporaryDirectory() as folder:
        options: dict = {}
        if target.platform == "gpu":  # without a GPU there is nothing to time kernels on
            options = {"xla_gpu_autotune_level": "0", "xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        started = time.perf_counter()
        compiled = lowered.compile(compiler_options=options)
        seconds = time.perf_counter() - started
        launches = [path.read_text() for path in Path(folder).glob("*thunk_sequence_after_thunk_passes.txt")]
    return compiled, "".join(launches), seconds


def analyse(text: str, sizes: dict[str, int]) -> dict:
    """Return the numbers of a step of the loop in the text of a compiled program; `sizes` are those of `lower`."""
    program = hlo.Program.parse(text)
    kernels = list(program.kernels(program.body()))
    moved = [program.traffic(kernel) for kernel in kernels]
    amounts = [sum(array.bytes for array in arrays) for arrays in moved]
    groups: dict[str, list[float]] = {}
    for kernel, amount in zip(kernels, amounts, strict=True):
        group = groups.setdefault(profile.kind(kernel, sizes), [0, 0])
        group[0] += 1
        group[1] += amount
    transposed = [amount for kernel, amount in zip(kernels, amounts, strict=True) if "transpose" in kernel.opcodes]
    found = {
        "kernels": len(kernels),
        "small": sum(amount < SMALL for amount in amounts),
        "MB": megabytes(sum(amounts)),
        "groups": {name: [count, megabytes(amount)] for name, (count, amount) in sorted(groups.items())},
        "custom_calls": count(kernel.target for kernel in kernels if kernel.target),
        "collectives": collectives(program, kernels),
        "convolutions": count(filter(None, (convolution(program, kernel) for kernel in kernels))),
        "transposes": [len(transposed), megabytes(sum(transposed))],
    }
    if any(":T(" in array.layout for arrays in moved for array in arrays):  # a TPU
        padded = [array for arrays in moved for array in arrays]
        found["padded_MB"] = megabytes(sum(array.padded_bytes for array in padded))
        found["HBM_MB"] = megabytes(sum(array.padded_bytes for array in padded if not array.on_chip))
    return found


def collectives(program: hlo.Program, kernels: list[hlo.Instruction]) -> dict[str, list[float]]:
    """Return the collectives such as "all-reduce f32" -> [number, MB], in MB of a device's share."""
    found: dict[str, list[float]] = {}
    for kernel in kernels:
        for code in sorted(kernel.opcodes):
            if code.removesuffix("-start") in hlo.COLLECTIVES:
                results = program.written(kernel)
                dtypes = " ".join(sorted({array.dtype for array in results}))
                one = found.setdefault(f"{code.removesuffix('-start')} {dtypes}", [0, 0])
                one[0] += 1
                one[1] = round(one[1] + sum(array.bytes for array in results) / 1e6, 3)
    return found


def convolution(program: hlo.Program, kernel: hlo.Instruction) -> str:
    """Return the dtypes and layout of a convolution, as in "bf16 x bf16 -> bf16, b01f_o01i->b01f"; "" for others."""
    for one in [kernel, *kernel.inside]:
        labels = one.attribute(r"dim_labels=([\w>\-]+)")
        if labels:
            given = [program.instructions[name].results[0].dtype for name in one.operands[:2]]
            return f"{' x '.join(given)} -> {one.results[0].dtype}, {labels}"
    return ""


def graphs(launches: str) -> dict:
    """Return what a GPU's list of launches says about the loop: CUDA graphs, and launches outside them."""
    body = re.search(r"^( *)body:\n((?:\1 .*\n?)*)", launches, re.MULTILINE)
    if not body:
        return {}
    if len(body[1]) > len("  "):  # the loop itself is in a graph
        return {"graphs": 1, "outside": {}}
    indent = re.match(" *", body[2])[0]
    kinds = Counter(re.findall(rf"^{indent}\d+: k(\w+)", body[2], re.MULTILINE))
    number = kinds.pop("CommandBuffer", 0)
    return {"graphs": number, "outside": dict(kinds)}


def predicted(target: Target, found: dict, gflop: float, batch: int) -> dict[str, float]:
    """Return thousands of images per second on all chips if only launches, only bytes or only FLOPs took time."""
    chip = SPEEDS.get(target.chip)
    if not chip:
        return {}
    seconds = {
        "launches": found["kernels"] * LAUNCH if target.platform == "gpu" else 0,
        "bytes": found.get("HBM_MB", found["MB"]) * 1e6 / chip.bandwidth,
        "FLOPs": gflop * 1e9 / chip.flops,
    }
    return {name: round(batch / spent / 1e3, 1) for name, spent in seconds.items() if spent}


def measure(target: Target, config: FrozenConfigDict, keep: Path | None = None) -> dict:
    """Compile the training loop of a config for a target; return everything that is logged about it."""
    lowered, run, sizes = lower(target, config)
    compiled, launches, seconds = compile_for(target, lowered)
    text = compiled.as_text()
    if keep:
        keep.parent.mkdir(parents=True, exist_ok=True)
        keep.write_text(text)
    memory = compiled.memory_analysis()
    batch = run.stream.batch_size
    gflop = recipes.training_flops(config) * batch / len(target.devices) / 1e9
    found = analyse(text, sizes) | graphs(launches)
    return found | {
        "chips": len(target.devices),
        "GFLOP": round(gflop, 2),
        "temporary_MiB": round(memory.temp_size_in_bytes / 2**20, 1),
        "argument_MiB": round(memory.argument_size_in_bytes / 2**20, 1),
        "aliased_MiB": round(memory.alias_size_in_bytes / 2**20, 1),
        "compile_seconds": round(seconds, 1),
        "predicted": predicted(target, found, gflop, batch),
    }


def count(names) -> dict[str, int]:
    return dict(Counter(names).most_common())


def megabytes(amount: float) -> float:
    return round(amount / 1e6, 1)


def same_program(line: dict, case: dict, made: dict) -> bool:
    """Return whether a line of the journal is about the same case, at any commit, by the same version of jax."""
    return line["case"] | {"commit": ""} == case | {"commit": ""} and jax_version(line["made"]) == jax_version(made)


def jax_version(made: dict) -> str:
    return made["versions"]["jax"]


def regression(before: dict, after: dict) -> str:
    """Return how `after` is worse than `before`, both as returned by `measure`, or "" if it is not."""
    if after["kernels"] > before["kernels"]:
        return f"{after['kernels']} kernels instead of {before['kernels']}"
    if after["MB"] > MORE_BYTES * before["MB"]:
        return f"{after['MB']} MB instead of {before['MB']}"
    return ""


def log(journal: record.Journal, case: dict, found: dict, accept: bool) -> str:
    """Log what was found and return "", or else return how it is worse than the newest line of its program."""
    earlier = [line["found"] for line in journal.lines() if same_program(line, case, journal.made)]
    worse = regression(earlier[-1], found) if earlier else ""
    if worse and not accept:
        return f"{case['target']} {case['recipe']}: {worse}"
    journal.add(case, found | ({"accepted": worse} if worse else {}))
    return ""


def newest(lines: list[dict]) -> list[tuple[dict, dict]]:
    """Return (first line by the same version of jax, newest line) of each case that changes no field.

    The pairs are in the order of targets and recipes.
    """
    cases: dict[tuple, list[dict]] = {}
    for line in lines:
        if not line["case"]["changes"]:
            key = tuple(line["case"][name] for name in ("target", "recipe", "batch", "parallel"))
            cases.setdefault(key, []).append(line)
    places = {recipe: place for place, recipe in enumerate(ALL)}  # other recipes come last
    in_order = sorted(cases, key=lambda key: (key[0], places.get(key[1], len(ALL)), *key[1:]))
    pairs = []
    for key in in_order:
        last = cases[key][-1]
        first = next(line for line in cases[key] if jax_version(line["made"]) == jax_version(last["made"]))
        pairs.append((first, last))
    return pairs


def tables(lines: list[dict]) -> str:
    """Return the tables of all targets."""
    targets: dict[str, list[tuple[dict, dict]]] = {}
    for first, line in newest(lines):
        targets.setdefault(line["case"]["target"], []).append((first, line))
    return "\n".join(target_tables(target, pairs) for target, pairs in targets.items())


def target_tables(target: str, pairs: list[tuple[dict, dict]]) -> str:
    """Return the tables of a target: the numbers of a step, and what its kernels are for."""
    lines = [line for _, line in pairs]
    made = lines[0]["made"]
    commits = ", ".join(dict.fromkeys(line["made"]["commit"] for line in lines))
    kinds = sorted({kind for line in lines for kind in line["found"]["groups"]})
    shares = [[named(line), *(share(line["found"]["groups"].get(kind)) for kind in kinds)] for line in lines]
    parts = [
        f"### {target}: {made['device']}, jax {jax_version(made)}, commit {commits}",
        table(COLUMNS, [row(*pair) for pair in pairs]).strip(),
        "Kernels / MB by what they are for:",
        table(["recipe", *kinds], shares).strip(),
    ]
    return "\n\n".join(parts) + "\n"


def named(line: dict) -> str:
    return " ".join([line["case"]["recipe"], *["pmap"] * (line["case"]["parallel"] == "pmap")])


def share(group: list[float] | None) -> str:
    return f"{group[0]:,} / {group[1]:,}" if group else ""


def row(first: dict, line: dict) -> list[str]:
    """Return the cells of a line under COLUMNS; "at first" is empty if it is itself the first one."""
    found, before = line["found"], first["found"] if first is not line else {}
    numbers = [
        line["case"]["batch"],
        found["kernels"],
        before.get("kernels"),
        found["small"],
        found["MB"],
        before.get("MB"),
        found.get("padded_MB"),
        found.get("HBM_MB"),
        found.get("graphs"),
        sum(found["outside"].values()) if "outside" in found else None,
        sum(number for number, _ in found["collectives"].values()) or None,
        found["transposes"][0],
        found["temporary_MiB"],
        *(found["predicted"].get(cost) for cost in ("launches", "bytes", "FLOPs")),
    ]
    return [named(line), *("" if number is None else f"{number:,}" for number in numbers)]


def main() -> None:
    parser = command_line.journal_parser(__doc__, ALL)
    parser.add_argument("--target", default="h200", help="h200, h200:GPUS, v5e:AxB, v6e:AxB")
    parser.add_argument("--batch", type=int, help="instead of the recipe's")
    parser.add_argument("--parallel", choices=("jit", "pmap"), default="jit")
    parser.add_argument("--accept-regression", action="store_true", help="log it even if it is worse than before")
    parser.add_argument("--keep", type=Path, help="a folder for the optimised HLO of each program")
    arguments, changes = command_line.read(parser)
    target = Target.find(arguments.target)
    words = [f"--config.train.batch_size={arguments.batch}"] if arguments.batch else []
    words += [f"--config.parallel={arguments.parallel}", *changes]
    with target.pretend():
        journal = record.Journal("compiled", arguments.output, arguments.again)
    refused = []
    with tempfile.TemporaryDirectory() as folder:
        words += recipes.random_images(Path(folder), EXAMPLES)
        for recipe in arguments.recipes:
            with target.pretend():
                config = recipes.config(recipe, words)
            case = {
                "target": target.name,
                "recipe": recipe,
                "batch": config.train.batch_size,
                "parallel": arguments.parallel,
                "changes": record.changes_to_log(changes),
                "commit": journal.made["commit"],
            }
            if journal.has(case):
                continue
            keep = arguments.keep / f"{target.name.replace(':', '-')}-{recipe}.hlo" if arguments.keep else None
            if worse := log(journal, case, measure(target, config, keep), arguments.accept_regression):
                refused.append(worse)
    if refused:
        raise UserError(f"not logged, because it regressed; --accept-regression logs it anyway: {'; '.join(refused)}")


if __name__ == "__main__":
    sys.exit(command_line.run(main))
