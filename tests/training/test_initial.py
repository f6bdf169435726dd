"""Runs that start from trained weights, with parts of the network frozen, and runs that are extended."""

import io
import json
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from benchmarks.faults.injection import SMALL, STEPS, at_step, end, newest, restored, run
from resnet_flax.command_line import parse
from resnet_flax.config.checks import complete
from resnet_flax.config.defaults import changed, get_config
from resnet_flax.config.stored import CONFIG_KEY, config_to_json
from resnet_flax.errors import UserError
from resnet_flax.models.torch_weights import to_torch
from resnet_flax.models.weight_files import encode_safetensors
from resnet_flax.optim import schedules
from resnet_flax.report.facts import run_facts
from resnet_flax.training.initial import InitialWeights, find_initial_weights, why_new_head, with_weights
from resnet_flax.training.restore import checkpoint_template
from resnet_flax.workdir import identity
from resnet_flax.workdir.identity import is_extension
from resnet_flax.workdir.results import read_results

pytestmark = pytest.mark.usefixtures("undrawn")

LAST = 2  # epochs
WORDS = [
    "--config.schedule.name=constant",
    "--config.optimizer.weight_decay=0.01",
    "--config.train.patience=0",
    "--config.train.freeze=stem",
]


def config_of(*words: str):
    return parse([*SMALL, *words])[1][0].config


def random_variables(config) -> dict:
    rng = np.random.default_rng(0)
    state = checkpoint_template(config)["state"]
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    return jax.tree.map(lambda leaf: rng.uniform(0.1, 0.5, leaf.shape).astype(np.float32), variables)


def write_weights(path: Path, config, variables: dict, **metadata: str) -> None:
    path.write_bytes(encode_safetensors(to_torch(variables), {CONFIG_KEY: config_to_json(config)} | metadata))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> SimpleNamespace:
    """A run of LAST epochs from the weights in a file, and one of fewer that was extended, without that file."""
    folder = tmp_path_factory.mktemp("tuned")
    source, straight, extended = folder / "w.safetensors", folder / "straight", folder / "extended"
    theirs = changed(config_of(*WORDS), {"data.classes": tuple(f"class{index}" for index in range(10))})
    weights = random_variables(theirs)
    write_weights(source, theirs, weights)
    words = [*WORDS, f"--init-from={source}", f"--config.train.epochs={LAST}"]
    outputs = [io.StringIO() for _ in range(3)]
    with redirect_stdout(outputs[0]):
        assert run(straight, *words) == 0
    with redirect_stdout(outputs[1]):
        assert run(extended, *words, f"--config.train.epochs={LAST - 1}") == 0
    source.unlink()
    results = [read_results(extended)]
    see_results = at_step((LAST - 1) * STEPS, lambda: results.append(read_results(extended)))
    with redirect_stdout(outputs[2]), see_results:
        assert run(extended, *words) == 0
    return SimpleNamespace(
        source=source,
        weights=weights,
        words=words,
        straight=straight,
        extended=extended,
        outputs=[output.getvalue() for output in outputs],
        results_before_and_while_extended=results,
    )


def test_frozen_parts_are_bit_identical_after_training(tuned):
    state = restored(tuned.straight, "newest", *tuned.words).tree["state"]
    for variables in (state.variables, state.unaveraged):
        for kind in ("params", "batch_stats"):
            for name, layer in variables[kind].items():
                pairs = zip(jax.tree.leaves(layer), jax.tree.leaves(tuned.weights[kind][name]), strict=True)
                equal = [np.array_equal(*pair) for pair in pairs]
                assert all(equal) if name.startswith("stem") else not any(equal), name


def test_run_starts_from_the_weights_and_says_that_the_head_is_new(tuned):
    lines = tuned.outputs[0].splitlines()
    (line,) = [line for line in lines if line.startswith("starting from")]
    digest = read_results(tuned.straight)["init"]["sha256"]
    assert line == (
        f"starting from {tuned.source} (SHA-256 {digest[:12]}); the head is new: 10 classes instead of 10 others"
    )
    assert read_results(tuned.straight)["init"]["weights"] == str(tuned.source)
    facts = run_facts(config_of(*tuned.words), read_results(tuned.straight))
    assert facts["started from"].endswith(f"w.safetensors, SHA-256 {digest[:12]}")


def test_a_run_that_resumes_keeps_the_record_of_what_it_started_from(tuned):
    assert not tuned.source.exists()
    assert read_results(tuned.extended)["init"] == read_results(tuned.straight)["init"]
    assert restored(tuned.extended, "newest", *tuned.words).run["init"] == read_results(tuned.straight)["init"]


def test_extended_run_ends_like_one_that_was_as_long_from_the_start(tuned):
    assert end(tuned.extended, *tuned.words) == end(tuned.straight, *tuned.words)
    assert (tuned.extended / "config.json").read_bytes() == (tuned.straight / "config.json").read_bytes()
    before, meanwhile = tuned.results_before_and_while_extended
    assert (before["epochs"], meanwhile) == (LAST - 1, {})  # they are not passed off as those of the longer run
    assert f"extending the run from {LAST - 1} to {LAST} epochs" in tuned.outputs[2]
    assert f"resuming at step {(LAST - 1) * STEPS} ({LAST - 1} of {LAST} epochs finished)" in tuned.outputs[2]


def test_run_is_not_shortened(tuned, capsys):
    before = newest(tuned.straight, *tuned.words)
    assert run(tuned.straight, *tuned.words, f"--config.train.epochs={LAST - 1}") == 1
    assert f"config.train.epochs: {LAST} -> {LAST - 1}" in capsys.readouterr().err
    assert newest(tuned.straight, *tuned.words) == before


@pytest.mark.parametrize(
    ("schedule", "allowed"),
    [
        ({"name": "constant"}, True),
        ({"name": "step_decay", "every": 2}, True),
        ({"name": "multistep", "milestones": (2, 4)}, True),
        ({"name": "warmup_cosine", "warmup": 1, "decay": 3}, True),
        ({"name": "warmup_cosine", "warmup": 1}, False),
        ({"name": "cosine"}, False),
        ({"name": "onecycle", "per": "step"}, False),
    ],
)
def test_extension_is_refused_exactly_where_a_longer_schedule_begins_differently(schedule, allowed):
    config = get_config()
    config.schedule.update(schedule)
    rates = [schedules.learning_rate(config, schedules.Span(epochs, 10, config.schedule.per)) for epochs in (5, 8)]
    same = np.array_equal(*(rate(np.arange(50)) for rate in rates))
    assert same == allowed
    old, new = ({**config.to_dict(), "train": {"epochs": epochs, "small_share": 0.0}} for epochs in (5, 8))
    check = partial(is_extension, Path("run"), {"train.epochs": "5 -> 8"}, old, new)
    if allowed:
        assert check()
    else:
        with pytest.raises(
            UserError, match=rf"run cannot be extended from 5 to 8 epochs: the schedule {schedule['name']} "
        ):
            check()
    assert not identity.is_extension(Path("run"), {"seed": "0 -> 1", "train.epochs": "5 -> 8"}, old, new)


def test_a_momentum_that_depends_on_the_length_prevents_an_extension_with_any_learning_rate():
    config = get_config().schedule
    config.update({"name": "onecycle", "start_divisor": 1.0, "end_divisor": 1.0, "cycle_momentum": True})
    assert schedules.depends_on_length(config, 3, 5)


def test_a_run_that_begins_on_small_images_is_not_extended():
    """The longer one would begin with more epochs of them."""
    old, new = ({**get_config().to_dict(), "train": {"epochs": epochs, "small_share": 0.5}} for epochs in (4, 8))
    with pytest.raises(UserError, match=r"from 4 to 8 epochs: config\.train\.small_share depends on the length"):
        is_extension(Path("run"), {"train.epochs": "4 -> 8"}, old, new)


def test_head_is_new_only_where_the_classes_differ(tmp_path):
    config = config_of(*WORDS)
    variables = random_variables(config)
    tensors = to_torch(variables)
    three = {**tensors, "linear.bias": np.zeros(3, np.float32)}
    unknown, same = InitialWeights("w.pt", Path("w.pt"), None), InitialWeights("w.pt", Path("w.pt"), config)
    assert why_new_head(same, tensors, config) == why_new_head(unknown, tensors, config) == ""
    assert why_new_head(unknown, three, config) == "; the head is new: 10 classes instead of 3"
    found = with_weights(jax.tree.map(np.zeros_like, variables), tensors, same, config)
    jax.tree.map(np.testing.assert_array_equal, found, variables)
    body = {name: tensor for name, tensor in tensors.items() if not name.startswith("linear")}
    found = with_weights(jax.tree.map(np.zeros_like, variables), body, same, config)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(found["params"].pop("head")))
    variables["params"].pop("head")
    jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_weights_of_another_network_are_refused_in_one_line(tmp_path, capsys):
    wide = changed(config_of(*WORDS), {"model.widths": (8,)})
    write_weights(tmp_path / "wide.safetensors", wide, random_variables(wide))
    assert run(tmp_path / "run", *WORDS, f"--init-from={tmp_path / 'wide.safetensors'}") == 1
    error = capsys.readouterr().err
    assert "wide.safetensors, which has config.model.name 'tiny', does not fit config.model 'tiny': of " in error
    assert error.count("\n") == 1
    write_weights(tmp_path / "fits.safetensors", config_of(*WORDS), random_variables(config_of(*WORDS)))
    source = find_initial_weights(str(tmp_path / "fits.safetensors"))
    assert json.loads(config_to_json(source.config)) == json.loads(config_to_json(config_of(*WORDS)))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("absent", "{folder}/absent holds no run"),
        ("wieghts.safetensors", "there is no file '{folder}/wieghts.safetensors': did you mean '{folder}/weights."),
    ],
)
def test_weights_that_are_not_there_are_named_before_anything_is_written(tmp_path, capsys, name, hint):
    (tmp_path / "weights.safetensors").touch()
    assert run(tmp_path / "run", *WORDS, f"--init-from={tmp_path / name}") == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: config.train.init_from: {hint.format(folder=tmp_path)}")
    assert printed.out == "" and [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (("stage4",), "config.train.freeze: unknown part of the network 'stage4': did you mean 'stage3'?"),
        (("final",), "config.train.freeze: unknown part of the network 'final'"),
        (("stem", "stem"), "config.train.freeze must be parts of the network, all different"),
        (("stem", "stage1", "stage2", "stage3", "head"), "config.train.freeze leaves nothing to train"),
    ],
)
def test_parts_that_cannot_be_frozen_are_named(freeze, message):
    config = get_config()
    config.train.freeze = freeze
    with pytest.raises(UserError) as refusal:
        complete(config)
    assert message in str(refusal.value)
