"""The identity of a run: its config, data and teacher. With another, it would be a different run, which is refused."""

import json
from pathlib import Path
from typing import Any

from ml_collections import FrozenConfigDict

from resnet_flax.config.defaults import flatten, get_config
from resnet_flax.config.stored import config_to_json, differences
from resnet_flax.data.datasets.fingerprint import SplitContents
from resnet_flax.errors import UserError
from resnet_flax.models import architecture
from resnet_flax.optim.schedules import depends_on_length
from resnet_flax.workdir.checkpoints import recorded_run

# Fields that a run may change when it resumes: the fingerprint says whether the data are the same, wherever they are.
MAY_CHANGE = ("data.dir", "train.checkpoint_every")


def identity(config: FrozenConfigDict, data: dict[str, SplitContents], teacher: dict[str, str]) -> dict[str, Any]:
    """Return what a checkpoint records of its run (see Checkpoint), as JSON: a complete config, the fingerprint of its
    data, and the checksums of the networks that teach it, if any."""
    return {"config": json.loads(config_to_json(config)), "data": data} | ({"teacher": teacher} if teacher else {})


def check_same_run(workdir: Path, run: dict[str, Any]) -> bool:
    """Return whether `run`, the identity of a run, extends that of the checkpoints in `workdir` to more epochs.

    Raises UserError if it is that of a different run, or if is_extension does not allow more epochs. Checkpoints of
    older versions record no identity and are accepted.
    """
    recorded = recorded_run(workdir / "checkpoints")
    data = data_changes(recorded.get("data", {}), run["data"])
    config = config_changes(recorded["config"], run["config"]) if recorded else {}
    if data:  # normalize(auto) has followed the data
        config.pop("data.policy", None)
    teacher = teacher_changes(recorded.get("teacher", {}), run.get("teacher", {}))
    others = data + teacher
    if not others and config and is_extension(workdir, config, recorded["config"], run["config"]):
        return True
    if changes := "; ".join([*others, *config.values()]):
        raise UserError(f"{workdir} holds a different run ({changes}): undo the change, or choose another --workdir")
    return False


def is_extension(workdir: Path, changes: dict[str, str], old: dict, new: dict) -> bool:
    """Return whether training on makes a run of the config `old` one of `new`: only the number of epochs is larger.

    `changes` are all `differences` between the two. Raises UserError if training depends on the number of epochs.
    """
    before, after = old["train"]["epochs"], new["train"]["epochs"]
    if changes.keys() != {"train.epochs"} or after < before:
        return False
    schedule, dependent = FrozenConfigDict(new["schedule"]), ""
    if depends_on_length(schedule, before, after):
        dependent = f"the schedule {schedule.name}"
    elif new["train"]["small_share"]:
        dependent = "config.train.small_share"
    if dependent:
        raise UserError(
            f"{workdir} cannot be extended from {before} to {after} epochs: {dependent} depends on "
            f"the length of the run, so the first {before} epochs of a longer one differ; choose another --workdir"
        )
    return True


def recorded_contents(workdir: Path, split: str) -> SplitContents | None:
    """Return the fingerprint of a split as the newest checkpoint records it; None if it records none."""
    return recorded_run(workdir / "checkpoints").get("data", {}).get(split)


def data_changes(old: dict[str, SplitContents], new: dict[str, SplitContents]) -> list[str]:
    """Return a phrase for each split in both fingerprints whose examples differ."""
    changes = []
    for role in [role for role in old if role in new and old[role] != new[role]]:
        before, now = old[role]["examples"], new[role]["examples"]
        sizes = f"had {before:,} examples and has {now:,}" if before != now else f"has {now:,} examples of other data"
        changes.append(f"{role} {sizes}")
    return changes


def teacher_changes(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """Return a phrase for each network in both dicts of checksums whose weights differ."""
    return [f"its teacher {path} has other weights" for path in old if path in new and old[path] != new[path]]


def config_changes(old: dict, new: dict) -> dict[str, str]:
    """Return the training_changes between two configs; a field missing in `old` had today's default."""
    config = get_config()
    config.model.update(architecture(new["model"]["name"]))  # where the config has None
    defaults = json.loads(config_to_json(FrozenConfigDict(config)))
    return training_changes(flatten(defaults) | flatten(old), new)


def training_changes(old: dict, new: dict) -> dict[str, str]:
    """Return the `differences` between two configs, except for fields that a run MAY_CHANGE."""
    return {field: change for field, change in differences(old, new).items() if field not in MAY_CHANGE}
