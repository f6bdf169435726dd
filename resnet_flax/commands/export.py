"""A trained network for use elsewhere: its weights for PyTorch, or a program that needs nothing but jax."""

from functools import partial
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from ml_collections import FrozenConfigDict

from resnet_flax import models
from resnet_flax.data.augment.policy import Policy
from resnet_flax.data.datasets.load import image_shape
from resnet_flax.errors import UserError, lookup
from resnet_flax.models.torch_weights import to_torch, write_torch
from resnet_flax.text import print_line
from resnet_flax.training.restore import restore_checkpoint
from resnet_flax.training.step import TrainState, eval_step

PLATFORMS = ("cpu", "cuda", "tpu")


def export(config: FrozenConfigDict, workdir: Path, format: str, output: str) -> None:
    """Write the network of the best checkpoint of `workdir`, or of the newest where nothing is held out.

    `format` is one of WRITERS, `output` the file, in the workdir by default. Raises UserError where there is no
    checkpoint.
    """
    name, write = lookup("format", format, WRITERS)
    path = Path(output) if output else workdir / name
    checkpoint = restore_checkpoint(config, workdir)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(config, checkpoint.tree["state"], path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"cannot write {path}: {error}") from None
    print_line(f"the state of step {checkpoint.step:,} exported to {path}")


def write_safetensors(config: FrozenConfigDict, state: TrainState, path: Path) -> None:
    safetensors.numpy.save_file(to_torch(state.variables), path)


def write_state_dict(config: FrozenConfigDict, state: TrainState, path: Path) -> None:
    write_torch(to_torch(state.variables), path)


def write_stablehlo(config: FrozenConfigDict, state: TrainState, path: Path) -> None:
    """A NumPy archive of `stablehlo`, the bytes that jax.export.deserialize reads, and `classes`, the names.

    The program takes images (n, H, W, 3) uint8 of the size that the network was trained on, for any n, and gives
    probabilities (n, classes) float32. It normalises the images itself. The jax that reads it may be half a year newer,
    but not older (jax.export's guarantee).
    """
    program = program_of(config, state).serialize()
    with open(path, "wb") as file:
        np.savez(file, stablehlo=np.frombuffer(program, np.uint8), classes=np.array(config.data.classes))


def program_of(config: FrozenConfigDict, state: TrainState) -> jax.export.Exported:
    """Images to probabilities for all PLATFORMS, in float32 unless the config names another dtype."""
    model = models.build(config)
    if config.model.compute_dtype == "auto":  # what is best here says nothing about where the program will run
        model = model.clone(dtype=jnp.float32)
    answer = partial(eval_step, model=model, normalize=partial(Policy(config.data.policy).normalize, jnp))
    variables = jax.tree.map(np.asarray, state.variables)

    def probabilities(images: jax.Array) -> jax.Array:
        return jnp.exp(answer(variables, {"image": images}))

    shape = jax.export.symbolic_shape("n, " + ", ".join(map(str, image_shape(config.data))))
    return jax.export.export(jax.jit(probabilities), platforms=PLATFORMS)(jax.ShapeDtypeStruct(shape, jnp.uint8))


# Format -> (the name of its file in the workdir, how to write one).
WRITERS = {
    "safetensors": ("weights.safetensors", write_safetensors),
    "torch": ("weights.pt", write_state_dict),
    "stablehlo": ("network.npz", write_stablehlo),
}
