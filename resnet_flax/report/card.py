"""The model card of an exported network: Markdown with the front matter that the Hugging Face Hub reads."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import FrozenConfigDict

from resnet_flax.data.datasets.splits import own_splits
from resnet_flax.report.evaluation import CONFUSIONS_HEADER, confusions
from resnet_flax.report.facts import interval_text, number, parameter_count, run_facts
from resnet_flax.report.tables import CLASS_HEADER, MAX_NAME_CHARS, class_rows, decimal, percent
from resnet_flax.text import escape_line
from resnet_flax.workdir.predictions import Predictions, SplitPredictions

# Our name of a dataset -> the Hub's.
HUB_DATASETS = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100", "svhn": "ufldl-stanford/svhn"}
MARKUP = re.compile(r"([\\`*_\[\]|<>#&$])")

Rows = Sequence[Sequence[object]]


def model_card(
    config: FrozenConfigDict,
    results: Mapping[str, Any],
    evaluated: SplitPredictions | None,
    files: Mapping[str, bytes],
    licence: str = "",
) -> str:
    """Return the card of a network: how it was trained, how good it is, where it fails, and the checksums of `files`.

    `results` are those in the exported folder; `licence` is an SPDX identifier, "" if none has been chosen.
    """
    sections = [
        front_matter(config, results, licence),
        introduction(config),
        section("Training", table(("", ""), training_rows(config, results))),
        section("Accuracy", accuracy(config, results)),
        *(prediction_sections(evaluated, config.data.classes) if evaluated else ()),
        section("Limits", limits(config, results)),
        section("Licence", licence_text(licence)),
        section("Files", table(("file", "bytes", "SHA-256"), file_rows(files))),
    ]
    return "\n".join(sections)


def front_matter(config: FrozenConfigDict, results: Mapping[str, Any], licence: str) -> str:
    """Return the metadata that the Hub reads, as YAML; values are JSON, which is YAML that no string can end early."""
    name = "own images" if own_splits(config.data.dir) else config.data.name
    dataset = HUB_DATASETS.get(name)
    fields: dict[str, Any] = {"license": licence.lower()} if licence else {}
    fields |= {"library_name": "resnet_flax", "pipeline_tag": "image-classification", "tags": ["resnet", "jax", "flax"]}
    fields |= {"datasets": [dataset]} if dataset else {}
    if "test_accuracy" in results:
        task = {"type": "image-classification"}
        data = {"name": name, "type": dataset or name, "split": config.data.test}
        found = {"task": task, "dataset": data, "metrics": [{"type": "accuracy", "value": results["test_accuracy"]}]}
        fields |= {"metrics": ["accuracy"], "model-index": [{"name": config.model.name, "results": [found]}]}
    return "\n".join(["---", *(f"{name}: {json.dumps(value)}" for name, value in fields.items()), "---", ""])


def introduction(config: FrozenConfigDict) -> str:
    size, classes = config.data.image_size, len(config.data.classes)
    parameters = parameter_count(config)
    names = [plain(escape_line(name, MAX_NAME_CHARS)) for name in config.data.classes[:20]]
    return f"""# {plain(config.model.name)}

A residual network with {parameters:,} parameters for {size} x {size} colour images of {classes} classes:
{", ".join(names)}{", ..." if classes > 20 else "."}

```python
import resnet_flax as rf

net = rf.load("FOLDER")  # with model.safetensors; or hf:OWNER/NAME
net.classes[net.predict("photo.jpg")[0].argmax()]
```

Loading executes nothing from these files.
"""


def training_rows(config: FrozenConfigDict, results: Mapping[str, Any]) -> Rows:
    examples, epochs = (number(results, name) for name in ("train_examples", "epochs"))
    return [
        ("recipe", results["recipe"]),
        ("command", results["command"]),
        ("data", f"{config.data.name}, {config.data.train}" + (f", {examples:,.0f} images" if examples > 0 else "")),
        ("augmentation", config.data.policy),
        ("epochs", f"{epochs:.0f}; these are the weights of epoch {results['chosen_epoch']:.0f}"),
        *run_facts(config, results).items(),
    ]


def accuracy(config: FrozenConfigDict, results: Mapping[str, Any]) -> str:
    """Return the accuracy on the test split, and what its interval covers."""
    if "test_accuracy" not in results:
        return "The run had no test split.\n"
    chosen = config.data.validation or "nothing held out: the last epoch"
    only_one = ", the only one that was trained" if results.get("seeds") == 1 else ""
    facts = [
        ("test accuracy", percent(results["test_accuracy"])),
        ("95 % interval", interval_text(results)),
        ("test loss", f"{decimal(results['test_loss'])} nats"),
        ("test images", f"{results['test_examples']:,}, {config.data.test}"),
        ("epoch chosen on", chosen),
        ("weights", results["weights"]),
        *seeds_rows(results),
    ]
    return f"""{table(("", ""), facts)}
The interval is Wilson's, for the choice of the test images. It does not cover the spread between seeds: these are the
weights of seed {config.seed}{only_one}.
"""


def seeds_rows(results: Mapping[str, Any]) -> Rows:
    """Return how many seeds were trained and the spread of their accuracy, as far as `results` say."""
    if "seeds" not in results:
        return []
    diverged, spread = results.get("seeds_diverged", 0), results.get("seeds_test_accuracy")
    rows = [("seeds trained", f"{results['seeds']}" + (f", of which {diverged} diverged" if diverged else ""))]
    if spread:
        text = f"{percent(spread['mean'])} ± {percent(spread['std'])}, mean and standard deviation"
        rows.append(("test accuracy of the seeds", text + " without those that diverged" * bool(diverged)))
    return rows


def prediction_sections(evaluated: SplitPredictions, classes: Sequence[str]) -> list[str]:
    """Return sections about the predictions on the test split, or without one on the validation split."""
    found, about = evaluated.predictions, f"On the {evaluated.role} split, {len(evaluated.predictions):,} images.\n\n"
    confused = table(CONFUSIONS_HEADER, confusions(found, classes))
    return [
        section("Most frequent confusions", about + confused),
        section("Classes", about + table(CLASS_HEADER, class_rows(found, classes))),
        section("Calibration", about + table(("", ""), calibration_rows(found))),
    ]


def calibration_rows(found: Predictions) -> Rows:
    calibration = found.calibration()
    return [
        ("mean confidence", percent(found.confidence)),
        ("accuracy", percent(found.accuracy)),
        ("expected calibration error", f"{percent(calibration.error)}, in {len(calibration.counts)} bins"),
    ]


def limits(config: FrozenConfigDict, results: Mapping[str, Any]) -> str:
    size = config.data.image_size
    source = "images from the source of the training data. Expect less on other photographs."
    accuracy = (
        f"Its accuracy was measured on {source}" if "test_accuracy" in results else "Its accuracy was not tested."
    )
    return f"""- It predicts one of these {len(config.data.classes)} classes for any image, even for noise.
- It sees {size} x {size} pixels: larger images are first reduced to that size, and small objects in them are lost.
- {accuracy}
- Nobody has examined it for bias, or for robustness to adversarial images. It is for research and teaching.
"""


def licence_text(licence: str) -> str:
    if licence:
        return f"{plain(licence)}, for both the weights and the code. The training data have terms of their own.\n"
    return "No licence has been chosen for these weights yet: add `license:` above.\n"


def file_rows(files: Mapping[str, bytes]) -> Rows:
    return [(name, f"{len(content):,}", hashlib.sha256(content).hexdigest()) for name, content in files.items()]


def section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}"


def table(header: Sequence[str], rows: Rows) -> str:
    """Return a Markdown table; the cells are text, never markup."""
    lines = [header, [":--"] * len(header), *([plain(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def plain(text: object) -> str:
    """Return `text`, which may be an untrusted class name, escaped so that Markdown shows it as it is."""
    return MARKUP.sub(r"\\\1", escape_line(text))
