"""Pack the weights of finished runs for a release: python -m benchmarks.release WORKDIR... --output=FOLDER

FOLDER then holds, for each run, its weights as NAME.safetensors and its config as NAME.json, where NAME is that of
benchmarks.runs; README.md, a table of accuracy and licence; and SHA256SUMS, which `sha256sum --check SHA256SUMS` reads.

With --pretrained instead of --output, a run recorded in benchmarks/results/runs becomes a pretrained network of the
package, named after the run's network, in place of the previous one. Its kernels are rounded to float16, and the test
split is then evaluated again, which needs the dataset. WORKDIR may also be the folder of a pretrained network: its card
is written again, with all seeds that have been recorded since.
"""

import hashlib
import statistics
import sys
from pathlib import Path

import numpy as np

from benchmarks import command_line, runs
from benchmarks.record import RESULTS
from benchmarks.tables import table
from resnet_flax.api import Network
from resnet_flax.commands.export import encode_network, export, exported_files
from resnet_flax.config.checks import complete
from resnet_flax.config.defaults import changed
from resnet_flax.config.stored import config_to_json, read_config
from resnet_flax.errors import UserError
from resnet_flax.files import atomic_write, write_files
from resnet_flax.models.torch_weights import Tensors, to_torch
from resnet_flax.report.card import model_card
from resnet_flax.text import listed
from resnet_flax.training.restore import fit_weights, restore_checkpoint
from resnet_flax.workdir.predictions import SplitPredictions, wilson_interval
from resnet_flax.workdir.results import read_results
from resnet_flax.workdir.trained import (
    PRETRAINED_FOLDER,
    find_trained,
    read_trained_config,
    read_trained_results,
)

LICENCE = "Apache-2.0"
HEADER = (
    "weights",
    "recipe",
    "parameters",
    "test accuracy",
    "test images",
    "epochs",
    "trained on",
    "commit",
    "licence",
)
ABOUT = """# Weights

Each file has the parameters and running statistics of one run, under the names that ResNet code for CIFAR in PyTorch
commonly has. The file of the same name that ends in .json is its config.

    python -m resnet_flax.main import-torch --config=configs/RECIPE.py --file=NAME.safetensors --workdir=runs/NAME

"""


def pack(workdir: Path, output: Path) -> list[str]:
    """Write weights and config of a finished run into `output`; return its row of the table."""
    config, results = complete(read_config(workdir)), read_results(workdir)
    if "test_accuracy" not in results:
        raise UserError(f"{workdir} is not finished or has no test split: train it to the end first")
    name = runs.name_of(config, results["device"])
    export(config, workdir, "safetensors", str(output / f"{name}.safetensors"))
    with atomic_write(output / f"{name}.json") as file:
        file.write(config_to_json(changed(config, {"data.dir": ""})))
    recipe, changes = runs.identify(config)
    counts = [f"{results[field]:,}" for field in ("parameters", "test_examples", "epochs")]
    row = [name, recipe + (", changed" if changes else ""), counts[0], f"{results['test_accuracy']:.2%}", *counts[1:]]
    return [*row, f"{config.data.name} {config.data.train}", results.get("code", ""), LICENCE]


def pack_pretrained(workdir: Path, folder: Path = PRETRAINED_FOLDER, results: Path = RESULTS) -> Path:
    """Write the network of a finished run that is recorded in `results` into `folder`, and return its folder there."""
    path = find_trained(workdir)
    config, outcome = complete(read_trained_config(path)), read_trained_results(path)
    name = runs.name_of(config, outcome.get("device", ""))
    recorded = {run.path.name: run for run in runs.read(results) if run.results}
    accuracy = outcome.get("run_test_accuracy", outcome.get("test_accuracy"))
    if name not in recorded or recorded[name].results["test_accuracy"] != accuracy:
        raise UserError(f"{workdir} is not the finished run {name} in {results / runs.RUNS}: record it first")
    run = recorded[name]
    tensors = half_precision(to_torch(restore_checkpoint(config, path).tree["state"].variables))
    found = Network(config, fit_weights(config, tensors, path), {}).evaluate("test")
    seeds = [
        other.results["test_accuracy"]
        for other in recorded.values()
        if (other.recipe, other.changes) == (run.recipe, run.changes)
    ]
    spread = {"mean": statistics.mean(seeds), "std": statistics.stdev(seeds)} if len(seeds) > 1 else {}
    facts = run.results | {
        "test_accuracy": found.accuracy,
        "test_loss": found.loss,
        "test_examples": len(found),
        "test_interval": [round(bound, 5) for bound in wilson_interval(found.correct, len(found))],
        "run": name,
        "run_test_accuracy": accuracy,
        "seeds": len(seeds),
        **({"seeds_test_accuracy": spread} if spread else {}),
        "recipe": " ".join([run.recipe, *run.changes]),
        "command": run.command(),
        "weights": "kernels rounded to float16, the rest float32",
    }
    files = exported_files(config, encode_network(config, tensors), facts)
    evaluated = SplitPredictions(found, "test", config.data.test, 0)
    card = model_card(config, facts, evaluated, files, LICENCE)
    write_files(folder / config.model.name, files | {"README.md": card.encode()})
    return folder / config.model.name


def half_precision(tensors: Tensors) -> Tensors:
    """Return a state_dict with its kernels as float16; tensors with one axis are small and stay as they are.

    Raises UserError if a kernel has a value that is too large for float16.
    """
    with np.errstate(over="ignore"):
        rounded = {name: tensor.astype(np.float16) if tensor.ndim > 1 else tensor for name, tensor in tensors.items()}
    if large := [name for name, tensor in rounded.items() if not np.isfinite(tensor).all()]:
        raise UserError(f"too large for float16: {listed(large)}")
    return rounded


def main() -> int:
    parser = command_line.parser(__doc__)
    parser.add_argument("workdirs", type=Path, nargs="+", metavar="WORKDIR")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--output", type=Path, help="the folder of the release")
    place.add_argument("--pretrained", action="store_true", help="make the runs pretrained networks of the package")
    arguments = parser.parse_args()
    if arguments.pretrained:
        for workdir in arguments.workdirs:
            print(pack_pretrained(workdir))
        return 0
    output = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    rows = [pack(workdir, output) for workdir in arguments.workdirs]
    (output / "README.md").write_text(ABOUT + table(HEADER, rows))
    files = sorted(path for path in output.iterdir() if path.suffix in (".safetensors", ".json", ".md"))
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (output / "SHA256SUMS").write_text("".join(sums))
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(main))
