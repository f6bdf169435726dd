"""The space of a sweep: how its fields are written, and which are refused."""

from pathlib import Path

import numpy as np
import pytest

from resnet_flax.config.checks import complete
from resnet_flax.errors import UserError
from resnet_flax.studies.space import Plan, Range, Space, recipe_config, with_defaults

RECIPE = [f"--config={Path(__file__).parents[2]}/configs/preact.py:sgd", "--config.train.epochs=3"]


def test_values_ranges_and_brackets():
    words = [
        "optimizer.learning_rate=1e-3..1:log",
        "train.batch_size=16..256",
        "model.widths=(8,16,32,64),[4,8,16,32]",
        "data.policy=crop(4)|flip|normalize(cifar10),color_jitter(0.2,0.2)|normalize(half)",
        "model.activation=relu,gelu,relu",
        "train.init_from=../runs/a,../runs/b",
        "train.teacher=,preact",
    ]
    assert Space.read(words, RECIPE).fields == {
        "optimizer.learning_rate": Range(1e-3, 1.0, True),
        "train.batch_size": Range(16, 256, False),
        "model.widths": ("(8,16,32,64)", "[4,8,16,32]"),
        "data.policy": ("crop(4)|flip|normalize(cifar10)", "color_jitter(0.2,0.2)|normalize(half)"),
        "model.activation": ("relu", "gelu"),
        "train.init_from": ("../runs/a", "../runs/b"),
        "train.teacher": ("", "preact"),
    }


def test_a_trial_is_what_the_command_line_with_its_settings_is_but_never_tested():
    space = Space.read(["optimizer.momentum=0.8,0.9", "model.name=preact,resnet18"], RECIPE)
    settings = space.combinations()[3]
    assert [list(one.values()) for one in space.combinations()[:3]] == [
        ["0.8", "preact"],
        ["0.8", "resnet18"],
        ["0.9", "preact"],
    ]
    assert space.words(settings) == [*RECIPE, "--config.optimizer.momentum=0.9", "--config.model.name=resnet18"]
    config = space.config(settings)
    assert (config.optimizer.momentum, config.model.block, config.train.epochs) == (0.9, "basic", 3)
    assert config.data.test == "" and config.data.validation


def test_a_trial_never_sees_what_its_winner_is_tested_on(tmp_path):
    """Also if the test images are cut out of a dataset that has no split for them."""
    np.save(tmp_path / "train_images.npy", np.zeros((30, 32, 32, 3), np.uint8))
    np.save(tmp_path / "train_labels.npy", np.arange(30) % 3)
    recipe = ["--config=folder", f"--config.data.dir={tmp_path}"]
    space = Space.read(["seed=0,1"], recipe)
    trial, winner = space.config({"seed": "1"}).data, complete(recipe_config(space.words({"seed": "1"}))).data
    assert (trial.train, trial.validation, trial.test) == ("train[:80%]", "train[80%:90%]", "")
    assert (winner.train, winner.validation, winner.test) == ("train[:80%]", "train[80%:90%]", "train[90%:]")


def test_names_of_trials_are_folders_and_differ():
    space = Space(tuple(RECIPE), dict.fromkeys(("data.policy", "optimizer.name", "model.name"), ("",)))
    one, other = (
        {"data.policy": policy, "optimizer.name": "sgd", "model.name": "x"} for policy in ("flip|a", "flip/a")
    )
    assert space.describe(one) == "policy=flip|a,optimizer.name=sgd,model.name=x"
    assert space.folder(one) != space.folder(other)
    assert "/" not in space.folder(other) and len(space.folder(other)) < 120
    plain = Space(tuple(RECIPE), {"optimizer.learning_rate": ("0.1",)})
    assert plain.folder({"optimizer.learning_rate": "1e-05"}) == "learning_rate=1e-05"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "what should be swept?"),
        (["optimizer.momentum"], "'optimizer.momentum' must be a field and its values, such as"),
        (["optimizer.momentum="], "'optimizer.momentum=' must be a field and its values, such as"),
        (["optimizer.momentum=0.8,"], "config.optimizer.momentum must be a number, not ''"),
        (["optimizer.momentun=0.8,0.9"], "unknown field config.optimizer.momentun: did you mean 'optimizer.momentum'?"),
        (["optimizer.learning_rate=0.1,fast"], "config.optimizer.learning_rate must be a number, not 'fast'"),
        (["train.batch_size=32,1e2"], "1e2"),
        (["optimizer.momentum=0.8", "optimizer.momentum=0.9"], "optimizer.momentum is given twice"),
        (["data.validation=train[90%:],train[80%:]"], "config.data.validation must be the same for all trials"),
        (["optimizer.name=adam..sgd"], "config.optimizer.name is not a number"),
        (["optimizer.nesterov=False..True"], "config.optimizer.nesterov is not a number"),
        (["optimizer.momentum=0.9..0.8"], "LOW below HIGH"),
        (["optimizer.learning_rate=1e-3..inf"], "a range goes from one finite number to another, not 1e-3..inf"),
        (["optimizer.learning_rate=nan..1"], "a range goes from one finite number to another, not nan..1"),
        (
            ["optimizer.learning_rate=1e-3..1e400:log"],
            "a range goes from one finite number to another, not 1e-3..1e400:log",
        ),
        (["optimizer.weight_decay=0..1:log"], "above 0: not 0..1:log"),
        (["optimizer.momentum=0.8..0.9,0.95"], "config.optimizer.momentum must be a number, not '0.9,0.95'"),
    ],
)
def test_mistakes(words, message):
    with pytest.raises(UserError) as raised:
        Space.read(words, RECIPE)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_grid_has_an_end():
    hundred = ",".join(map(str, range(1, 102)))
    space = Space.read([f"train.epochs={hundred}", f"train.batch_size={hundred}"], RECIPE)
    with pytest.raises(UserError, match="at most 10,000 combinations, not 10,201"):
        space.combinations()


def test_a_grid_has_no_range():
    space = Space.read(["optimizer.learning_rate=0.1,0.2", "optimizer.momentum=0.1..0.9"], RECIPE)
    with pytest.raises(UserError, match=r"momentum has a range: use --method=random"):
        space.combinations()


def test_a_sweep_from_before_a_field_of_the_config_goes_on_with_its_default():
    space = Space.read(["optimizer.momentum=0.8"], RECIPE)
    about = Plan(space.config({}), Path("x"), space, "grid", 0).about()
    assert with_defaults({name: value for name, value in about.items() if name != "config.train.small_share"}) == about
