"""Configs in a workdir: read, write and compare."""

import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from resnet_flax.config.checks import set_fields
from resnet_flax.config.defaults import flatten, get_config
from resnet_flax.errors import Damaged, UserError, lookup, nearest, reason
from resnet_flax.files import parse_json, read_json
from resnet_flax.models.weight_files import READERS, read_metadata
from resnet_flax.text import escape_line, short_repr

WITHOUT_RUNS = ("checkpoints", "report", "wandb", "mlruns")  # folders in which no run is looked for
CONFIG_KEY = "config"  # in the metadata of a .safetensors


def read_config(workdir: Path) -> ConfigDict:
    """Return the config that a run has stored in `workdir`; missing fields have their defaults.

    Raises UserError if there is none or this version cannot read it; Damaged if it is not valid JSON.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(no_run(workdir))
    try:
        return config_of(read_json(path), path)
    except ValueError as error:
        repair = "the command that started the run recreates it"
        raise Damaged(f"{path} is damaged ({reason(error)}): {repair}") from None


def no_run(workdir: Path) -> str:
    """Return the message that `workdir` holds no run: it names one below, or else the nearest beside it or in runs."""
    below = list(islice(runs_below(workdir), 2))
    if len(below) > 1:
        return f"{escape_line(workdir)} holds several runs: name one of them, such as {escape_line(below[0])}"
    beside = (path.parent for path in workdir.parent.glob("*/config.json"))
    runs = {str(run) for run in below or (*beside, *runs_below(Path("runs")))}
    return f"{escape_line(workdir)} holds no run" + (f": {nearest(str(workdir), runs)}" if runs else "")


def runs_below(folder: Path) -> Iterator[Path]:
    """Yield the workdirs in `folder` and below, in the order of their names; `folder` itself if it is one."""
    for place, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if name not in WITHOUT_RUNS and not name.startswith("."))
        if "config.json" in files:
            yield Path(place)
            below.clear()


def read_weights_config(file: Path) -> ConfigDict:
    """Return the config of a file of weights: the one in its metadata, or that of the run in its folder.

    Raises UserError if there is neither or this version cannot read it; Damaged if it is not valid JSON.
    """
    lookup("extension of a weights file", file.suffix.lower(), READERS)
    text = read_metadata(file).get(CONFIG_KEY)
    if text is not None:
        try:
            return config_of(parse_json(text), file)
        except ValueError as error:
            raise Damaged(f"{file} has damaged metadata ({reason(error)}): export it again") from None
    if not (file.parent / "config.json").is_file():
        raise UserError(f"{file} does not say what network it is for: put the config.json of its run beside it")
    return read_config(file.parent)


def config_of(stored: Any, place: Path) -> ConfigDict:
    """Return the config with the fields that were `stored` as JSON in the file `place`, and defaults for all others.

    Raises UserError if this version cannot read it.
    """
    config = get_config()
    try:
        if not isinstance(stored, dict):
            raise UserError(f"it holds {short_repr(stored)} instead of fields")
        set_fields(config, flatten(stored))
    except (UserError, OverflowError, RecursionError) as error:
        raise UserError(f"{place} is not a config that this version can read: {error}") from None
    return config


def config_to_json(config: FrozenConfigDict) -> str:
    """Return the config as indented JSON; tuples become lists."""
    return json.dumps(config.to_dict(), indent=2, default=list) + "\n"


def differences(old: dict, new: dict) -> dict[str, str]:
    """Return "config.FIELD: OLD -> NEW" for each field, such as "data.dir", in which two configs from JSON differ."""
    a, b = flatten(old), flatten(new)
    changed = sorted(field for field in a.keys() | b.keys() if a.get(field) != b.get(field))
    return {field: f"config.{field}: {short_repr(a.get(field))} -> {short_repr(b.get(field))}" for field in changed}
