"""Write the numbers in README.md, between two markers, from benchmarks/results: python -m benchmarks.readme"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import reproduce, speed, speed_ablation, startup
from benchmarks.recipes import RECIPES
from benchmarks.record import RESULTS

README = RESULTS.parents[1] / "README.md"
START, END = "<!-- written by python -m benchmarks.readme: -->\n", "<!-- up to here -->\n"


def lines(name: str, folder: Path = RESULTS) -> list[dict]:
    """The lines of a journal that are of recipes as they are."""
    path = folder / f"{name}.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in found if not line["case"].get("changes")]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Without the columns that are empty."""
    kept = [index for index in range(len(header)) if any(row[index] for row in rows)]
    lines = [f"| {' | '.join(row[index] for index in kept)} |" for row in (header, *rows)]
    return "\n".join([lines[0], "|:--|" + "--:|" * (len(kept) - 1), *lines[1:], ""])


def by_device(found: list[dict]) -> Iterator[tuple[str, list[dict]]]:
    """(what the numbers were made with, the lines) for each device, accelerators first."""
    for device in sorted({line["made"]["device"] for line in found}, key=lambda name: ("cores of" in name, name)):
        here = [line for line in found if line["made"]["device"] == device]
        versions = here[-1]["made"]["versions"]
        made = ", ".join(f"{package} {versions[package]}" for package in ("jax", "torch") if package in versions)
        yield f"{device}, {made}, {max(line['made']['date'] for line in here)}", here


def fastest(found: list[dict]) -> dict | None:
    return max(found, key=lambda line: line["found"]["images_per_second"], default=None)


def rate(found: list[dict]) -> str:
    """The images a second of the fastest of some lines."""
    best = fastest(found)
    return f"{best['found']['images_per_second']:,.0f}" if best else ""


def throughput(found: list[dict]) -> str:
    """A row for each recipe, batch and dtype: its fastest way of each part, and the limits where they are known."""
    rows = []
    keys = {(line["case"]["recipe"], line["case"]["batch"], line["case"].get("dtype")) for line in found}
    for recipe, batch, dtype in sorted((k for k in keys if k[2]), key=lambda k: (k[2], RECIPES.index(k[0]), k[1])):
        parts: dict[str, list[dict]] = {"loop": [], "step": [], "feed": []}
        for line in found:
            case = line["case"]
            if (case["recipe"], case["batch"], case.get("dtype", dtype)) == (recipe, batch, dtype):
                parts[case["part"]].append(line)
        of_limits = [line["found"].get("percent_of_limits") for line in parts["loop"] if fastest(parts["loop"]) is line]
        percent = " / ".join(f"{share:.0f}" for share in of_limits[0].values()) if any(of_limits) else ""
        rows.append([recipe, str(batch), dtype, *map(rate, parts.values()), percent])
    return table(["recipe", "batch", "dtype", "as trained", "step alone", "feed alone", "% of limits A / C / D"], rows)


def ways(found: list[dict]) -> str:
    """A row for each recipe, batch and dtype: how fast it trains by how its steps are sent."""
    rows: dict[tuple, dict[tuple, str]] = {}
    for line in found:
        case = line["case"]
        if case["part"] == "loop":
            row = rows.setdefault((case["dtype"], RECIPES.index(case["recipe"]), case["batch"]), {})
            row[case["way"], case["steps"]] = rate([line])
    columns = sorted({column for row in rows.values() for column in row}, key=lambda way: (way[1], way[0]))
    header = ["recipe", "batch", "dtype", *(f"{way}, {steps} a dispatch" for way, steps in columns)]
    named = {(RECIPES[index], str(batch), dtype): rows[dtype, index, batch] for dtype, index, batch in sorted(rows)}
    return table(header, [[*name, *(row.get(column, "") for column in columns)] for name, row in named.items()])


def step(found: list[dict]) -> str:
    """A row for each network and batch: ours beside PyTorch's, whose memory format is the faster of the two."""
    columns = {
        "float32": ["jax float32"],
        "PyTorch float32": ["torch float32", "torch float32 channels_last"],
        "bfloat16": ["jax bfloat16"],
        "PyTorch bfloat16": ["torch bfloat16"],
        "compiled": ["torch bfloat16 compiled"],
    }
    rows = []
    for name, batch in sorted({(line["case"]["network"], line["case"]["batch"]) for line in found}):
        here = [line for line in found if (line["case"]["network"], line["case"]["batch"]) == (name, batch)]
        rates = [rate([line for line in here if line["case"]["variant"] in variants]) for variants in columns.values()]
        rows.append([name, str(batch), *rates])
    return table(["network", "batch", *columns], rows)


def profile(found: list[dict]) -> str:
    """A column for each recipe: the share of every kind of kernel."""
    kinds = sorted({kind for line in found for kind in line["found"]["kinds"]})
    whole = [line["found"]["milliseconds"] for line in found]
    rows = [
        [kind, *(f"{line['found']['kinds'].get(kind, 0) / ms:.0%}" for line, ms in zip(found, whole, strict=True))]
        for kind in sorted(kinds, key=lambda kind: -found[0]["found"]["kinds"].get(kind, 0))
    ]
    head = [f"{line['case']['recipe']}, {line['case']['dtype']}, batch {line['case']['batch']}" for line in found]
    return table(["share of a step", *head], [*rows, ["milliseconds", *(f"{ms:,.1f}" for ms in whole)]])


SECTIONS = (
    ("throughput", "Training images a second, the fastest way of each part", throughput),
    ("throughput", "The same as trained, by how steps are sent", ways),
    ("step", "Images a second of a step beside PyTorch's", step),
    ("speed", "Seconds to an accuracy", speed.table),
    ("startup", "Seconds from starting a process to the end of its first training step, and its parts", startup.table),
    ("speed_ablation", "What single ideas of `speed94` are worth, small, in percent", speed_ablation.table),
    ("profile", "Where the time of a step goes", profile),
)


def numbers(folder: Path = RESULTS) -> str:
    """All that README says of what was measured."""
    parts = []
    reproduced = lines("reproduce", folder)
    if reproduced:
        parts.append(f"**Recipes trained as their reports did.** {reproduce.table(reproduced)}")
    for name, title, draw in SECTIONS:
        parts += [f"**{title}.** {device}:\n\n{draw(here)}" for device, here in by_device(lines(name, folder))]
    return "".join(f"{part}\n" for part in parts)


def updated(text: str, folder: Path = RESULTS) -> str:
    """README's text with the numbers of now."""
    before, rest = text.split(START)
    after = rest.split(END)[1]
    return f"{before}{START}\n{numbers(folder)}{END}{after}"


def main() -> None:
    README.write_text(updated(README.read_text()))


if __name__ == "__main__":
    main()
