"""Ablate configs/speed94.py at a small size: python -m benchmarks.speed_ablation [--seeds=3]

The recipe with widths 8/16/32 trains for 4 epochs on 10,000 images in batches of 128, once as it is and once with each
of its ideas left out or replaced, and is evaluated on 5,000 other images of the training split; the test split is not
used. Each run is compared with the unchanged recipe of the same seed. It needs no accelerator: a run takes 30 to 90
seconds of one core. Writes a line for each run to speed_ablation.jsonl and prints a table at the end.
"""

import itertools
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import command_line, recipes, record, tables
from resnet_flax.models import whitening
from resnet_flax.models.whitening import Whitening
from resnet_flax.training.run import Run
from resnet_flax.training.step import Totals

SMALL = (
    "--config.model.widths=(8,16,32)",
    "--config.data.train=train[:10000]",
    "--config.data.validation=train[45000:]",
    "--config.data.test=",
    "--config.data.feed=device",
    "--config.train.epochs=4",
    "--config.train.batch_size=128",
    "--config.train.ema_decay=0.98",  # does not change training, so each run also shows what averaging is worth
)

HEADER = ("change", "accuracy, %", "difference", "95 % interval", "core seconds", "seeds")
BASE, RANDOM = "none (the recipe)", "random filters instead of whitening"
# Change -> how it is made in the config.
IDEAS: dict[str, tuple[str, ...]] = {
    BASE: (),
    RANDOM: (),  # replaces a function instead
    "no bias after the whitening": ("--config.train.freeze=('stem',)",),  # it starts at zero
    "PyTorch's initialisation instead of dirac": ("--config.model.kernel_init=torch",),
    "SGD at 0.4 instead of Muon": ("--config.optimizer.name=sgd", "--config.optimizer.learning_rate=0.4"),
    "one learning rate for all parameters": ("--config.optimizer.bias_lr_factor=1",),
    "8 times the learning rate for biases, not 32": ("--config.optimizer.bias_lr_factor=8",),
    "the highest learning rate after 23 % of the training, not 5": ("--config.schedule.rise=0.23",),
    "a learning rate of 0.15, not 0.1": ("--config.optimizer.learning_rate=0.15",),
    "a momentum of 0.9, not 0.85": ("--config.optimizer.momentum=0.9",),
    "no label smoothing": ("--config.train.label_smoothing=0",),
    "basic blocks with strides instead of pooling blocks": ("--config.model.block=basic",),
    "ReLU instead of GELU": ("--config.model.activation=relu",),
    "random instead of alternating flips": ("--config.data.policy=crop(2,reflect)|flip|normalize(cifar10)",),
    "black instead of reflected borders": ("--config.data.policy=crop(2)|flip(alternating)|normalize(cifar10)",),
}


def random_directions(images: np.ndarray, normalize: Callable[[jax.Array], jax.Array]) -> np.ndarray:
    """Return random filters in place of whitening.directions, whose outputs also have variance 1."""
    kernel = np.random.default_rng(0).normal(size=(2, 2, 3, 12)).astype(np.float32)
    kernel = np.concatenate([kernel, -kernel], -1)
    variables = {"params": {"bias": np.zeros(24, np.float32)}, "batch_stats": {"kernel": kernel}}
    return kernel / np.std(Whitening().apply(variables, normalize(jnp.asarray(images[:500]))), (0, 1, 2))


def measure(idea: str, seed: int) -> dict:
    """Train one run; return the held-out accuracy of its weights and of their moving average."""
    run = Run(recipes.config("speed94", (*SMALL, *IDEAS[idea], f"--config.seed={seed}")))
    started = time.process_time()
    with patch.object(whitening, "directions", random_directions) if idea == RANDOM else nullcontext():
        state, totals = run.fresh_state(), run.parallel.replicate(Totals.zero())
    advance, total, done = run.advance(0), run.config.train.epochs * run.stream.steps_per_epoch, 0
    while done < total:
        state, totals, taken = advance(state, totals, total - done)
        done += taken
    held_out = run.data.validation
    assert held_out
    found = {
        "accuracy": run.classifier.evaluate(state.unaveraged, held_out).accuracy,
        "averaged_accuracy": run.classifier.evaluate(state.variables, held_out).accuracy,
    }
    return found | {"parameters": run.parameters, "core_seconds": round(time.process_time() - started, 1)}


def table(lines: list[dict]) -> str:
    """Return a row for each idea, in percent: accuracy, and its difference from the recipe with the same seed."""
    found = {(line["case"]["idea"], line["case"]["seed"]): line["found"] for line in lines}
    rows = []
    for idea in IDEAS:
        seeds = [seed for name, seed in found if name == idea and (BASE, seed) in found]
        here, base = ([100 * found[name, seed]["accuracy"] for seed in seeds] for name in (idea, BASE))
        if seeds:
            gaps = [a - b for a, b in zip(here, base, strict=True)]
            cost = statistics.mean(found[idea, seed]["core_seconds"] for seed in seeds)
            compared = ("", "") if idea == BASE else tables.difference(gaps)
            rows.append([idea, tables.spread(here), *compared, f"{cost:.0f}", str(len(seeds))])
    text = tables.table(HEADER, rows)
    averaged = [100 * (one["averaged_accuracy"] - one["accuracy"]) for one in found.values()]
    if len(averaged) > 1:
        gain, interval = tables.difference(averaged)
        text += f"\nAveraged weights, decay 0.98, in all {len(averaged)} runs: {gain} (95 % interval {interval})\n"
    return text


def main() -> None:
    parser = command_line.journal_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    journal = record.Journal("speed_ablation", arguments.output, arguments.again)
    for seed, idea in itertools.product(range(arguments.seeds), IDEAS):
        case = {"idea": idea, "seed": seed}
        if not journal.has(case):
            journal.add(case, measure(idea, seed))
    print(table(journal.lines_here()))


if __name__ == "__main__":
    sys.exit(command_line.run(main))
