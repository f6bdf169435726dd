"""Configs: every field has a type and a range, and what does not fit together is refused, several mistakes at once."""

import json
import math
import re
import textwrap

import numpy as np
import pytest

from resnet_flax.command_line import parse
from resnet_flax.config.checks import CHOICES, MAX_ERRORS_LISTED, RULES, TYPES, complete, set_fields, type_errors
from resnet_flax.config.defaults import field_types, flatten, get_config
from resnet_flax.config.recipes import load_recipe
from resnet_flax.config.stored import config_to_json, read_config
from resnet_flax.errors import UserError
from resnet_flax.main import main

# Fields without a rule or a list of names, and why.
UNRULED = {
    "data.validation": "any split, read by sources.parse_split as soon as there is data; empty for none",
    "data.test": "the same",
    "data.policy": "read by Policy, which says what is wrong where",
    "data.concat_original": "True and False are both right",
    "model.final_norm": "the same; what it goes with is tested below",
    "model.se": "True and False are both right",
    "model.zero_last_scale": "the same; what it goes with is tested below",
    "optimizer.decay_all": "the same",
    "optimizer.nesterov": "the same",
    "schedule.three_phase": "the same",
    "schedule.cycle_momentum": "the same",
}


def test_every_field_has_a_type_and_a_rule_or_a_reason():
    types = field_types()
    assert set(types) == set(flatten(get_config().to_dict()))
    assert sorted([*RULES, *CHOICES, *UNRULED]) == sorted(types)


def refused(field: str, value: object) -> str:
    """Return the message about the default config with one other value, as a config.json could have it."""
    config = get_config()
    parent, _, name = field.rpartition(".")
    with config.ignore_type():
        (config[parent] if parent else config)[name] = value
    with pytest.raises(UserError) as raised:
        complete(config)
    return str(raised.value)


OTHER_TYPES = [None, True, 1, 1.5, "text", (1,), ["text"], {}, b"text"]


@pytest.mark.parametrize("field", field_types())
def test_other_types_are_refused(field):
    kind, optional = field_types()[field]
    for value in OTHER_TYPES:
        fits = type(value) is kind or (kind is float and type(value) is int) or (optional and value is None)
        expected = [] if fits else [f"config.{field} must be {TYPES[kind]}, not {value!r}"]
        assert list(type_errors({field: value})) == expected, value


def edges(field: str) -> list:
    """Return values of the right type that no field of this type allows."""
    kind, _ = field_types()[field]
    return {
        float: [math.nan, math.inf, -math.inf, -0.1, 1e39],
        int: [-1, 2**31, 10**30],
        tuple: [(1, 1), (0,), (-1,), (True,), (1.5,), ("a", "a"), ("",), (None,), ((1, 2),), ("a", 1), (10**30,)],
        str: ["", "\0", "x" * 10_000, "\x1b[2J"],
    }[kind]


@pytest.mark.parametrize("field", [*RULES, *CHOICES])
def test_values_out_of_range_are_refused(field):
    for value in edges(field):
        if field in ("data.dir", "train.init_from") and value in ("", "x" * 10_000, "\x1b[2J"):
            continue
        if field in ("data.dir", "train.teacher") and value != "\0":  # looked for on the disk
            continue
        if field == "data.train" and value:  # looked for in the data
            continue
        if field in ("model.blocks", "model.widths") and value == (1, 1):
            continue
        said = refused(field, value)
        assert said.startswith(f"config.{field} must be " if field in RULES else f"config.{field}: unknown "), said
        assert len(said) < 1000
        assert "\x1b" not in said


# ((field, value), message), each value just outside of its rule.
NARROW = [
    (("seed", 2**31), "must be an integer from 0 to 2**31 - 1"),
    (("data.classes", ("one",)), "must be two or more names, all different"),
    (("data.dir", "\ud800"), "must be a path"),
    (("data.dir", "gs://bucket/photos"), "must be a path on this machine (mount a bucket as a folder, see launch/"),
    (("train.init_from", "s3://bucket/run"), "the name of a trained network, or its path on this machine (mount a b"),
    (("train.teacher", "preact, gs://bucket/run"), "on this machine (mount a bucket as a folder, see launch/README"),
    (("model.blocks", (201, 1, 1)), "at most 200"),
    (("model.blocks", (1,) * 9), "1 to 8 positive integers, one per stage"),
    (("model.blocks", ()), "must be 1 to 8 positive integers"),
    (("model.widths", (8193, 8, 8)), "at most 8,192"),
    (("model.stem_width", 8193), "at most 8,192"),
    (("model.bottleneck_ratio", 0.0), "above 0 and at most 8"),
    (("model.groups", 0), "must be positive"),
    (("model.drop_path", 1.0), "at least 0 and below 1"),
    (("model.shortcut", "avgpool"), "did you mean 'avg_pool'?"),
    (("optimizer.learning_rate", 1e-46), "must be positive"),  # 0 in float32
    (("optimizer.momentum", 1.0), "at least 0 and below 1"),
    (
        ("optimizer.b2", 1 - 1e-9),
        "at least 0 and below 1, also when rounded to float32, not 0.999999999",
    ),  # 1 in float32
    (("optimizer.eps", 0.0), "must be positive"),
    (("schedule.factor", 1.1), "above 0 and at most 1"),
    (("schedule.end_factor", 1.1), "from 0 to 1"),
    (("schedule.milestones", (3, 2)), "whole epochs in ascending order"),
    (("schedule.milestones", (2, 2)), "whole epochs in ascending order"),
    (("schedule.every", 0), "a positive number of epochs"),
    (("schedule.warmup", 0), "a positive number of epochs"),
    (("schedule.rise", 0.0), "between 0 and 1"),
    (("schedule.rise", 1.0), "between 0 and 1"),
    (("train.epochs", 0), "must be positive"),
    (("train.batch_size", 0), "must be positive"),
    (("train.label_smoothing", 1.0), "at least 0 and below 1"),
    (("train.mixup", 1e-4), "must be 0 (off), or from 0.001 to 1,000"),
    (("train.cutmix", 1001.0), "must be 0 (off), or from 0.001 to 1,000"),
    (("train.ricap", -0.3), "must be 0 (off), or from 0.001 to 1,000"),
    (("train.mix_probability", 0.0), "above 0 and at most 1"),
    (("train.mix_switch", 1.1), "from 0 to 1"),
    (("train.teacher_weight", 0.0), "above 0 and at most 1"),
    (("train.teacher_temperature", 0.0), "must be positive"),
    (("train.small_share", 1.0), "at least 0 and below 1"),
    (("train.small_size", 7), "from 8 to 1,024 pixels"),
    (("train.ema_decay", 1.0), "below 1"),
    (("train.checkpoint_every", 0), "a positive number of epochs"),
    (("train.monitor", "val_acuracy"), "did you mean 'val_accuracy'?"),
    (("data.policy", "crop(4)|" * 1000), "at most 1000 characters"),
]


@pytest.mark.parametrize(("change", "message"), NARROW, ids=str)
def test_values_at_the_edge_are_refused(change, message):
    assert message in refused(*change)


# (values beside the defaults, message): each value is valid by itself.
CONTRADICTIONS = [
    ({"model.blocks": (1, 1), "model.widths": (8,)}, "must have the same length, with one entry per stage"),
    ({"model.final_norm": True}, "config.model.final_norm needs config.model.block to be preact, not basic"),
    ({"model.zero_last_scale": True, "model.block": "preact"}, "zero_last_scale needs blocks that end in BatchNorm"),
    (
        {"model.stem_width": 8, "model.stem": "whitening"},
        "stem_width needs config.model.stem to be conv, not whitening",
    ),
    ({"model.shortcut": "avg_pool", "model.block": "pool"}, "shortcut avg_pool does not apply to pool blocks"),
    (
        {"model.block": "pool", "model.blocks": (1,) * 7, "model.widths": (8,) * 7},
        "image_size 32 is too small for pool blocks in 6 stages: make it at least 64",
    ),
    (
        {"model.block": "pool", "model.stem": "whitening", "model.blocks": (1,) * 5, "model.widths": (8,) * 5},
        "image_size 32 is too small for pool blocks in 5 stages: make it at least 33",
    ),
    (
        {"model.block": "pool", "model.blocks": (1,) * 6, "model.widths": (8,) * 6, "train.small_share": 0.5},
        "config.train.small_size 24 is too small for pool blocks in 5 stages: make it at least 32",
    ),
    (
        {"train.small_share": 0.5, "train.small_size": 32},
        "config.train.small_size 32 must be less than config.data.image_size 32",
    ),
    (
        {"model.shortcut": "pad", "model.widths": (16, 8, 8)},
        "pad cannot remove channels: from the stem on, there are (16,",
    ),
    ({"model.shortcut": "pad", "model.stem_width": 32}, "there are (32, 16, 32, 64), and each number must be at least"),
    ({"model.groups": 4}, "config.model.groups 4 needs config.model.block to be bottleneck, not basic"),
    (
        {"model.bottleneck_ratio": 0.5},
        "config.model.bottleneck_ratio needs config.model.block to be bottleneck, not basic",
    ),
    ({"model.block": "bottleneck", "model.groups": 3}, "0.25 of 16 channels is 4: it must be a positive multiple of"),
    ({"model.block": "bottleneck", "model.bottleneck_ratio": 0.3}, "0.3 of 16 channels is 4.8: it must be a positive"),
    ({"data.classes": ("a", "b")}, "config.data.classes must be 10 names, one for each class of digits"),
    ({"optimizer.nesterov": True, "optimizer.momentum": 0.0}, "nesterov needs sgd or muon with momentum"),
    ({"optimizer.nesterov": True, "optimizer.dampening": 0.1}, "with momentum and without dampening"),
    ({"optimizer.nesterov": True, "optimizer.name": "adam"}, "nesterov needs sgd"),
    ({"schedule.name": "multistep"}, "must be epochs between 0 and config.train.epochs 10, not ()"),
    ({"schedule.name": "multistep", "schedule.milestones": (5, 10)}, "config.train.epochs 10, not (5, 10)"),
    ({"schedule.name": "warmup_cosine", "schedule.warmup": 11}, "warmup 11 is longer than config.train.epochs 10"),
    ({"schedule.name": "onecycle", "train.epochs": 3}, "must be more than one epoch: train for at least 4 epochs"),
    ({"schedule.name": "onecycle", "schedule.rise": 0.6, "schedule.three_phase": True}, "at most 0.5, not 0.6"),
    ({"train.ricap": 0.3, "train.cutmix": 1.0}, "ricap takes the place of config.train.mixup and config.train.cutmix"),
    ({"schedule.name": "onecycle", "optimizer.name": "adagrad"}, "needs an optimizer with momentum"),
    ({"schedule.name": "onecycle", "optimizer.momentum": 0.0}, "needs an optimizer with momentum"),
    (
        {"schedule.name": "onecycle", "schedule.min_momentum": 0.96},
        "config.schedule.min_momentum 0.96 is more than config.schedule.max_momentum 0.95",
    ),
    ({"data.validation": "", "train.patience": 2}, "config.train.patience needs a validation split"),
    ({"data.validation": "", "train.monitor": "val_loss"}, "config.train.monitor val_loss needs a validation split"),
]


@pytest.mark.parametrize(("changes", "message"), CONTRADICTIONS, ids=lambda value: str(value)[:60])
def test_contradictions_are_refused(changes, message):
    config = get_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=f"^.*{re.escape(message)}.*$") as raised:
        complete(config)
    assert "\n" not in str(raised.value)


def test_several_contradictions_are_reported_at_once():
    config = get_config()
    config.update_from_flattened_dict({"data.validation": "", "train.patience": 2, "model.final_norm": True})
    with pytest.raises(UserError) as raised:
        complete(config)
    assert len(str(raised.value).splitlines()) == 2


# (flags, message): what the data does not allow, before anything is compiled.
WITH_DATA = [
    (
        ["--config.data.train=train[:10%]", "--config.data.validation=train[10%:]"],
        "more than the 144 of config.data.train",
    ),
    (["--config.train.batch_size=1294"], "config.train.batch_size 1294 is more than the 1293 examples of an epoch"),
    (["--config.model.max_params=1000"], "78,042 parameters, more than config.model.max_params 1,000"),
    (["--config.train.epochs=2000000000", "--config.train.batch_size=1"], "more than the limit of 2**31 - 1"),
    (["--config.train.epochs=1", "--config.data.train_examples=32"], "onecycle needs more than a single step"),
]


@pytest.mark.parametrize(("words", "message"), WITH_DATA)
def test_what_does_not_fit_the_data_is_refused_before_compiling(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("resnet_flax.training.run.Run.fresh_state", None)
    assert main(["--config=configs/quickstart.py", f"--workdir={tmp_path}/run", *words]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# (body of get_config, message)
RECIPES = [
    ("return config", None),
    ("config.train.epochs = 'ten'", "line 4: TypeError: "),
    ("config.model.blocks = 1", "line 4: TypeError: "),
    (
        "config.seed = 1\nconfig.train.min_delta = float('nan')\nreturn config",
        "min_delta must be 0 or positive, not nan",
    ),
    ("config.trian.epochs = 3", "line 4: AttributeError: "),
    ("config.new_field = 3\nreturn config", "unknown field config.new_field"),
    ("config.train.epoch = 3\nreturn config", "unknown field config.train.epoch: did you mean 'train.epochs'?"),
    ("config.train.more = {}\nreturn config", "unknown field config.train.more"),
    ("del config.train.epochs\nreturn config", "config.train.epochs is missing"),
    ("config.train.epochs = None\nreturn config", "config.train.epochs must be a whole number, not None"),
    ("config.train.epochs = True\nreturn config", "config.train.epochs must be a whole number, not True"),
    ("config.seed = -1\nconfig.train.epochs = 0\nreturn config", "config.seed must be"),
    ("pass", "get_config must return a ConfigDict, not None"),
    ("return config.to_dict()", "get_config must return a ConfigDict, not {"),
    ("return type(config)()", "config.data.classes is missing"),
    ("raise RuntimeError('first\\nsecond \\x1b[2J')", r"line 4: RuntimeError: first\nsecond \x1b[2J"),
    ("import sys; sys.exit(3)", "line 4: SystemExit: 3"),
    ("return 1 +", "line 4: SyntaxError: "),
    ("return eval('(' * 10_000)", ": too many nested parentheses"),
    ("return get_config()", "RecursionError"),
]


@pytest.mark.parametrize(("body", "message"), RECIPES)
def test_mistakes_in_recipes_are_one_line_each(body, message, tmp_path, capsys):
    path = tmp_path / "recipe.py"
    lines = "from resnet_flax import config as configs\ndef get_config():\n    config = configs.get_config()\n"
    path.write_text(lines + textwrap.indent(body, "    ") + "\n")
    if message is None:
        assert parse(["summary", f"--config={path}"])[1][0][0].to_dict() == complete(get_config()).to_dict()
        return
    assert main(["summary", f"--config={path}"]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert len(said) < 3000


def test_a_recipe_without_get_config_and_one_that_is_not_text(tmp_path):
    path = tmp_path / "recipe.py"
    for content, message in ((b"", "no attribute 'get_config'"), (b"\0\xff", "SyntaxError|ValueError")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            load_recipe(str(path))
    with pytest.raises(UserError, match="TypeError"):
        path.write_text("def get_config(): pass")
        load_recipe(f"{path}:argument")


STORED = [
    ("[]", "it holds [] instead of fields"),
    ("3", "it holds 3 instead of fields"),
    ('{"model": 3}', "unknown field config.model: did you mean 'model.name'?"),
    ('{"train": {"epochs": "3"}}', "is not a config that this version can read: "),
    ('{"train": {"epochs": 1e400}}', "is not a config that this version can read: "),
    ('{"optimizer": {"learning_rate": ' + "9" * 400 + "}}", "is not a config that this version can read: "),
    ('{"a":' * 20_000 + "1" + "}" * 20_000, "is nested too deeply"),
    ('{"a":' * 900 + "1" + "}" * 900, "is not a config that this version can read: "),
    ('{"data": {"classes": [["a"], {"b": 1}]}}', None),
    ('{"train": {"epochs": null}}', None),
    ('{"train": {"epochs": true}}', None),
    ('{"optimizer": {"learning_rate": NaN}}', None),
]


@pytest.mark.parametrize(("text", "message"), STORED, ids=lambda value: str(value)[:40])
def test_a_stored_config_is_data_that_may_be_anything(text, message, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=re.escape(message) if message else "config[.][a-z_.]+ must be "):
        complete(read_config(tmp_path))


def test_a_message_is_of_limited_length(tmp_path):
    strange = {**{f"x{n}": n for n in range(30)}, "optimizer": {"z" * 2000: 1}}
    (tmp_path / "config.json").write_text(json.dumps(strange))
    with pytest.raises(UserError) as error:
        read_config(tmp_path)
    *lines, last = str(error.value).splitlines()
    assert len(lines) == MAX_ERRORS_LISTED
    assert last == "and 11 more"
    assert lines[1].endswith(
        "unknown field config.x1: the choices are: data, model, optimizer, parallel, schedule, seed, train"
    )


def test_numbers_of_numpy_are_numbers(tmp_path):
    config = get_config()
    config.optimizer.learning_rate = np.float64(0.5)
    assert json.loads(config_to_json(complete(config)))["optimizer"]["learning_rate"] == 0.5


def test_fields_are_set_to_numbers_and_arrays_of_numpy():
    config = get_config()
    numbers = {"train.epochs": np.int64(3), "optimizer.learning_rate": np.float32(0.5)}
    set_fields(config, numbers | {"model.widths": np.array([8, 16])})
    assert (config.train.epochs, config.optimizer.learning_rate, config.model.widths) == (3, 0.5, (8, 16))
    assert type(config.train.epochs) is int and type(config.model.widths[0]) is int
