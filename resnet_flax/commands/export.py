"""Export a trained network for use elsewhere: its weights for PyTorch, a program that needs only jax, or ONNX."""

import hashlib
import io
import json
import os
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
from resnet_flax.config.identify import nearest_recipe, training_command
from resnet_flax.config.stored import CONFIG_KEY, config_to_json
from resnet_flax.data.augment.policy import Policy
from resnet_flax.data.datasets.load import image_shape
from resnet_flax.errors import UserError, lookup
from resnet_flax.files import write_files
from resnet_flax.models.onnx_graph import to_onnx
from resnet_flax.models.resnet import Variables
from resnet_flax.models.torch_weights import Tensors, to_torch
from resnet_flax.models.weight_files import encode_safetensors, encode_torch
from resnet_flax.text import print_line
from resnet_flax.training.restore import restore_checkpoint
from resnet_flax.training.step import eval_step
from resnet_flax.training.teacher import teacher_names
from resnet_flax.workdir import hub
from resnet_flax.workdir.results import read_results
from resnet_flax.workdir.trained import HUB_WEIGHTS, RESULTS_NAME, display_name, output_folder

PLATFORMS = ("cpu", "cuda", "tpu")
# Fields of a config that name places on this machine.
LOCAL_PATHS = {"data.dir": "", "train.init_from": "", "train.teacher": ""}


def export(config: FrozenConfigDict, workdir: Path, format: str, output: str, push: str = "") -> None:
    """Write the network of the best checkpoint of `workdir`, or of the newest if nothing is held out.

    `output` is the file or folder, in the workdir by default, and `format` one of EXPORT_FORMATS, by default that of
    the file's extension, or safetensors. With `push`, a repository OWNER/NAME of the Hugging Face Hub, the format is
    hub, and the folder is uploaded. Raises UserError if the flags disagree, if the folder for hub holds other files, if
    there is no checkpoint, and if the upload fails.
    """
    if push:
        hub.library(push)  # before anything is computed
        if format not in ("", "hub"):
            raise UserError(f"--push uploads what --format=hub writes, not --format={format}: leave one of them out")
    chosen = EXPORT_FORMATS[choose_format("hub" if push else format, output)]
    path = output_path(output, chosen, workdir)
    checkpoint = restore_checkpoint(config, workdir)
    files = chosen.encode(config, checkpoint.tree["state"].variables, workdir)
    try:
        if isinstance(files, dict):
            write_files(path, files)
        else:
            write_files(path.parent, {path.name: files})
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    state = "the weights" if workdir.is_file() else f"the state of step {checkpoint.step:,}"
    print_line(f"{state} exported to {path}")
    if push and isinstance(files, dict):
        print_line(f"uploaded to {hub.upload(path, push, list(files))}")


def choose_format(format: str, output: str) -> str:
    """Return the key in EXPORT_FORMATS that the two flags ask for; UserError if they ask for none, or for two."""
    extension = Path(output).suffix.lower()
    by_extension = next((name for name, one in EXPORT_FORMATS.items() if extension in one.extensions), "")
    if not format:
        if output and not by_extension:
            extensions = ", ".join(extension for one in EXPORT_FORMATS.values() for extension in one.extensions)
            raise UserError(f"which format? Let --output={output} end in one of {extensions}, or give --format")
        return by_extension or "safetensors"
    lookup("format", format, EXPORT_FORMATS)
    if by_extension not in ("", format):
        raise UserError(f"--output={output} has an extension of {by_extension}, but --format is {format}: choose one")
    return format


def output_path(output: str, chosen: "Format", workdir: Path) -> Path:
    """Return the file or folder to write, in the folder `output` if a file is to be written and that is a folder.

    Raises UserError for a file with an extension that no reader knows, and for a folder that holds anything but an
    earlier export: in a workdir, the export would replace the config of the run.
    """
    path = Path(output) if output else output_folder(workdir) / chosen.default
    if not chosen.extensions:
        if path.is_dir() and any(path.iterdir()) and not (path / HUB_WEIGHTS).is_file():
            raise UserError(f"{path} holds other files: let --output name a new folder, or that of an earlier export")
        return path
    if path.is_dir() or output.endswith(os.sep):
        return path / chosen.default
    if path.suffix.lower() not in chosen.extensions:
        raise UserError(f"--output={output} must end in {' or '.join(chosen.extensions)}, or in / for a folder")
    return path


def hub_files(config: FrozenConfigDict, variables: Variables, workdir: Path) -> dict[str, bytes]:
    """Return the files, by name, of a finished run's folder for the Hugging Face Hub, see report.card.

    The files name no folder of this machine.
    """
    from resnet_flax.report.card import model_card  # imports Matplotlib, which other formats should not wait for
    from resnet_flax.report.report import predictions_to_report
    from resnet_flax.studies.seeds import seeds_beside

    if workdir.is_file():
        raise UserError(f"{display_name(workdir)} holds only weights, but a model card needs a run: give its workdir")
    results = read_results(workdir)
    if not results:
        raise UserError(f"{workdir} is not a finished run, which a model card needs: train it to the end")
    if init := results.get("init"):
        results["init"] = init | {"weights": portable_name(init["weights"])}
    names = {
        "train.init_from": results["init"]["weights"] if init else "",  # of imported weights, too
        "train.teacher": ",".join(map(portable_name, teacher_names(config))),
    }
    shown = changed(config, names)
    recipe, changes = nearest_recipe(shown)
    results |= {"recipe": " ".join([recipe, *changes]), "command": training_command(shown)}
    results |= {"weights": "float32"} | seeds_beside(workdir, config.seed)
    files = exported_files(config, encode_network(config, to_torch(variables)), results)
    card = model_card(config, results, predictions_to_report(config, workdir, finished=True), files)
    return files | {"README.md": card.encode()}


def portable_name(name: str) -> str:
    """Return the name of a trained network without the folders of this machine: of a path only the last part."""
    return name if name.startswith(hub.PREFIX) else Path(name).name or name


def encode_network(config: FrozenConfigDict, tensors: Tensors) -> bytes:
    """Return the content of a .safetensors that says what network it is for."""
    return encode_safetensors(tensors, {CONFIG_KEY: portable_json(config)})


def portable_json(config: FrozenConfigDict) -> str:
    """Return a config as JSON without the fields that name places on this machine."""
    return config_to_json(changed(config, LOCAL_PATHS))


def exported_files(config: FrozenConfigDict, weights: bytes, results: dict) -> dict[str, bytes]:
    """Return the content of the files of an exported folder, except its model card, by name."""
    about = results | {"sha256": hashlib.sha256(weights).hexdigest()}
    texts = {"config.json": portable_json(config), RESULTS_NAME: json.dumps(about, indent=2) + "\n"}
    return {HUB_WEIGHTS: weights} | {name: text.encode() for name, text in texts.items()}


def stablehlo_archive(config: FrozenConfigDict, variables: Variables, workdir: Path) -> bytes:
    """Return a NumPy archive of `stablehlo`, the bytes that jax.export.deserialize reads, and `classes`, the names.

    The program takes images (n, H, W, 3) uint8 of the size that the network was trained on, for any n, and returns
    probabilities (n, classes) float32. It normalises the images itself. The jax that reads it may be up to half a year
    newer, but not older (jax.export's guarantee).
    """
    program, archive = program_of(config, variables).serialize(), io.BytesIO()
    np.savez(archive, stablehlo=np.frombuffer(program, np.uint8), classes=np.array(config.data.classes))
    return archive.getvalue()


def program_of(config: FrozenConfigDict, variables: Variables) -> jax.export.Exported:
    """Return the program images -> probabilities for all PLATFORMS, in float32 unless the config says otherwise."""
    model = models.build(config)
    if config.model.compute_dtype == "auto":  # what is best here says nothing about where the program will run
        model = model.clone(dtype=jnp.float32)
    log_probabilities = partial(eval_step, model=model, normalize=partial(Policy(config.data.policy).normalize, jnp))
    constants = jax.tree.map(np.asarray, variables)

    def probabilities(images: jax.Array) -> jax.Array:
        return jnp.exp(log_probabilities(constants, {"image": images}))

    shape = jax.export.symbolic_shape("n, " + ", ".join(map(str, image_shape(config.data))))
    return jax.export.export(jax.jit(probabilities), platforms=PLATFORMS)(jax.ShapeDtypeStruct(shape, jnp.uint8))


def onnx_model(config: FrozenConfigDict, variables: Variables, workdir: Path) -> bytes:
    """Return an ONNX model that normalises the images itself, see to_onnx; it computes in float32."""
    model, normalize = models.build(config).clone(dtype=jnp.float32), Policy(config.data.policy).normalize
    constants = jax.tree.map(np.asarray, variables)

    def logits(images: jax.Array) -> Any:
        return model.apply(constants, normalize(jnp, images), train=False)

    return to_onnx(logits, image_shape(config.data), config.data.classes)


class Format(NamedTuple):
    """A format: the default name of its file or folder, the extensions that stand for it, and `encode`.

    The latter takes the config and variables of a network and the workdir of its run, and returns the content of the
    file, or of each file in the folder.
    """

    default: str
    extensions: tuple[str, ...]
    encode: Callable[[FrozenConfigDict, Variables, Path], bytes | dict[str, bytes]]


EXPORT_FORMATS = {
    "safetensors": Format(
        "weights.safetensors",
        (".safetensors",),
        lambda config, variables, _: encode_network(config, to_torch(variables)),
    ),
    "torch": Format(
        "weights.pt", (".pt", ".pth", ".bin"), lambda config, variables, _: encode_torch(to_torch(variables))
    ),
    "stablehlo": Format("network.npz", (".npz",), stablehlo_archive),
    "hub": Format("hub", (), hub_files),
    "onnx": Format("network.onnx", (".onnx",), onnx_model),
}
