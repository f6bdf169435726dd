"""Names of config fields: what to suggest for one that does not exist."""

import difflib

from resnet_flax.config.defaults import field_types
from resnet_flax.errors import nearest
from resnet_flax.text import escape_line

# Other names that people use for a field; the name of a section stands for the field that they mean by it.
ALIASES = {
    "lr": "optimizer.learning_rate",
    "rate": "optimizer.learning_rate",
    "wd": "optimizer.weight_decay",
    "decay": "optimizer.weight_decay",
    "l2": "optimizer.weight_decay",
    "opt": "optimizer.name",
    "optim": "optimizer.name",
    "optimizer": "optimizer.name",
    "optimiser": "optimizer.name",
    "beta1": "optimizer.b1",
    "beta2": "optimizer.b2",
    "clip": "optimizer.clip_norm",
    "grad_clip": "optimizer.clip_norm",
    "batch": "train.batch_size",
    "bs": "train.batch_size",
    "smoothing": "train.label_smoothing",
    "ema": "train.ema_decay",
    "early_stopping": "train.patience",
    "net": "model.name",
    "network": "model.name",
    "arch": "model.name",
    "architecture": "model.name",
    "model": "model.name",
    "width": "model.widths",
    "channels": "model.widths",
    "depth": "model.blocks",
    "layers": "model.blocks",
    "dropout": "model.block_dropout",
    "stochastic_depth": "model.drop_path",
    "cardinality": "model.groups",
    "squeeze_excitation": "model.se",
    "zero_gamma": "model.zero_last_scale",
    "zero_init_residual": "model.zero_last_scale",
    "init": "model.kernel_init",
    "dtype": "model.compute_dtype",
    "precision": "model.compute_dtype",
    "schedule": "schedule.name",
    "scheduler": "schedule.name",
    "data": "data.name",
    "dataset": "data.name",
    "data_dir": "data.dir",
    "val": "data.validation",
    "aug": "data.policy",
    "augment": "data.policy",
    "augmentation": "data.policy",
    "transform": "data.policy",
    "transforms": "data.policy",
}
DEVICES = ("gpu", "gpus", "cuda", "cpu", "tpu", "device", "devices")
CHOOSE_DEVICE = "the environment chooses the device: JAX_PLATFORMS=cuda or cpu, CUDA_VISIBLE_DEVICES=0,1"


def fields_called(name: str) -> list[str]:
    """Return the fields that `name` clearly means: its last part is an alias, or the last part of their names.

    Of several fields with that last part, only the one in the section that `name` begins with, if there is one.
    """
    section, _, last = name.lower().replace("-", "_").rpartition(".")
    if last in ALIASES:
        return [ALIASES[last]]
    fields = [field for field in field_types() if field.rpartition(".")[2] == last]
    return [field for field in fields if field.startswith(f"{section}.")] or fields


def fields_like(name: str) -> list[str]:
    """Return the fields that `name`, whose last part may be misspelt, could mean."""
    section, dot, last = name.rpartition(".")
    lasts = sorted({field.rpartition(".")[2] for field in field_types()} | ALIASES.keys())
    for close in [last, *difflib.get_close_matches(last[:100], lasts, n=1, cutoff=0.7)]:
        if fields := fields_called(f"{section}{dot}{close}"):
            return fields
    return []


def unknown_field(name: str) -> str:
    """Return the message for an unknown field: what it could mean, or else its section's fields, or all sections."""
    return f"unknown field config.{escape_line(name, 80)}: {field_hint(name)}"


def field_hint(name: str) -> str:
    if name.rpartition(".")[2] in DEVICES:
        return CHOOSE_DEVICE
    if fields := fields_like(name):
        return f"did you mean {' or '.join(map(repr, fields))}?"
    sections = {field.partition(".")[0] for field in field_types()}
    section = name.partition(".")[0]
    return nearest(name, [field for field in field_types() if field.partition(".")[0] == section] or sections)
