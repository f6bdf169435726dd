"""Write the numbers of README.md, docs/ and configs/ from benchmarks/results: python -m benchmarks.readme

In the documents they are between two comments, which name the part; in a recipe's docstring they follow "This
project:". Nothing else is touched.
"""

import re
import statistics
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from benchmarks import (
    ablation,
    accuracy,
    command_line,
    compiled,
    recipes,
    runs,
    scaling,
    speed,
    speed_ablation,
    startup,
)
from benchmarks.pictures import PICTURE
from benchmarks.recipes import ROOT
from benchmarks.record import RESULTS, is_cpu, read_lines
from benchmarks.runs import Recorded
from benchmarks.tables import span, spread, table
from resnet_flax.report.facts import parameter_count
from resnet_flax.workdir.predictions import wilson_interval

DOCUMENTS = (
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("recipes", "results", "compiled", "many_devices")),
)
RECIPE_FILES = tuple(ROOT / "configs" / f"{name}.py" for name in recipes.NAMES)
PART = re.compile(r"(<!-- (\w+), written by python -m benchmarks.readme: -->\n).*?(<!-- end of \2 -->\n)", re.DOTALL)
# The rows of README: each network as in its report, and with `fast`.
OVERVIEW = (
    *(row for name in recipes.RECIPES for row in (recipes.as_reported(name), f"{name}:fast")),
    *(f"{name}:full" for name in recipes.OWN),
)
DOCSTRING = re.compile(r'^This project: .*?(?=\n\n|\n""")', re.DOTALL | re.MULTILINE)  # of a recipe: its accuracy
BLOCKS = {
    "basic": "basic blocks",
    "bottleneck": "bottleneck blocks",
    "preact": "pre-activation blocks",
    "pool": "pooling blocks",
}


def lines(name: str, folder: Path = RESULTS) -> list[dict]:
    """Return the lines of a journal that are about unchanged recipes."""
    found = read_lines(folder / f"{name}.jsonl")
    return [line for line in found if not line["case"].get("changes")]


def by_device(found: list[dict]) -> Iterator[tuple[str, list[dict]]]:
    """Yield (device, versions and newest date; its lines) for each device, accelerators first."""
    for device in sorted({line["made"]["device"] for line in found}, key=lambda name: (is_cpu(name), name)):
        here = [line for line in found if line["made"]["device"] == device]
        made = [f"{package} {versions}" for package in ("jax", "torch") if (versions := versions_of(package, here))]
        yield ", ".join([device, *made, max(line["made"]["date"] for line in here)]), here


def versions_of(package: str, found: list[dict]) -> str:
    """Return the versions of a package with which lines were made, such as "0.10.2 and 0.12.0"."""
    versions = [line["made"]["versions"] for line in found]
    return " and ".join(sorted({one[package] for one in versions if package in one}))


def fastest(found: list[dict]) -> dict | None:
    return max(found, key=lambda line: line["found"]["images_per_second"], default=None)


def rate(found: list[dict]) -> str:
    """Return the images per second of the fastest of some lines."""
    best = fastest(found)
    return f"{best['found']['images_per_second']:,.0f}" if best else ""


def throughput(found: list[dict]) -> str:
    """Return a row for each recipe, batch and dtype: the fastest way of each part, and its share of known limits."""
    rows = []
    keys = {(case["recipe"], case["batch"], case["dtype"]) for line in found if "dtype" in (case := line["case"])}
    for recipe, batch, dtype in sorted(keys, key=in_order):
        parts: dict[str, list[dict]] = {"loop": [], "step": [], "feed": []}
        for line in found:
            case = line["case"]
            if (case["recipe"], case["batch"], case.get("dtype", dtype)) == (recipe, batch, dtype):
                parts[case["part"]].append(line)
        best = fastest(parts["loop"])
        percents = best["found"].get("percent_of_limits", {}) if best else {}
        shares = " / ".join(f"{percent:.0f}" for percent in percents.values())
        rows.append([recipe, str(batch), dtype, *map(rate, parts.values()), shares])
    limits = "% of peak / roofline / attainable"
    return table(["recipe", "batch", "dtype", "training", "step alone", "feed alone", limits], rows)


def in_order(setting: tuple[str, int, str]) -> tuple[str, int, int]:
    """Return the key by which rows of (recipe, batch, dtype) are sorted."""
    recipe, batch, dtype = setting
    return dtype, recipes.NAMES.index(recipe), batch


def ways(found: list[dict]) -> str:
    """Return a row for each recipe, batch and dtype: its training speed for each way of sending steps to the device."""
    rates: dict[tuple[str, int, str], dict[tuple[int, str], str]] = {}
    for line in found:
        case = line["case"]
        if case["part"] == "loop":
            row = rates.setdefault((case["recipe"], case["batch"], case["dtype"]), {})
            row[case["steps"], case["way"]] = rate([line])
    columns = sorted({column for row in rates.values() for column in row})
    header = ["recipe", "batch", "dtype", *(f"{way}, {steps} per dispatch" for steps, way in columns)]
    rows = [
        [*map(str, setting), *(rates[setting].get(column, "") for column in columns)]
        for setting in sorted(rates, key=in_order)
    ]
    return table(header, rows)


def step(found: list[dict]) -> str:
    """Return a row for each network and batch: ours and PyTorch's, in PyTorch's faster memory format."""
    columns = {
        "float32": ["jax float32"],
        "PyTorch float32": ["torch float32", "torch float32 channels_last"],
        "PyTorch float32, compiled": ["torch float32 compiled"],
        "bfloat16": ["jax bfloat16"],
        "PyTorch bfloat16": ["torch bfloat16"],
        "PyTorch bfloat16, compiled": ["torch bfloat16 compiled"],
    }
    rows = []
    for name, batch in sorted({(line["case"]["network"], line["case"]["batch"]) for line in found}):
        here = [line for line in found if (line["case"]["network"], line["case"]["batch"]) == (name, batch)]
        rates = [rate([line for line in here if line["case"]["variant"] in variants]) for variants in columns.values()]
        rows.append([name, str(batch), *rates])
    return table(["network", "batch", *columns], rows)


def profile(found: list[dict]) -> str:
    """Return a column for each recipe: the share of each kind of kernel."""
    kinds = sorted({kind for line in found for kind in line["found"]["kinds"]})
    whole = [line["found"]["milliseconds"] for line in found]
    rows = [
        [kind, *(f"{line['found']['kinds'].get(kind, 0) / ms:.0%}" for line, ms in zip(found, whole, strict=True))]
        for kind in sorted(kinds, key=lambda kind: -found[0]["found"]["kinds"].get(kind, 0))
    ]
    head = [f"{line['case']['recipe']}, {line['case']['dtype']}, batch {line['case']['batch']}" for line in found]
    return table(["share of a step", *head], [*rows, ["milliseconds", *(f"{ms:,.1f}" for ms in whole)]])


# Heading, what a reader must know, and the function that lists recorded runs.
OF_RUNS = (
    (
        "Test accuracy of the recipes",
        "Mean and standard deviation over n seeds on CIFAR-10; the test split is evaluated once, at the end of a run,\n"
        "and for the recipes for speed once more, with the six views of the published records: `--tta=flip,shift`.\n"
        "All runs on CPUs compute in float32, with the instructions named. CPUs were shared with other work, so times\n"
        "on them are upper bounds.",
        accuracy.trained,
    ),
    (
        "Runs of changed recipes",
        "These settings match no recipe; each command shows what it changes, and repeats the run at its commit.",
        accuracy.changed,
    ),
    (
        "Unfinished runs",
        "Each command resumes its run in its own workdir, or repeats it from scratch in another.",
        accuracy.unfinished,
    ),
)

# Log, heading, what a reader must know, and the function that makes its table.
SECTIONS = (
    (
        "throughput",
        "Training images per second, fastest variant of each part",
        "`training` is the step and its feed together, as in a run.",
        throughput,
    ),
    (
        "throughput",
        "Training images per second, by how steps are sent to the device",
        "`host`: tf.data makes the batches; `single`, `looped`, `grouped`: the device makes them, for one or several "
        "steps, or as training does on a GPU.",
        ways,
    ),
    (
        "step",
        "Images per second of a training step, compared with PyTorch",
        "Both with SGD and momentum. PyTorch is eager unless compiled, in the faster memory format of those measured.\n"
        "Medians of all rounds; on the EPYC with half-rate AVX-512 these are of two kinds: "
        "[step.md](../benchmarks/results/step.md).",
        step,
    ),
    (
        "speed",
        "Seconds to an accuracy",
        "Test accuracy of the last weights: mean and standard deviation.",
        speed.table,
    ),
    (
        "startup",
        "Seconds from starting a process to the end of its first training step",
        "`device` and `tfdata` are the feeds, `plain` is plain Flax; a warm start has its programs in the cache. Parts "
        "`imports` to `step` run one after another; the other parts are contained in them.",
        startup.table,
    ),
    (
        "speed_ablation",
        "What each idea of `speed94` contributes, in a small copy of it",
        "Widths 8/16/32, 4 epochs on 10,000 images; accuracy on 5,000 held-out images, mean and standard deviation.\n"
        "The difference is from the recipe with the same seed, with Student's interval: if that contains 0, it may be\n"
        "chance.",
        speed_ablation.table,
    ),
    (
        "ablation",
        "Effect of single changes to a recipe",
        "Accuracy after the last epoch on held-out training images, mean and standard deviation; the difference is\n"
        "from the recipe with the same seed, with Student's interval. If that contains 0, or for one seed, it may be\n"
        "chance. Where a machine was shared with other work, times would say nothing and are left out.",
        ablation.tables,
    ),
    ("profile", "Where the time of a training step goes", "By kind of kernel.", profile),
)


def measurements(folder: Path) -> str:
    """Return every table of docs/results.md, each under a heading."""
    found = runs.read(folder)
    parts = [f"### {title}\n\n{about}\n\n{text}" for title, about, draw in OF_RUNS if (text := draw(found))]
    for name, title, about, draw in SECTIONS:
        tables = [f"On {device}:\n\n{draw(here)}" for device, here in by_device(lines(name, folder))]
        parts += ["\n".join([f"### {title}\n\n{about}\n", *tables])] if tables else []
    return "\n".join(parts)


def overview(folder: Path) -> str:
    """Return a row for each recipe, as in its report and `fast`: its network, its report, and what was found here."""
    found = runs.read(folder)
    rows = [row for recipe in OVERVIEW for row in overview_rows(recipe, found, folder)]
    return table(["recipe", "network", "parameters", "report", "ours", "epochs", "training images", "time"], rows)


def overview_rows(recipe: str, found: list[Recorded], folder: Path) -> list[list[str]]:
    """Return a row for each group of a recipe's runs, or one that says that there is none."""
    name, _, word = recipe.partition(":")
    ours = [
        [
            group.accuracies(),
            span(group.values("epochs")),
            span(group.values("train_examples")),
            f"{group.seconds()} on {group.device}",
        ]
        for group in accuracy.groups(found)
        if group.recipe == recipe
    ]
    ours += [[text, "", "", ""] for text in fastest_to_target(name, folder)]
    link = f"[{recipe}](configs/{name}.py)"
    architecture = ["the same, 10 epochs of Muon", ""] if word == "fast" else network(name)
    return [[link, *architecture, reported(recipe), *cells] for cells in ours or [[accuracy.UNMEASURED, "", "", ""]]]


def fastest_to_target(name: str, folder: Path) -> list[str]:
    """Return, for each device, accuracy and seconds of a recipe as benchmarks.speed measured them."""
    found = [line for line in lines("speed", folder) if line["case"]["recipe"] == name]
    texts = []
    for device, here in by_device(found):
        measured = [line["found"] for line in here]
        seconds = statistics.mean(one["seconds"] for one in measured)
        percent = spread([100 * one["accuracy"] for one in measured])
        texts.append(f"{percent} % in {seconds:.2f} s (n = {len(measured)}, {device.partition(',')[0]})")
    return texts


def settings(folder: Path) -> str:
    """Return a row for each recipe, how it is trained; and below, the augmentation of each."""
    rows, policies = [], []
    for name in recipes.NAMES:
        config = recipes.config(name)
        optimizer, schedule, train = config.optimizer, config.schedule, config.train
        numbers = [f"{value:g}" for value in (optimizer.learning_rate, optimizer.weight_decay)]
        link = f"[{name}](../configs/{name}.py)"
        rows.append([link, f"{train.epochs}", f"{train.batch_size}", optimizer.name, *numbers, schedule.name])
        plain = ", plus the unaugmented images in each epoch" if config.data.concat_original else ""
        policies.append(f"- {name}: `{config.data.policy}`{plain}\n")
    header = ["recipe", "epochs", "batch", "optimiser", "learning rate", "weight decay", "schedule"]
    return f"{table(header, rows)}\nAugmentation:\n\n{''.join(policies)}"


def programs(folder: Path) -> str:
    """Return the tables of docs/compiled.md."""
    return compiled.tables(lines("compiled", folder))


def chips(folder: Path) -> str:
    """Return the tables of docs/many_devices.md."""
    return scaling.tables(lines("compiled", folder))


def caption(folder: Path) -> str:
    """Return two sentences about the run in the README's picture."""
    run = pictured(folder)
    results, config = run.results, run.config
    low, high = wilson_interval(round(results["test_accuracy"] * results["test_examples"]), results["test_examples"])
    device = "a CPU" if is_cpu(results["device"]) else results["device"]
    epochs = f"{results['epochs']} epochs of {config.optimizer.name.upper()} on {results['train_examples']:,} images"
    tested = f"{results['test_accuracy']:.2%} of {results['test_examples']:,} test images"
    return (
        f"*One run of `{config.model.name}` on CIFAR-10, with {results['parameters']:,} parameters: {epochs}\n"
        f"on {device}. It classifies {tested} correctly (95 % interval {low:.2%} to {high:.2%}).\n"
        "[How it was made](docs/results.md#the-readmes-picture).*\n"
    )


def picture(folder: Path) -> str:
    """Return the run in the README's picture, and the command that trained it."""
    run = pictured(folder)
    return f"It shows the run {accuracy.link(run)}:\n`{run.command()}`\n"


def pictured(folder: Path) -> Recorded:
    """Return the run that the README's picture names."""
    return runs.read_one(folder / runs.RUNS / Image.open(PICTURE).text["Run"])


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
    count = parameter_count(config)
    return ", ".join(filter(None, parts)), f"{count:,}"


def reported(recipe: str) -> str:
    """Return the test accuracy that the report of a recipe's network states, "" without a report."""
    return re.sub(r"^[\d.]+|(?<=, )[\d.]+", r"\g<0> %", accuracy.reported(recipe))


PARTS: dict[str, Callable[[Path], str]] = {
    "caption": caption,
    "overview": overview,
    "picture": picture,
    "recipes": settings,
    "measurements": measurements,
    "compiled": programs,
    "scaling": chips,
}


def updated(text: str, folder: Path = RESULTS) -> str:
    """Return a document's text with the numbers of `folder` in each of its parts."""
    return PART.sub(lambda match: f"{match[1]}\n{PARTS[match[2]](folder)}\n{match[3]}", text)


def updated_recipe(path: Path, folder: Path = RESULTS) -> str:
    """Return the text of a recipe with the accuracies of `folder` in its docstring."""
    says = textwrap.fill(accuracy.statement(path.stem, runs.read(folder)), 120)
    return DOCSTRING.sub(lambda _: says, path.read_text())


def main() -> None:
    for path in DOCUMENTS:
        path.write_text(updated(path.read_text()))
    for path in RECIPE_FILES:
        path.write_text(updated_recipe(path))


if __name__ == "__main__":
    sys.exit(command_line.run(main))
