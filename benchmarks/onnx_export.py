"""Compare ONNX models with our own networks: python -m benchmarks.onnx_export [--recipes=...]

Each network of a report, with random weights and statistics, classifies 64 random images in float32, in onnxruntime and
in JAX. Writes the largest difference of a probability and the size of the file to onnx_export.jsonl and onnx_export.md.
Needs the packages onnx and onnxruntime.
"""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime

from benchmarks import command_line, recipes, record
from benchmarks.tables import table
from resnet_flax import models
from resnet_flax.commands.export import onnx_model
from resnet_flax.data.augment.policy import Policy
from resnet_flax.data.datasets.load import image_shape
from resnet_flax.training.step import TrainState, eval_step

IMAGES = 64
QUICK = {"xla_backend_optimization_level": 0}


def random_state(config) -> TrainState:
    """Return a state whose weights preserve the scale of activations, with statistics unlike any initial ones."""
    shapes = models.variable_shapes(models.build(config), image_shape(config.data))
    rng = np.random.default_rng(0)

    def draw(leaf) -> np.ndarray:
        if leaf.ndim == 1:
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return (rng.normal(size=leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))).astype(np.float32)

    variables = jax.tree.map(draw, dict(shapes))
    return TrainState(jnp.zeros((), jnp.int32), variables["params"], variables["batch_stats"], {}, {})


def measure(recipe: str) -> dict:
    config = recipes.config(recipe)
    state, model = random_state(config), models.build(config)
    normalize = partial(Policy(config.data.policy).normalize, jnp)
    images = np.random.default_rng(1).integers(0, 256, (IMAGES, *image_shape(config.data))).astype(np.uint8)
    # Compiled quickly: it runs only twice.
    log_probabilities = jax.jit(partial(eval_step, model=model, normalize=normalize), compiler_options=QUICK)
    # Make the network as confident as a trained one: with probabilities of 0 and 1 there would be nothing to compare.
    spread = np.ptp(log_probabilities(state.variables, {"image": images}), axis=1).mean()
    state.params["head"] = jax.tree.map(lambda leaf: leaf * (5 / spread), state.params["head"])
    content = onnx_model(config, state, Path())
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    ours = np.exp(log_probabilities(state.variables, {"image": images}))
    differences = np.abs(ours - session.run(None, {"images": images})[0])
    return {
        "largest_difference": float(differences.max()),
        "mean_confidence": float(ours.max(1).mean()),
        "bytes": len(content),
    }


def summary(lines: list[dict]) -> str:
    rows = [
        [line["case"]["recipe"], f"{line['found']['largest_difference']:.1e}", f"{line['found']['bytes'] / 1e6:.1f}"]
        for line in lines
    ]
    return table(["network", "largest difference of a probability", "MB"], rows)


def main() -> None:
    arguments = command_line.journal_parser(__doc__, recipes.RECIPES).parse_args()
    journal = record.Journal("onnx_export", arguments.output, arguments.again)
    for recipe in arguments.recipes:
        case = {"recipe": recipe, "onnxruntime": onnxruntime.__version__}
        if not journal.has(case):
            journal.add(case, measure(recipe))
    journal.path.with_suffix(".md").write_text(summary(journal.lines()))


if __name__ == "__main__":
    sys.exit(command_line.run(main))
