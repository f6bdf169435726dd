"""Configs in a workdir: read, write and compare."""

import json
from pathlib import Path

from ml_collections import ConfigDict, FrozenConfigDict

from resnet_flax.config.checks import raise_errors, type_errors
from resnet_flax.config.defaults import flatten, get_config
from resnet_flax.errors import Damaged, UserError, nearest, reason
from resnet_flax.files import read_json
from resnet_flax.text import escape_line, short_repr


def read_config(workdir: Path) -> ConfigDict:
    """Return the config that a run has stored in `workdir`; fields that it lacks have their defaults.

    Raises UserError if there is none, or this version cannot read it; Damaged if it is not valid JSON.
    """
    path = workdir / "config.json"
    if not path.is_file():
        runs = [str(other.parent) for other in workdir.parent.glob("*/config.json")]
        raise UserError(f"{escape_line(workdir)} holds no run" + (f": {nearest(str(workdir), runs)}" if runs else ""))
    config = get_config()
    try:
        stored = read_json(path)
    except ValueError as error:
        repair = "the command that started the run recreates it"
        raise Damaged(f"{path} is damaged ({reason(error)}): {repair}") from None
    try:
        if not isinstance(stored, dict):
            raise UserError(f"it holds {short_repr(stored)} instead of fields")
        values = {field: tuple(v) if isinstance(v, list) else v for field, v in flatten(stored).items()}
        raise_errors(type_errors(values))
        config.update_from_flattened_dict(values)
    except (UserError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} is not a config that this version can read: {error}") from None
    return config


def config_to_json(config: FrozenConfigDict) -> str:
    """Return the config as indented JSON; tuples become lists."""
    return json.dumps(config.to_dict(), indent=2, default=list) + "\n"


def differences(old: dict, new: dict) -> list[str]:
    """Return "config.FIELD: OLD -> NEW" for every field in which two configs, read from JSON, differ."""
    a, b = flatten(old), flatten(new)
    changed = sorted(field for field in a.keys() | b.keys() if a.get(field) != b.get(field))
    return [f"config.{field}: {short_repr(a.get(field))} -> {short_repr(b.get(field))}" for field in changed]
