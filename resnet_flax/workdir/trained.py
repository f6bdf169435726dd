"""Trained networks and their names: of a pretrained network, a workdir, an exported folder, or a file of weights.

`find_trained` turns any of these names into a path: the workdir of a run, or the file of weights. Everything below, and
`training.restore.restore_checkpoint`, takes that path.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import resnet_flax
from resnet_flax.config.stored import read_config, read_weights_config, runs_below
from resnet_flax.data.augment.policy import Policy
from resnet_flax.errors import Damaged, UserError, nearest, nearest_file, reason, refuse_address
from resnet_flax.files import read_json
from resnet_flax.models.weight_files import READERS
from resnet_flax.text import escape_line, short_repr
from resnet_flax.workdir import hub
from resnet_flax.workdir.checkpoints import steps_in
from resnet_flax.workdir.results import check_results, read_results

PRETRAINED_FOLDER = Path(resnet_flax.__file__).parent / "pretrained"
PRETRAINED = "pretrained:"  # before a name, says that it is not a folder
# The file of weights in a folder that `export` writes, with --format=hub and by default.
HUB_WEIGHTS, WEIGHTS = "model.safetensors", "weights.safetensors"
RESULTS_NAME = "results.json"  # beside HUB_WEIGHTS
RUNNERS = {".npz": "jax.export", ".onnx": "onnxruntime"}  # extension of a program that `export` writes -> what runs it


def pretrained_names() -> list[str]:
    """Return the names of the networks in the package, the most accurate, which is the default, first."""
    accuracies = {path.parent.name: read_trained_results(path)["test_accuracy"] for path in pretrained_files()}
    return sorted(accuracies, key=lambda name: (-accuracies[name], name))


def pretrained_files() -> list[Path]:
    return sorted(PRETRAINED_FOLDER.glob(f"*/{HUB_WEIGHTS}"))


def find_trained(name: str | os.PathLike) -> Path:
    """Return the workdir, or the file of weights, of the trained network that `name` names.

    A str is taken as the name of a pretrained network if there is one. `pretrained:NAME` is always that; a Path, or a
    str with a separator, such as ./NAME, never is. `hf:OWNER/NAME` is downloaded, see hub.download. A folder is the
    workdir of a run, or an exported one that holds a file of weights. Raises UserError if `name` is both a pretrained
    network and a network in the current folder, and Damaged for weights that do not match a checksum beside them.
    """
    path = weights_in(place_of(name))
    if (runner := RUNNERS.get(path.suffix.lower())) and path.is_file():
        raise UserError(f"{path} holds a program, not weights: call it with {runner}, or export safetensors")
    if path.suffix.lower() in READERS and not path.exists():
        raise UserError(f"there is no file {short_repr(str(path))}{nearest_file(path, READERS)}")
    if path.is_file():
        read_trained_results(path)  # and compare its checksum, before anything else is read
    return path


def place_of(name: str | os.PathLike) -> Path:
    """Return the file or folder that `name` names, downloaded if need be."""
    refuse_address("a trained network", os.fspath(name))
    name = os.path.expanduser(name) if isinstance(name, str) else name
    if isinstance(name, str) and name.startswith(hub.PREFIX):
        return hub.download(name.removeprefix(hub.PREFIX), (HUB_WEIGHTS, RESULTS_NAME))
    found = find_pretrained(name) if isinstance(name, str) else None
    return found or Path(name)


def find_pretrained(name: str) -> Path | None:
    """Return the weights of the pretrained network `name`, None if `name` is a path."""
    bare = name.removeprefix(PRETRAINED)
    networks = {path.parent.name: path for path in pretrained_files()}
    if name.startswith(PRETRAINED) and bare not in networks:
        raise UserError(f"there is no pretrained network {short_repr(bare)}: {nearest(bare, networks)}")
    if bare == name and name in networks and holds_network(Path(name)):
        raise UserError(
            f"{name} is a pretrained network, and a network in this folder: write {PRETRAINED}{name} or ./{name}"
        )
    if not os.path.lexists(name) and os.sep not in name and bare not in networks:
        here = (path.parent for path in Path().glob("*/config.json"))
        runs = map(str, (*here, *runs_below(Path("runs"))))
        raise UserError(f"there is no network {short_repr(name)}: {nearest(name, [*networks, *runs])}")
    return networks.get(bare)


def weights_in(path: Path) -> Path:
    """Return the file of weights in an exported folder; any other path as it is."""
    files = [path / name for name in (HUB_WEIGHTS, WEIGHTS) if (path / name).is_file()]
    return files[0] if files and not steps_in(path / "checkpoints") else path


def holds_network(path: Path) -> bool:
    return (path / "config.json").is_file() or weights_in(path) != path


def read_trained_config(path: Path) -> ConfigDict:
    """Return the config of a run, or of a file of weights, see find_trained.

    Raises UserError if it does not say how the images were normalised, as one that a run has stored does.
    """
    config = read_weights_config(path) if path.is_file() else read_config(path)
    if not Policy(config.data.policy).normalization:
        raise UserError(
            f"the config of {path} does not say how its images were normalised: replace normalize(auto) in "
            "data.policy by normalize with the means and standard deviations of the three channels"
        )
    return config


def read_trained_results(path: Path) -> dict[str, Any]:
    """Return the results of a finished run, or those beside the weights of an exported folder; {} if there are none.

    Raises Damaged if the weights are not those that the results are about.
    """
    if not path.is_file():
        return read_results(path)
    beside = path.with_name(RESULTS_NAME)
    if path.name != HUB_WEIGHTS or not beside.is_file():
        return {}
    try:
        results = check_results(read_json(beside))
        recorded = results["sha256"]
    except (ValueError, KeyError) as error:
        raise Damaged(f"{beside} is damaged ({reason(error)}): copy the folder again") from None
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if recorded != digest:
        raise Damaged(f"{path} does not match its checksum in {RESULTS_NAME}: copy the folder again")
    return results


def display_name(path: Path) -> str:
    """Return what to call a trained network in a line of output."""
    if path in pretrained_files():
        return f"{PRETRAINED}{path.parent.name}"
    repository = hub.repository_of(path)
    return f"{hub.PREFIX}{repository}" if repository else escape_line(path)


def output_folder(path: Path) -> Path:
    """Return the folder for a verb's output about a trained network: its workdir, or else the current folder."""
    return Path() if path.is_file() else path
