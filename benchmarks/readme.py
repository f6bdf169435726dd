"""Write the numbers of README.md and docs/ from benchmarks/results and the recipes: python -m benchmarks.readme

They stand between two comments, which name the part; nothing else in the documents is touched.
"""

import json
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import recipes, reproduce, speed, speed_ablation, startup
from benchmarks.record import RESULTS
from resnet_flax import models
from resnet_flax.data.datasets.load import image_shape
from resnet_flax.workdir.predictions import wilson_interval

ROOT = RESULTS.parents[1]
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "recipes.md", ROOT / "docs" / "results.md")
PART = re.compile(r"(<!-- (\w+), written by python -m benchmarks.readme: -->\n).*?(<!-- end of \2 -->\n)", re.DOTALL)
ALL_RECIPES = (*recipes.RECIPES, *dict.fromkeys(recipe for recipe, _ in speed.TARGETS.values()))
UNMEASURED = "not yet measured"
BLOCKS = {"basic": "basic blocks", "preact": "pre-activation blocks", "pool": "pooling blocks"}


def lines(name: str, folder: Path = RESULTS) -> list[dict]:
    """Return the lines of a journal that are about unchanged recipes."""
    path = folder / f"{name}.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in found if not line["case"].get("changes")]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table without the columns that are empty; those of numbers are aligned to the right."""
    kept = [column for column in zip(header, *rows, strict=True) if any(column[1:])]
    numbers = [all(re.match(r"[+-]?\d|$", cell) for cell in column[1:]) for column in kept]
    rule = "|".join("--:" if number else ":--" for number in numbers)
    head, *body = [f"| {' | '.join(row)} |" for row in zip(*kept, strict=True)]
    return "\n".join([head, f"|{rule}|", *body, ""])


def by_device(found: list[dict]) -> Iterator[tuple[str, list[dict]]]:
    """Yield (device, versions and date; its lines) for each device, accelerators first."""
    for device in sorted({line["made"]["device"] for line in found}, key=lambda name: ("cores of" in name, name)):
        here = [line for line in found if line["made"]["device"] == device]
        versions = here[-1]["made"]["versions"]
        made = ", ".join(f"{package} {versions[package]}" for package in ("jax", "torch") if package in versions)
        yield f"{device}, {made}, {max(line['made']['date'] for line in here)}", here


def fastest(found: list[dict]) -> dict | None:
    return max(found, key=lambda line: line["found"]["images_per_second"], default=None)


def rate(found: list[dict]) -> str:
    """Return the images per second of the fastest of some lines."""
    best = fastest(found)
    return f"{best['found']['images_per_second']:,.0f}" if best else ""


def throughput(found: list[dict]) -> str:
    """A row for each recipe, batch and dtype: the fastest way of each part, and its share of known limits."""
    rows = []
    keys = {(line["case"]["recipe"], line["case"]["batch"], line["case"].get("dtype")) for line in found}
    in_order = sorted((k for k in keys if k[2]), key=lambda k: (k[2], recipes.RECIPES.index(k[0]), k[1]))
    for recipe, batch, dtype in in_order:
        parts: dict[str, list[dict]] = {"loop": [], "step": [], "feed": []}
        for line in found:
            case = line["case"]
            if (case["recipe"], case["batch"], case.get("dtype", dtype)) == (recipe, batch, dtype):
                parts[case["part"]].append(line)
        of_limits = [line["found"].get("percent_of_limits") for line in parts["loop"] if fastest(parts["loop"]) is line]
        percent = " / ".join(f"{share:.0f}" for share in of_limits[0].values()) if any(of_limits) else ""
        rows.append([recipe, str(batch), dtype, *map(rate, parts.values()), percent])
    return table(["recipe", "batch", "dtype", "training", "step alone", "feed alone", "% of limits A / C / D"], rows)


def ways(found: list[dict]) -> str:
    """A row for each recipe, batch and dtype: its training speed for each way of sending steps to the device."""
    rows: dict[tuple, dict[tuple, str]] = {}
    for line in found:
        case = line["case"]
        if case["part"] == "loop":
            row = rows.setdefault((case["dtype"], recipes.RECIPES.index(case["recipe"]), case["batch"]), {})
            row[case["way"], case["steps"]] = rate([line])
    columns = sorted({column for row in rows.values() for column in row}, key=lambda way: (way[1], way[0]))
    header = ["recipe", "batch", "dtype", *(f"{way}, {steps} per dispatch" for way, steps in columns)]
    named = {
        (recipes.RECIPES[index], str(batch), dtype): rows[dtype, index, batch] for dtype, index, batch in sorted(rows)
    }
    return table(header, [[*name, *(row.get(column, "") for column in columns)] for name, row in named.items()])


def step(found: list[dict]) -> str:
    """A row for each network and batch: ours and PyTorch's, in PyTorch's faster memory format."""
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
    """A column for each recipe: the share of each kind of kernel."""
    kinds = sorted({kind for line in found for kind in line["found"]["kinds"]})
    whole = [line["found"]["milliseconds"] for line in found]
    rows = [
        [kind, *(f"{line['found']['kinds'].get(kind, 0) / ms:.0%}" for line, ms in zip(found, whole, strict=True))]
        for kind in sorted(kinds, key=lambda kind: -found[0]["found"]["kinds"].get(kind, 0))
    ]
    head = [f"{line['case']['recipe']}, {line['case']['dtype']}, batch {line['case']['batch']}" for line in found]
    return table(["share of a step", *head], [*rows, ["milliseconds", *(f"{ms:,.1f}" for ms in whole)]])


# Log, heading, what a reader has to know, and the function that makes its table.
SECTIONS = (
    (
        "throughput",
        "Training images per second, the fastest way of each part",
        "`training` is the step and its feed together, as a run does it.",
        throughput,
    ),
    (
        "throughput",
        "Training images per second, by how steps are sent to the device",
        "`host`: tf.data makes the batches; `single`, `looped`: the device makes them, for one or several steps.",
        ways,
    ),
    ("step", "Images per second of a training step, beside PyTorch", "Both with SGD and momentum.", step),
    (
        "speed",
        "Seconds to an accuracy",
        "Of the last weights on the test split, mean and standard deviation.",
        speed.table,
    ),
    (
        "startup",
        "Seconds from starting a process to the end of its first training step",
        "`device` and `tfdata` are the feeds, `plain` is plain Flax; a warm start has its programs in the cache. Parts "
        "`imports` to `step` follow each other, the others are contained in them.",
        startup.table,
    ),
    (
        "speed_ablation",
        "What each idea of `speed94` contributes, in a small copy of it",
        "Widths 8/16/32, 4 epochs on 10,000 images; accuracy on 5,000 held-out images, mean and standard deviation.",
        speed_ablation.table,
    ),
    ("profile", "Where the time of a training step goes", "By kind of kernel.", profile),
)


def measurements(folder: Path) -> str:
    """Every table of docs/results.md, under a heading each."""
    reproduced = lines("reproduce", folder)
    parts = [f"### Recipes trained as in their reports\n\n{reproduce.table(reproduced)}"] if reproduced else []
    for name, title, about, draw in SECTIONS:
        found = [f"On {device}:\n\n{draw(here)}" for device, here in by_device(lines(name, folder))]
        parts += ["\n".join([f"### {title}\n\n{about}\n", *found])] if found else []
    return "\n".join(parts)


def overview(folder: Path) -> str:
    """A row for each recipe: its network, and the test accuracy of its report beside ours."""
    rows = [
        [f"[{name}](configs/{name}.py)", *network(name), reported(name), ours(name, folder)] for name in ALL_RECIPES
    ]
    return table(["recipe", "network", "parameters", "its report", "this project"], rows)


def settings(folder: Path) -> str:
    """A row for each recipe: how it is trained; below, the augmentation of each."""
    rows, policies = [], []
    for name in ALL_RECIPES:
        config = recipes.config(name)
        optimizer, schedule, train = config.optimizer, config.schedule, config.train
        numbers = [f"{value:g}" for value in (optimizer.learning_rate, optimizer.weight_decay)]
        link = f"[{name}](../configs/{name}.py)"
        rows.append([link, f"{train.epochs}", f"{train.batch_size}", optimizer.name, *numbers, schedule.name])
        plain = ", each epoch together with the images as they are" if config.data.concat_original else ""
        policies.append(f"- {name}: `{config.data.policy}`{plain}\n")
    header = ["recipe", "epochs", "batch", "optimiser", "learning rate", "weight decay", "schedule"]
    return f"{table(header, rows)}\nAugmentation:\n\n{''.join(policies)}"


def caption(folder: Path) -> str:
    """A sentence about the run of README's picture."""
    found = json.loads((folder / "pictures.json").read_text())
    results, config = found["results"], found["config"]
    low, high = wilson_interval(round(results["test_accuracy"] * results["test_examples"]), results["test_examples"])
    device = "a CPU" if results["device"].endswith("cpu") else results["device"]
    trained = (
        f"{results['epochs']} epochs of {config['optimizer']['name'].upper()} on {found['train_examples']:,} images"
    )
    tested = f"{results['test_accuracy']:.2%} of {results['test_examples']:,} test images"
    return (
        f"*One run of `{config['model']['name']}` on CIFAR-10, with {results['parameters']:,} parameters: {trained}\n"
        f"on {device}. It classifies {tested} correctly (95 % interval {low:.2%} to {high:.2%}).\n"
        "[How it was made](docs/results.md#the-picture-of-the-readme).*\n"
    )


def network(recipe: str) -> tuple[str, str]:
    """Return ("basic blocks 4-4-3, 64/128/256", "4,697,162"), for example."""
    config = recipes.config(recipe)
    model = config.model
    parts = [
        "whitening stem" if model.stem == "whitening" else "",
        f"{BLOCKS[model.block]} {'-'.join(map(str, model.blocks))}",
        "/".join(map(str, model.widths)),
        "dropout" if model.block_dropout else "",
    ]
    count = models.count_parameters(models.build(config), image_shape(config.data))
    return ", ".join(filter(None, parts)), f"{count:,}"


def reported(recipe: str) -> str:
    """Return the test accuracy that the recipe's report states, "" without a report."""
    return ", ".join(
        re.sub(r"^[\d.]+", r"\g<0> %", text) for text in reproduce.REPORTED.get(recipe, "").split(", ") if text
    )


def ours(recipe: str, folder: Path) -> str:
    """Return our test accuracy on each device, mean and standard deviation over the seeds, or UNMEASURED."""
    name = "reproduce" if recipe in recipes.RECIPES else "speed"
    found = [line for line in lines(name, folder) if line["case"]["recipe"] == recipe]
    cells = []
    for device, here in by_device(found):
        for target in sorted({line["case"].get("target", "") for line in here}):
            runs = [line["found"] for line in here if line["case"].get("target", "") == target]
            key = "accuracy" if target else "test_accuracy"
            accuracy = speed.spread([100 * run[key] for run in runs])
            seconds = f" in {statistics.mean(run['seconds'] for run in runs):.2f} s" if target else ""
            cells.append(f"{accuracy} %{seconds} (n = {len(runs)}, {device.partition(',')[0]})")
    return "; ".join(cells) or UNMEASURED


PARTS: dict[str, Callable[[Path], str]] = {
    "caption": caption,
    "overview": overview,
    "recipes": settings,
    "measurements": measurements,
}


def updated(text: str, folder: Path = RESULTS) -> str:
    """Return a document's text with the numbers of `folder` in each of its parts."""
    return PART.sub(lambda match: f"{match[1]}\n{PARTS[match[2]](folder)}\n{match[3]}", text)


def main() -> None:
    for path in DOCUMENTS:
        path.write_text(updated(path.read_text()))


if __name__ == "__main__":
    main()
