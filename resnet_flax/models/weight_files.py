"""Files of PyTorch weights: read without running anything in them, and encoded."""

import io
import zipfile
from pathlib import Path
from typing import Any

import safetensors.numpy

from resnet_flax.errors import UserError, lookup, reason
from resnet_flax.files import check_size
from resnet_flax.models.torch_weights import Tensors
from resnet_flax.text import escape_line, listed

MAX_WEIGHTS_BYTES = 2**30  # of a file
STATE_DICT = "state_dict"  # the key of a state_dict that has none
NEEDS_TORCH = "{} needs PyTorch: install it (pip install -c constraints.txt -e '.[reference]') or use safetensors"


def read_weights(file: Path, key: str = "") -> Tensors:
    """Return the state_dict of a .safetensors, .pt, .pth or .bin file; of a checkpoint with several, that under `key`.

    Raises UserError if there is none, if there are several and no `key`, and for a file that is damaged or larger than
    MAX_WEIGHTS_BYTES.
    """
    read = lookup("extension of a weights file", file.suffix.lower(), READERS)
    try:
        check_size(file, MAX_WEIGHTS_BYTES)
    except ValueError as error:
        raise UserError(f"{file} {error}") from None
    return read(file, key)


def read_safetensors(file: Path, key: str) -> Tensors:
    try:
        tensors = safetensors.numpy.load_file(file)
    except Exception as error:  # not only SafetensorError: NumPy lacks some dtypes
        raise UserError(f"{file} is not a safetensors file of float32 tensors: {reason(error)}") from None
    return choose(file, {STATE_DICT: tensors}, key)


def read_metadata(file: Path) -> dict[str, str]:
    """Return the metadata of a .safetensors file; {} for any other file. Raises UserError if it is damaged."""
    if file.suffix.lower() != ".safetensors":
        return {}
    try:
        with safetensors.safe_open(file, "numpy") as opened:
            return opened.metadata() or {}
    except Exception as error:
        raise UserError(f"{file} is not a safetensors file: {reason(error)}") from None


def read_torch(file: Path, key: str) -> Tensors:
    try:
        import torch
    except ImportError:
        raise UserError(NEEDS_TORCH.format(f"reading {file}")) from None
    size = file.stat().st_size
    try:
        others: list[Any] = []
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                if sum(member.file_size for member in archive.infolist()) > size:  # PyTorch itself compresses nothing
                    raise ValueError("it is compressed")
            others = [(Ignored, name) for name in torch.serialization.get_unsafe_globals_in_checkpoint(file)]
        with torch.serialization.safe_globals(others):
            content = torch.load(file, map_location="cpu", weights_only=True)
        parts = content if isinstance(content, dict) and not is_state_dict(content) else {STATE_DICT: content}
        found = {escape_line(name, 100): part for name, part in parts.items() if is_state_dict(part)}
    except Exception:  # PyTorch raises errors of many kinds
        raise UserError(f"{file} is damaged, or holds more than tensors: save a state_dict") from None
    tensors = {name: value for name, value in choose(file, found, key).items() if isinstance(value, torch.Tensor)}
    if sum(tensor.numel() for tensor in tensors.values()) > size:  # a few bytes may be repeated endlessly
        raise UserError(f"{file} holds tensors that are larger than the file: save a state_dict")
    try:
        return {str(name): tensor.detach().float().numpy() for name, tensor in tensors.items()}
    except Exception as error:
        raise UserError(f"{file} holds tensors that are not plain arrays of numbers: {reason(error)}") from None


class Ignored:
    """A stand-in for whatever a checkpoint holds besides tensors, such as arguments and NumPy scalars."""

    def __init__(self, *arguments: object, **named: object):
        pass

    def __setstate__(self, state: object) -> None:
        pass


def is_state_dict(value: object) -> bool:
    """Return whether `value` holds a kernel, with two or more axes, and nothing that could be a state_dict itself."""
    values = list(value.values()) if isinstance(value, dict) else []
    return any(getattr(one, "ndim", 0) > 1 for one in values) and not any(isinstance(one, dict) for one in values)


def choose(file: Path, found: dict[str, dict], key: str) -> dict:
    """Return the state_dict under `key`, or the only one; UserError if there is none, or several and no `key`."""
    if not found:
        raise UserError(f"{file} holds no state_dict: save one with torch.save(model.state_dict(), ...)")
    if not key and len(found) > 1:
        raise UserError(f"{file} holds several state_dicts, choose one: {listed(f'--key={name}' for name in found)}")
    return lookup(f"key of {file}", key or next(iter(found)), found)


READERS = {".safetensors": read_safetensors, ".pt": read_torch, ".pth": read_torch, ".bin": read_torch}


def encode_safetensors(tensors: Tensors, metadata: dict[str, str]) -> bytes:
    """Return the content of a .safetensors file."""
    return safetensors.numpy.save(tensors, metadata)


def encode_torch(tensors: Tensors) -> bytes:
    """Return the content of a .pt file with this state_dict; UserError without PyTorch."""
    try:
        import torch
    except ImportError:
        raise UserError(NEEDS_TORCH.format("writing .pt")) from None
    content = io.BytesIO()
    torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, content)
    return content.getvalue()
