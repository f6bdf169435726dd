"""What each idea of configs/speed94.py is worth, small: python -m benchmarks.speed_ablation [--seeds=3]

The recipe with widths 8/16/32 trains 4 epochs on 10,000 images in batches of 128, as it is and with one idea left out
or exchanged at a time, and is judged by 5,000 other images of the training split; the test split is not touched. Each
seed is compared with the same seed of the recipe. It needs no accelerator: some 30 seconds of one core for a run.
Results: speed_ablation.jsonl, a line a run; the table is printed at the end.
"""

import argparse
import itertools
import statistics
import time

from benchmarks import recipes, record
from resnet_flax.steps import Totals
from resnet_flax.train import Run

SMALL = (
    "--config.model.widths=(8,16,32)",
    "--config.data.train=train[:10000]",
    "--config.data.validation=train[45000:]",
    "--config.data.test=",
    "--config.data.feed=device",
    "--config.train.epochs=4",
    "--config.train.batch_size=128",
)

BASE = "nothing: the recipe"
# What is exchanged -> the changes that do it.
IDEAS: dict[str, tuple[str, ...]] = {
    BASE: (),
    "a trained 3x3 stem at full resolution for the whitening": ("--config.model.stem=conv",),
    "basic blocks, which have strided convolutions, for pooling ones": ("--config.model.block=basic",),
    "PyTorch's initialisation for dirac": ("--config.model.kernel_init=torch",),
    "ReLU for GELU": ("--config.model.activation=relu",),
    "SGD at 0.4 for Muon": ("--config.optimizer.name=sgd", "--config.optimizer.learning_rate=0.4"),
    "one learning rate for all": ("--config.optimizer.bias_lr_factor=1",),
    "biases 32 times as fast": ("--config.optimizer.bias_lr_factor=32",),
    "no label smoothing": ("--config.train.label_smoothing=0",),
    "random for alternating flips": ("--config.data.policy=crop(2,reflect)|flip|normalize(cifar10)",),
    "black for reflected borders": ("--config.data.policy=crop(2)|flip(alternating)|normalize(cifar10)",),
}


def measure(changes: tuple[str, ...], seed: int) -> dict:
    """Accuracy on the held-out images, with the averaged weights and with those averaged, after one run."""
    run = Run.from_config(recipes.config("speed94", (*SMALL, *changes, f"--config.seed={seed}")))
    started = time.process_time()
    state, totals = run.fresh_state(), run.parallel.replicate(Totals.zero())
    advance, total, done = run.advance(0), run.config.train.epochs * run.stream.steps_per_epoch, 0
    while done < total:
        state, totals, taken = advance(state, totals, total - done)
        done += taken
    held_out = run.data.validation
    assert held_out
    found = {
        "accuracy": run.classifier.evaluate(state, held_out).accuracy,
        "unaveraged_accuracy": run.classifier.evaluate(state.trained, held_out).accuracy,
    }
    return found | {"parameters": run.parameters, "core_seconds": round(time.process_time() - started, 1)}


def table(lines: list[dict]) -> list[str]:
    """Of each idea, in per cent: accuracy, and how much more than the recipe's with the same seed; mean and std."""
    found = {(line["case"]["idea"], line["case"]["seed"]): 100 * line["found"]["accuracy"] for line in lines}
    rows = ["| what is exchanged | accuracy | difference | seeds |", "|:--|--:|--:|--:|"]
    for idea in IDEAS:
        seeds = [seed for name, seed in found if name == idea and (BASE, seed) in found]
        if len(seeds) > 1:
            accuracies = [found[idea, seed] for seed in seeds]
            differences = [found[idea, seed] - found[BASE, seed] for seed in seeds]
            cells = spread(accuracies, ""), spread(differences, "+") if idea != BASE else "", str(len(seeds))
            rows.append(f"| {idea} | {' | '.join(cells)} |")
    return rows


def spread(values: list[float], sign: str) -> str:
    return f"{statistics.mean(values):{sign}.2f} ± {statistics.stdev(values):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    record.add_arguments(parser)
    arguments = parser.parse_args()
    journal = record.Journal("speed_ablation", arguments.output, arguments.again)
    for seed, (idea, changes) in itertools.product(range(arguments.seeds), IDEAS.items()):
        case = {"idea": idea, "changes": list(changes), "seed": seed}
        if not journal.has(case):
            journal.add(case, measure(changes, seed))
    print("\n".join(table(journal.lines())))


if __name__ == "__main__":
    main()
