"""Export a trained network for use elsewhere: its weights for PyTorch, a program that needs only jax, or ONNX."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

from resnet_flax import models
from resnet_flax.config.defaults import changed
from resnet_flax.config.stored import CONFIG_KEY, config_to_json
from resnet_flax.data.augment.policy import Policy
from resnet_flax.data.datasets.load import image_shape
from resnet_flax.errors import UserError, lookup
from resnet_flax.files import atomic_write
from resnet_flax.models.onnx_graph import to_onnx
from resnet_flax.models.torch_weights import Tensors, to_torch
from resnet_flax.models.weight_files import encode_safetensors, encode_torch
from resnet_flax.text import print_line
from resnet_flax.training.restore import restore_checkpoint
from resnet_flax.training.step import TrainState, eval_step
from resnet_flax.workdir.trained import output_folder

PRIVATE = {"data.dir": "", "train.init_from": ""}  # fields of the config that name places on this machine
PLATFORMS = ("cpu", "cuda", "tpu")


def export(config: FrozenConfigDict, workdir: Path, format: str, output: str) -> None:
    """Write the network of the best checkpoint of `workdir`, or of the newest if nothing is held out.

    `output` is the file, in the workdir by default, and `format` one of EXPORT_FORMATS, by default as the file ends, or
    safetensors. Raises UserError if the two disagree, and if there is no checkpoint.
    """
    chosen = EXPORT_FORMATS[choose_format(format, output)]
    path = Path(output) if output else output_folder(workdir) / chosen.default
    checkpoint = restore_checkpoint(config, workdir)
    content = chosen.encode(config, checkpoint.tree["state"])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, "wb") as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    state = "the weights" if workdir.is_file() else f"the state of step {checkpoint.step:,}"
    print_line(f"{state} exported to {path}")


def choose_format(format: str, output: str) -> str:
    """Return the key in EXPORT_FORMATS that the two flags ask for; UserError if they ask for none, or for two."""
    ending = Path(output).suffix.lower()
    by_ending = next((name for name, one in EXPORT_FORMATS.items() if ending in one.endings), "")
    if not format:
        if output and not by_ending:
            endings = ", ".join(ending for one in EXPORT_FORMATS.values() for ending in one.endings)
            raise UserError(f"which format? Let --output={output} end in one of {endings}, or give --format")
        return by_ending or "safetensors"
    lookup("format", format, EXPORT_FORMATS)
    if by_ending not in ("", format):
        raise UserError(f"--output={output} ends as {by_ending} does, and --format is {format}: which of the two?")
    return format


def stablehlo_archive(config: FrozenConfigDict, state: TrainState) -> bytes:
    """Return a NumPy archive of `stablehlo`, the bytes that jax.export.deserialize reads, and `classes`, the names.

    The program takes images (n, H, W, 3) uint8 of the size that the network was trained on, for any n, and returns
    probabilities (n, classes) float32. It normalises the images itself. The jax that reads it may be half a year newer,
    but not older (jax.export's guarantee).
    """
    program, archive = program_of(config, state).serialize(), io.BytesIO()
    np.savez(archive, stablehlo=np.frombuffer(program, np.uint8), classes=np.array(config.data.classes))
    return archive.getvalue()


def program_of(config: FrozenConfigDict, state: TrainState) -> jax.export.Exported:
    """Return images -> probabilities for all PLATFORMS, in float32 unless the config names another dtype."""
    model = models.build(config)
    if config.model.compute_dtype == "auto":  # what is best here says nothing about where the program will run
        model = model.clone(dtype=jnp.float32)
    answer = partial(eval_step, model=model, normalize=partial(Policy(config.data.policy).normalize, jnp))
    variables = jax.tree.map(np.asarray, state.variables)

    def probabilities(images: jax.Array) -> jax.Array:
        return jnp.exp(answer(variables, {"image": images}))

    shape = jax.export.symbolic_shape("n, " + ", ".join(map(str, image_shape(config.data))))
    return jax.export.export(jax.jit(probabilities), platforms=PLATFORMS)(jax.ShapeDtypeStruct(shape, jnp.uint8))


def encode_network(config: FrozenConfigDict, tensors: Tensors) -> bytes:
    """Return the content of a .safetensors that says what network it is for."""
    return encode_safetensors(tensors, {CONFIG_KEY: config_to_json(changed(config, PRIVATE))})


def onnx_model(config: FrozenConfigDict, state: TrainState) -> bytes:
    """Return an ONNX model that normalises the images itself, see to_onnx; it computes in float32."""
    model, normalize = models.build(config).clone(dtype=jnp.float32), Policy(config.data.policy).normalize
    variables = jax.tree.map(np.asarray, state.variables)

    def logits(images: jax.Array) -> Any:
        return model.apply(variables, normalize(jnp, images), train=False)

    return to_onnx(logits, image_shape(config.data), config.data.classes)


class Format(NamedTuple):
    """A format: the default name of its file, the endings that stand for it, and what encodes a trained network."""

    default: str
    endings: tuple[str, ...]
    encode: Callable[[FrozenConfigDict, TrainState], bytes]


EXPORT_FORMATS = {
    "safetensors": Format(
        "weights.safetensors",
        (".safetensors",),
        lambda config, state: encode_network(config, to_torch(state.variables)),
    ),
    "torch": Format("weights.pt", (".pt", ".pth", ".bin"), lambda _, state: encode_torch(to_torch(state.variables))),
    "stablehlo": Format("network.npz", (".npz",), stablehlo_archive),
    "onnx": Format("network.onnx", (".onnx",), onnx_model),
}
