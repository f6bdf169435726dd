"""Compare fine-tuning on few images with training from scratch: python -m benchmarks.finetune --weights=RUN [--seeds=3]

RUN is a trained `preact`, such as the pretrained network of that name. The same network then learns scikit-learn's
handwritten digits from the first 100 training images, about 10 of each class, and is tested on all 360 test images,
with the weights of the last epoch. Every run has the settings of preact:full, Adam at 0.001, except for 10 epochs,
batches of 20, and no flips; one way from scratch instead has SGD at 0.05 with a cosine schedule. Needs no accelerator
and no download. Writes a line for each run to finetune.jsonl and prints a table.
"""

import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import command_line, recipes, record
from benchmarks.tables import spread, table
from resnet_flax.cache import keep_compiled_programs
from resnet_flax.training.initial import digest, find_initial_weights, read_tensors
from resnet_flax.training.train import train

IMAGES, EPOCHS = 100, 10
DIGITS = (
    "--config.data.name=digits",
    "--config.data.policy=crop(2,reflect)|normalize(cifar10)",
    f"--config.data.train_examples={IMAGES}",
    "--config.train.batch_size=20",
    f"--config.train.epochs={EPOCHS}",
    f"--config.train.checkpoint_every={EPOCHS}",
)
SGD = ("--config.optimizer.name=sgd", "--config.optimizer.learning_rate=0.05", "--config.schedule.name=cosine")
FROZEN = "--config.train.freeze=stem,stage1,stage2"
# Way -> whether it starts from trained weights, and what else it sets.
WAYS: dict[str, tuple[bool, tuple[str, ...]]] = {
    "from scratch": (False, ()),
    "from scratch, SGD": (False, SGD),
    "fine-tuned": (True, ()),
    "fine-tuned, only the last two stages and the head": (True, (FROZEN,)),
}


def measure(way: str, seed: int, weights: str) -> dict:
    """Train one run; return its test accuracy, its seconds, and those of all cores; the first runs compile."""
    starts_trained, others = WAYS[way]
    words = [*DIGITS, *others, f"--config.seed={seed}"]
    words += [f"--config.train.init_from={weights}"] * starts_trained
    config, started = recipes.config("preact:full", tuple(words)), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        results = train(config, Path(folder))
    return {
        "test_accuracy": results["test_accuracy"],
        "test_loss": results["test_loss"],
        "test_examples": results["test_examples"],
        "training_seconds": results["training_seconds"],
        "core_seconds": round(time.process_time() - started, 1),
        "init": results.get("init", {}).get("sha256", ""),
    }


def summary(lines: list[dict], weights: str) -> str:
    """Return a row for each way: accuracy in percent, and seconds, over the seeds; `weights` is their SHA-256."""
    rows = []
    for way in WAYS:
        found = [line["found"] for line in lines if line["case"] == case_of(way, line["case"]["seed"], weights)]
        if found:
            accuracies = [100 * one["test_accuracy"] for one in found]
            seconds = statistics.median(one["core_seconds"] for one in found)
            rows.append([way, spread(accuracies), f"{seconds:.0f}", str(len(found))])
    return table(["weights", "test accuracy, %", "core seconds", "seeds"], rows)


def case_of(way: str, seed: int, weights: str) -> dict:
    """Return the case of a run; only those that start from the weights depend on them."""
    starts_trained, _ = WAYS[way]
    return {"way": way, "seed": seed} | ({"weights": weights} if starts_trained else {})


def main() -> None:
    parser = command_line.journal_parser(__doc__)
    parser.add_argument("--weights", required=True, help="a trained preact: the workdir of a run, or a file of weights")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    keep_compiled_programs()
    journal = record.Journal("finetune", arguments.output, arguments.again)
    weights = digest(read_tensors(find_initial_weights(arguments.weights)))
    for seed, way in itertools.product(range(arguments.seeds), WAYS):
        case = case_of(way, seed, weights)
        if not journal.has(case):
            journal.add(case, measure(way, seed, arguments.weights))
    print(summary(journal.lines_here(), weights))


if __name__ == "__main__":
    sys.exit(command_line.run(main))
