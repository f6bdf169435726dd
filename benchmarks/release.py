"""Pack the weights of finished runs for a release: python -m benchmarks.release WORKDIR... --output=FOLDER

FOLDER then holds, for each run, its weights as NAME.safetensors and its config as NAME.json, where NAME is that of
benchmarks.runs; README.md, a table of accuracy and licence; and SHA256SUMS, which `sha256sum --check SHA256SUMS` reads.
"""

import argparse
import hashlib
import sys
from pathlib import Path

from benchmarks import recipes, runs
from benchmarks.tables import table
from resnet_flax.commands.export import export
from resnet_flax.config.checks import complete
from resnet_flax.config.defaults import changed
from resnet_flax.config.stored import config_to_json, read_config
from resnet_flax.errors import UserError
from resnet_flax.files import atomic_write
from resnet_flax.workdir.results import read_results

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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdirs", type=Path, nargs="+", metavar="WORKDIR")
    parser.add_argument("--output", type=Path, required=True, help="the folder of the release")
    arguments = parser.parse_args()
    output = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    rows = [pack(workdir, output) for workdir in arguments.workdirs]
    (output / "README.md").write_text(ABOUT + table(HEADER, rows))
    files = sorted(path for path in output.iterdir() if path.suffix in (".safetensors", ".json", ".md"))
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (output / "SHA256SUMS").write_text("".join(sums))
    return 0


if __name__ == "__main__":
    sys.exit(recipes.run(main))
