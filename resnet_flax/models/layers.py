"""The layer table of a network: output shape, parameters and FLOPs of each layer."""

from dataclasses import dataclass
from math import prod

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resnet_flax.models.resnet import ResNet


@dataclass(frozen=True)
class Layer:
    """A module, called on one image. `flops` counts only convolutions and dense layers, a multiply-add as two."""

    kind: str
    name: str
    shape: tuple[int, ...]  # of the output, without the batch
    parameters: int  # without those of the modules inside it
    flops: int


def layers(model: ResNet, image_shape: tuple[int, int, int]) -> list[Layer]:
    """Return every layer and block of `model` in the order in which they finish, for images (height, width, 3)."""
    found: list[Layer] = []

    def record(call, args, kwargs, context):
        output = call(*args, **kwargs)
        module = context.module
        if context.method_name == "__call__" and module.name is not None:
            params = module.variables.get("params", {})
            own = sum(leaf.size for leaf in params.values() if not isinstance(leaf, dict))
            weights = (params | module.variables.get("batch_stats", {})).get("kernel", np.zeros(0)).size
            positions = prod(output.shape[1:-1])
            found.append(
                Layer(type(module).__name__, "/".join(module.path), output.shape[1:], own, 2 * weights * positions)
            )
        return output

    def forward(image):
        with nn.intercept_methods(record):
            return model.init(dict(params=jax.random.key(0), dropout=jax.random.key(0)), image, train=True)

    jax.eval_shape(forward, jnp.zeros((1, *image_shape)))
    return found


def layer_table(model: ResNet, image_shape: tuple[int, int, int]) -> str:
    """Return the layers as a text table, with totals below."""
    rows = layers(model, image_shape)
    numbered = [f"{row.kind}-{number}" for number, row in enumerate(rows, 1)]
    shapes = [" x ".join(map(str, row.shape)) for row in rows]
    kind, name = max(map(len, numbered)), max(len(row.name) for row in rows)
    lines = [f"{'layer':{kind}}  {'name':{name}}  {'output':>14}  {'parameters':>10}"]
    lines += ["-" * len(lines[0])]
    for label, row, shape in zip(numbered, rows, shapes, strict=True):
        lines.append(f"{label:{kind}}  {row.name:{name}}  {shape:>14}  {row.parameters:>10,}")
    parameters, flops = sum(row.parameters for row in rows), sum(row.flops for row in rows)
    lines += ["-" * len(lines[0])]
    lines += [f"parameters: {parameters:,} ({4 * parameters / 2**20:.1f} MiB in float32)"]
    lines += [f"FLOPs per image: {flops:,} forward, about {3 * flops:,} in a plain training step"]
    return "\n".join(lines) + "\n"
