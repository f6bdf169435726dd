"""Compare ONNX models with our own networks on this CPU: python -m benchmarks.onnx_export [--recipes=...]

Each network of a report, with random weights and statistics, classifies 256 random images: the largest difference of a
probability, the size of the file, and milliseconds of CPU time for an image, the best of five, in onnxruntime and in
our compiled program. CPU time, summed over cores, says little about latency, but other processes hardly change it.
Writes onnx_export.jsonl and onnx_export.md. Needs the packages onnx and onnxruntime.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime

from benchmarks import recipes, record
from benchmarks.tables import table
from resnet_flax import models
from resnet_flax.commands.export import onnx_model
from resnet_flax.data.datasets.load import image_shape
from resnet_flax.training.classifier import Classifier
from resnet_flax.training.step import TrainState

IMAGES, REPEATS = 256, 5


def random_state(config) -> TrainState:
    """Return a state whose weights keep the size of activations, with statistics that no initialisation has."""
    shapes = models.variable_shapes(models.build(config), image_shape(config.data))
    rng = np.random.default_rng(0)

    def draw(leaf) -> np.ndarray:
        if leaf.ndim == 1:
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return (rng.normal(size=leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))).astype(np.float32)

    variables = jax.tree.map(draw, dict(shapes))
    return TrainState(jnp.zeros((), jnp.int32), variables["params"], variables["batch_stats"], {}, {})


def milliseconds(answer: Callable[[], np.ndarray]) -> float:
    """Return the CPU time for one image, all cores together, the best of several."""
    found = []
    for _ in range(REPEATS):
        started = time.process_time()
        answer()
        found.append(1000 * (time.process_time() - started) / IMAGES)
    return round(min(found), 3)


def measure(recipe: str) -> dict:
    config = recipes.config(recipe)
    state = random_state(config)
    images = np.random.default_rng(1).integers(0, 256, (IMAGES, *image_shape(config.data))).astype(np.uint8)
    content = onnx_model(config, state)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    classifier = Classifier(config, IMAGES)

    def ours() -> np.ndarray:
        return np.exp(classifier(state, images))

    def theirs() -> np.ndarray:
        return session.run(None, {"images": images})[0]

    return {
        "largest_difference": float(np.abs(ours() - theirs()).max()),
        "largest_probability": float(ours().max()),
        "bytes": len(content),
        "onnxruntime_ms": milliseconds(theirs),
        "jax_ms": milliseconds(ours),
    }


def summary(lines: list[dict]) -> str:
    header = ["network", "largest difference", "MB", "onnxruntime, CPU ms an image", "JAX, CPU ms an image"]
    rows = [
        [
            line["case"]["recipe"],
            f"{found['largest_difference']:.1e}",
            f"{found['bytes'] / 1e6:.1f}",
            f"{found['onnxruntime_ms']:.2f}",
            f"{found['jax_ms']:.2f}",
        ]
        for line in lines
        for found in [line["found"]]
    ]
    return table(header, rows)


def main() -> None:
    arguments = recipes.parser(__doc__ or "").parse_args()
    journal = record.Journal("onnx_export", arguments.output, arguments.again)
    for recipe in arguments.recipes:
        case = {"recipe": recipe, "onnxruntime": onnxruntime.__version__}
        if not journal.has(case):
            journal.add(case, measure(recipe))
    journal.path.with_suffix(".md").write_text(summary(journal.lines()))


if __name__ == "__main__":
    raise SystemExit(recipes.run(main))
