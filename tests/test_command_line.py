"""The command line: every way to write it, and one line for every mistake a user can make."""

import ast
import json
import re
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest

from resnet_flax.command_line import canonical, parse, parse_names, parse_tuple
from resnet_flax.config.recipes import load_recipe
from resnet_flax.config.stored import config_to_json
from resnet_flax.main import main
from resnet_flax.training.initial import find_initial_weights
from resnet_flax.verbs import VERBS
from resnet_flax.workdir.trained import find_trained

ROOT = Path(__file__).parents[1]
QUICKSTART = f"--config={ROOT}/configs/quickstart.py"
RECIPES = (
    "resnet_443",
    "resnet_2322",
    "preact",
    "resnet18_w42",
    "resnet_large",
    "resnet_353",
    "speed94",
    "speed95",
    "speed96",
    "best",
)


def run(*words: str) -> int:
    return main(list(words))


@pytest.mark.parametrize("recipe", RECIPES)
def test_summary_of_a_recipe_has_the_number_of_parameters_that_is_documented(recipe, capsys):
    assert run("summary", f"--config={ROOT}/configs/{recipe}.py") == 0
    count = re.search(r"^parameters: ([24],\d{3},\d{3}) ", capsys.readouterr().out, re.MULTILINE)[1]
    assert f"{count} parameters" in (ROOT / "configs" / f"{recipe}.py").read_text()
    assert re.search(rf"\[{recipe}(:full)?\].*\| {count} \|", (ROOT / "README.md").read_text())


@pytest.mark.parametrize("argument", ["full", "sgd", "sgd,relu", "adagrad,gelu,full"])
def test_arguments_of_preact(argument):
    verb, [(config, workdir)], _ = parse([f"--config={ROOT}/configs/preact.py:{argument}"])
    assert verb == "train"
    assert workdir == Path("runs") / f"preact-{argument}"
    assert (config.data.validation == "") == ("full" in argument)
    assert config.data.train == ("train" if "full" in argument else "train[:80%]")
    assert config.optimizer.name == next((n for n in ("sgd", "adagrad") if n in argument), "adam")
    assert config.model.activation == ("relu" if "relu" in argument else "gelu")


def test_fast_is_one_training_on_all_images_for_every_network_of_a_report():
    configs = []
    for recipe in RECIPES[:6]:
        _, [(config, workdir)], _ = parse([f"--config={ROOT}/configs/{recipe}.py:fast"])
        assert workdir == Path("runs") / f"{recipe}-fast" and config.model.name == recipe
        configs.append({section: config[section] for section in ("data", "optimizer", "schedule", "train")})
    assert all(config == configs[0] for config in configs)
    assert (configs[0]["data"].train, configs[0]["data"].validation) == ("train", "")
    assert (configs[0]["train"].epochs, configs[0]["optimizer"].name) == (10, "muon")


def test_recipes_hold_out_what_the_design_says():
    for recipe in RECIPES:
        _, [(config, workdir)], _ = parse([f"--config={ROOT}/configs/{recipe}.py"])
        assert config.data.validation == ("train[80%:]" if recipe == "preact" else "train[90%:]")
        assert config.model.max_params == 5_000_000
        assert workdir == Path("runs") / recipe


MISTAKES = [
    ([], "which recipe"),
    (["--config=configs/preakt.py"], "there is no config file 'configs/preakt.py': did you mean 'configs/preact.py'"),
    (["--config=preakt"], "there is no recipe 'preakt': did you mean 'preact'?"),
    (["--config=nowhere/preakt.py"], "there is no config file 'nowhere/preakt.py': did you mean 'configs/preact.py'?"),
    (["--config=nowhere/preact.py"], "there is no config file 'nowhere/preact.py': did you mean 'preact'?"),
    (["--config=preact:sdg"], "unknown config argument 'sdg': did you mean 'sgd'"),
    (["list", QUICKSTART], "list takes no flags and no arguments: what is '--config="),
    (["list", "runs"], "list takes no flags and no arguments: what is 'runs'?"),
    ([f"--config={ROOT}/configs/preact.py:sdg"], "unknown config argument 'sdg': did you mean 'sgd'"),
    ([f"--config={ROOT}/configs/preact.py:sgd,adam"], "config argument 'sgd,adam' names two alternatives: choose one"),
    (["trian", QUICKSTART], "unknown verb 'trian': did you mean 'train'"),
    (["help", "trian"], "unknown verb 'trian': did you mean 'train'"),
    (["trian", "--help"], "unknown verb 'trian': did you mean 'train'"),
    (["report", "--watch", "--config=preakt"], "there is no recipe 'preakt': did you mean 'preact'?"),
    (["train", "summary", QUICKSTART], "train takes flags only: what is 'summary'?"),
    (["report"], "/run holds no run"),
    (["train", QUICKSTART, "--workdir=a"], "train takes one --workdir, not 2"),
    ([QUICKSTART, "--wordkir=x"], "there is no flag --wordkir: did you mean --workdir=x?"),
    ([QUICKSTART, "--config.optimizer.momentun=1"], "config.optimizer.momentun: did you mean 'optimizer.momentum'"),
    ([QUICKSTART, "--config.train.zzzzzzzzzzzzzzzzz=1"], "the choices are: train.batch_size, "),
    ([QUICKSTART, "--noconfig.optimizer.nesterov=maybe"], "--noconfig.optimizer.nesterov takes no value"),
    (
        [QUICKSTART, "--config.optimizer.learning_rate=fast"],
        "config.optimizer.learning_rate must be a number, not 'fast'",
    ),
    ([QUICKSTART, "--config.model.name=resnet_433"], "unknown model 'resnet_433': did you mean 'resnet_443'"),
    ([QUICKSTART, "--config.model.block=basik"], "unknown block 'basik': did you mean 'basic'"),
    ([QUICKSTART, "--config.model.activation=rely"], "unknown activation 'rely': did you mean 'relu'"),
    ([QUICKSTART, "--config.optimizer.name=adma"], "unknown optimizer 'adma': did you mean 'adam'"),
    ([QUICKSTART, "--config.schedule.name=onecicle"], "unknown schedule 'onecicle': did you mean 'onecycle'"),
    ([QUICKSTART, "--config.data.policy=crop(4)|flop|normalize(half)"], "flop"),
    ([QUICKSTART, "--config.data.dir=~no-such-user/x"], "'~no-such-user/x' is not a folder, and digits does not need"),
    (["--config=folder", "--config.data.dir=~no-such-user/x"], "/~no-such-user/x"),
    ([QUICKSTART, "--config.data.name=cifar"], "unknown dataset 'cifar': did you mean 'cifar10'"),
    ([QUICKSTART, "--config.data.train=trian"], "unknown split 'trian': did you mean 'train'"),
    ([QUICKSTART, "--config.data.train=train[:1"], "must look like train, train[:90%]"),
    ([QUICKSTART, "--config.data.train=train[:99999]"], "split 'train[:99999]' goes beyond the 1437 examples of train"),
    ([QUICKSTART, "--config.data.validation=train[5%:]"], "share examples"),
    ([QUICKSTART, "--config.model.blocks=(1,1)"], "must have the same length"),
    ([QUICKSTART, "--config.model.blocks={[1]: 2}"], "config.model.blocks must be a tuple, not '{[1]: 2}'"),
    ([QUICKSTART, "--config.model.widths=(8,0,8)"], "one per stage, each at most 8,192, not (8, 0, 8)"),
    ([QUICKSTART, "--config.train.epochs=0"], "config.train.epochs must be positive, not 0"),
    ([QUICKSTART, "--config.train.epochs=3000000000"], "must be positive, and at most 2,147,483,647, not 3000000000"),
    (
        [QUICKSTART, "--config.optimizer.learning_rate=1e40"],
        "must be positive, and from about 1e-45 to 3e38, not 1e+40",
    ),
    ([QUICKSTART, "--config.optimizer.learning_rate=nan"], "config.optimizer.learning_rate must be positive, not nan"),
    ([QUICKSTART, "--config.train.batch_size=-3"], "config.train.batch_size must be positive, not -3"),
    ([QUICKSTART, "--config.train.batch_size=5000"], "is more than the 1293 examples of an epoch"),
    ([QUICKSTART, "--config.schedule.name=multistep"], "config.schedule.milestones must be epochs between"),
    ([QUICKSTART, "--config.model.max_params=1000"], "has 78,042 parameters, more than config.model.max_params 1,000"),
    ([QUICKSTART, "--config.data.validation=", "--config.train.patience=2"], "needs a validation split"),
    ([QUICKSTART, "--config.optimizer.nesterov", "--config.optimizer.dampening=0.1"], "nesterov needs sgd"),
    ([QUICKSTART, "--config.optimizer.momentum=0.0"], "cycle_momentum needs an optimizer with momentum"),
    (["export", QUICKSTART], "/run holds no run"),
    (["import-torch", QUICKSTART, "--file=nothing.pt"], "there is no file 'nothing.pt'"),
    (["preview", QUICKSTART, "--images=0"], "--images must be from 1 to 50, not 0"),
    ([QUICKSTART, "--config.train.epochs=ten"], "config.train.epochs must be a whole number, not 'ten'"),
    ([QUICKSTART, "--config.train.epochs=3.5"], "config.train.epochs must be a whole number, not '3.5'"),
    ([QUICKSTART, "--config.optimizer.nesterov=yes"], "config.optimizer.nesterov must be True or False, not 'yes'"),
    ([QUICKSTART, "--config.train.epochs="], "config.train.epochs must be a whole number, not ''"),
    ([QUICKSTART, "--config.model.blocks=" + "(" * 10_000], "config.model.blocks must be"),
    ([QUICKSTART, "--config.optimizer.lr=0.1"], "config.optimizer.lr: did you mean 'optimizer.learning_rate'?"),
    ([QUICKSTART, "--config.gpu=0"], "unknown field config.gpu: the environment chooses the device: JAX_PLATFORMS"),
    ([QUICKSTART, "--config.workdir=x"], "there is no flag --config.workdir: did you mean --workdir=x?"),
    (["--epochs=3"], "there is no flag --epochs: did you mean --config.train.epochs=3?"),
    (["--epochs", "3"], "there is no flag --epochs: did you mean --config.train.epochs=3?"),
    (["--lr=0.1", QUICKSTART], "there is no flag --lr: did you mean --config.optimizer.learning_rate=0.1?"),
    (["--learning_rat", QUICKSTART], "did you mean --config.optimizer.learning_rate=VALUE?"),
    (["--name=x", QUICKSTART], "did you mean --config.data.name=x or --config.model.name=x or "),
    (["--out=x", QUICKSTART], "the choices are: --config, --workdir, --seeds, --init-from, --track\n"),
    (["report", "--out=x"], "did you mean --output=x?"),
    (["--device=cpu", QUICKSTART], "there is no flag --device: the environment chooses the device"),
    (["--zzzzzzzzz", QUICKSTART], "the choices are: --config, --workdir, --seeds, "),
    (["report", "--wacth"], "there is no flag --wacth: did you mean --watch?"),
    (["report", "--no-watch"], "there is no flag --no-watch: did you mean --nowatch?"),
    (["--se", QUICKSTART], "there is no flag --se: did you mean --config.model.se?"),
    (["sweep", "optimizer.learning_rate=0.1,0.2"], "which recipe? Give --config=RECIPE"),
    (["preview", QUICKSTART, "--images=x"], "--images must be a whole number, not 'x'"),
    (["preview", QUICKSTART, "--images"], "--images needs a value: --images=VALUE"),
    (
        ["sweep", QUICKSTART, "--config.optimizer.learning_rate=1e-3,1e-2"],
        "learning_rate takes one value: to sweep over several, write optimizer.learning_rate=1e-3,1e-2",
    ),
    (["sweep", QUICKSTART, "--config.optimizer.b1=0.8..0.9"], "to sweep over several, write optimizer.b1=0.8..0.9"),
    (["sweep", QUICKSTART, "--config.optimizer.name=sgd,adam"], "to sweep over several, write optimizer.name=sgd,adam"),
    (["summary", QUICKSTART, "--images=2"], "summary has no flag --images, only preview"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_mistake_is_one_line_with_the_nearest_valid_choice(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    workdir = tmp_path / "run"
    assert run(*words, *([f"--workdir={workdir}"] if words else [])) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err
    # Only a policy takes more lines: they point at the bad part of it.
    assert captured.err.count("\n") == 1 or "policy" in captured.err
    assert captured.out in ("", "waiting for another process to prepare the dataset\n")  # which other tests use, too
    assert not workdir.exists()


def test_verbs_for_runs_ask_for_one_and_name_the_nearest(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "preact").mkdir(parents=True)
    (tmp_path / "runs" / "preact" / "config.json").write_text("{}")
    assert run("evaluate") == 1
    assert "which run? Give --workdir=PATH" in capsys.readouterr().err
    assert run("evaluate", "runs/preakt") == 1
    assert capsys.readouterr().err == "error: runs/preakt holds no run: did you mean 'runs/preact'?\n"
    (tmp_path / "runs" / "preact" / "config.json").write_text('{"model": {"nam": "preact"}}')
    assert run("evaluate", "runs/preact") == 1
    err = capsys.readouterr().err
    assert "preact/config.json is not a config that this version can read: " in err
    assert "unknown field config.model.nam: did you mean 'model.name'?" in err


def test_a_run_below_runs_is_found_for_a_name_without_that_folder(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "own").mkdir(parents=True)
    (tmp_path / "runs" / "own" / "config.json").write_text("{}")
    for verb, message in {
        "evaluate": "there is no network 'own': did you mean 'runs/own'?",
        "report": "own holds no run: did you mean 'runs/own'?",
    }.items():
        assert run(verb, "own") == 1
        assert capsys.readouterr().err == f"error: {message}\n"


def test_names_may_look_like_numbers():
    config = parse([QUICKSTART, "--config.data.classes=0,1,2,3,4,5,6,7,8,9"])[1][0].config
    assert config.data.classes == tuple("0123456789")
    names = {"3.10,3.9": ("3.10", "3.9"), "cat,dog (big)": ("cat", "dog (big)"), "('a', 'b,c')": ("a", "b,c")}
    for text, parsed in (names | {"(a, b)": ("a", "b"), "": ()}).items():
        assert parse_names(text) == parsed


def test_a_page_that_follows_a_recipe_follows_its_run():
    assert parse(["report", "--watch"])[1][0].workdir == Path("runs")
    assert parse(["report", "--watch", "--config=preact:sgd"])[1][0].workdir == Path("runs/preact-sgd")


def test_another_network_by_its_name_is_all_of_that_network():
    preact, other = ["summary", "--config=preact"], "--config.model.name=resnet_443"
    for words, blocks, activation in [
        ([], (2, 2, 2, 2), "gelu"),
        ([other], (4, 4, 3), "relu"),
        ([other, "--config.model.activation=gelu"], (4, 4, 3), "gelu"),
        (["--config.model.name=preact"], (2, 2, 2, 2), "gelu"),  # the recipe's own
    ]:
        model = parse([*preact, *words])[1][0].config.model
        assert (model.blocks, model.activation) == (blocks, activation)


def test_the_argument_of_a_recipe_in_a_file_may_be_a_path(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from resnet_flax.config import recipe\n\ndef get_config(folder):\n"
        "    config, _ = recipe('tiny', '')\n    config.data.dir = folder\n    return config\n"
    )
    assert load_recipe(f"{tmp_path}/mine.py:/data/photos").data.dir == "/data/photos"


def test_a_folder_of_several_runs_names_one_of_them(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for run_folder in ("q-seeds/seed0", "q-seeds/seed1", "sweep/trials/b1=0.8", "sweep/trials/b1=0.9", "one/seed3"):
        (tmp_path / "runs" / run_folder).mkdir(parents=True)
        (tmp_path / "runs" / run_folder / "config.json").write_text("{}")
    several = "holds several runs: name one of them, such as"
    for folder, rest in {
        "runs/q-seeds": f"{several} runs/q-seeds/seed0",
        "runs/sweep": f"{several} runs/sweep/trials/b1=0.8",
        "runs/sweep/trials": f"{several} runs/sweep/trials/b1=0.8",
        "runs": f"{several} runs/one/seed3",
        "runs/one": "holds no run: did you mean 'runs/one/seed3'?",
    }.items():
        for verb in ("evaluate", "report", "train"):
            assert run(verb, f"--workdir={folder}") == 1
            assert capsys.readouterr().err == f"error: {folder} {rest}\n"


def test_a_workdir_holds_its_config(tmp_path):
    _, [(config, _)], _ = parse([f"--config={ROOT}/configs/preact.py:sgd", "--config.train.epochs=3"])
    (tmp_path / "config.json").write_text(config_to_json(config))
    for verb in ("train", "evaluate", "export", "summary"):
        assert parse([verb, f"--workdir={tmp_path}"])[1] == [(config, tmp_path)]
    _, [(changed, _)], _ = parse(["train", f"--workdir={tmp_path}", "--config.train.epochs=4"])
    assert changed.train.epochs == 4
    _, [(same, once)], _ = parse(["evaluate", str(tmp_path), f"{tmp_path}/."])
    assert (same, once) == (config, tmp_path)


def test_a_recipe_that_is_not_that_of_the_run_is_refused(small_runs, capsys):
    fields = ["blocks=(1,1)", "widths=(8,16)"]
    same = [f"--config.model.{field}" for field in fields]
    same += [QUICKSTART, "--config.data.train_examples=512", "--config.train.epochs=4"]
    for recipe in (same, [*same, "--config.seed=3"]):  # normalize(auto) is numbers in the run
        assert parse(["export", *recipe, f"--workdir={small_runs[0]}"])[1][0].workdir == small_runs[0]
    for verb in ("export", "evaluate", "predict", "report"):
        assert run(verb, QUICKSTART, f"--workdir={small_runs[0]}") == 1
        error = capsys.readouterr().err
        assert error.startswith(
            f"error: {small_runs[0]} is not a run of {QUICKSTART[9:]} (config.data.train_examples: 0 -> "
        )
        assert error.endswith(": leave out --config\n") and error.count("\n") == 1


@pytest.mark.parametrize("verb", ["export", "evaluate", "report"])
@pytest.mark.parametrize(
    ("flag", "change"),
    [
        ("model.activation=gelu", "config.model.activation: 'relu' -> 'gelu'"),
        ("model.widths=1,2", "config.model.widths: (8, 16) -> (1, 2)"),
        ("train.ema_decay=0.5", "config.train.ema_decay: 0.0 -> 0.5"),
        ("data.policy=crop(4)|normalize(cifar10)", "config.data.policy: 'crop(4)|normalize(half)' -> 'crop(4)|normal"),
    ],
)
def test_a_flag_that_would_change_a_trained_network_is_refused(small_runs, capsys, verb, flag, change):
    assert run(verb, f"--config.{flag}", f"--workdir={small_runs[0]}") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {small_runs[0]} was trained with another config ({change}")
    assert error.endswith("): leave out these flags\n") and error.count("\n") == 1


def test_a_flag_for_the_data_or_the_computation_of_a_trained_network_is_not(small_runs):
    flags = ["--config.data.train=train[:9]", "--config.model.compute_dtype=bfloat16", "--config.parallel=pmap"]
    config = parse(["evaluate", *flags, "--config.model.activation=relu", f"--workdir={small_runs[0]}"])[1][0].config
    assert (config.data.train, config.model.compute_dtype, config.parallel) == ("train[:9]", "bfloat16", "pmap")


def test_several_mistakes_are_reported_at_once(capsys):
    assert run(QUICKSTART, "--config.train.epochs=0", "--config.optimizer.name=x", "--config.seed=-1") == 1
    assert capsys.readouterr().err.count("config.") >= 3
    assert run(QUICKSTART, "--config.train.epochs=ten", "--config.optimizer.nesterov=yes") == 1
    assert capsys.readouterr().err.count("config.") == 2


LAST_COUNTS = ["--config.train.epochs=4", "--config.train.epochs=3", "--config.optimizer.nesterov=True"]
EVERY_WAY = [
    ["train", QUICKSTART, "--config.train.epochs=3", "--workdir=runs/x", "--config.optimizer.nesterov=true"],
    ["--config", QUICKSTART[9:], "--config.train.epochs", "3", "--workdir", "runs/x", "--config.optimizer.nesterov"],
    ["-config", QUICKSTART[9:], "-workdir=runs/x", "-config.train.epochs=3", "--config.optimizer.nesterov", "true"],
    ["--config.optimizer.nesterov", "train", "--workdir=runs/x", "--config.train.epochs=3", QUICKSTART],
    ["--noconfig.optimizer.nesterov", QUICKSTART, "--workdir=runs/x", *LAST_COUNTS],
]


@pytest.mark.parametrize("argv", EVERY_WAY, ids=range(len(EVERY_WAY)))
def test_a_command_may_be_written_in_many_ways(argv):
    verb, [(config, workdir)], options = parse(argv)
    assert (verb, workdir, options) == ("train", Path("runs/x"), {"seeds": "", "track": ""})
    assert config.train.epochs == 3
    assert config.optimizer.nesterov


def test_a_flag_may_have_a_space_before_its_value_in_every_verb():
    assert parse([QUICKSTART, "--seeds", "0,1"])[2] == {"seeds": "0,1", "track": ""}
    assert parse(["preview", "--images", "3", QUICKSTART])[2] == {"images": 3, "versions": 8}
    words = ["sweep", "--config", QUICKSTART[9:], "--config.seed", "-0", "optimizer.b1=0.1,0.2", "--method", "grid"]
    assert parse(words)[2]["recipe"] == [QUICKSTART, "--config.seed=-0"]
    assert parse(words)[2]["fields"] == ["optimizer.b1=0.1,0.2"]


def test_a_canonical_command_line_is_its_own():
    for argv in EVERY_WAY:
        assert canonical(canonical(argv)) == canonical(argv)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(1,2)", (1, 2)),
        ("[1, 2]", (1, 2)),
        ("1,2", (1, 2)),
        ("3", (3,)),
        ("()", ()),
        ("", ()),
        ("('a','b')", ("a", "b")),
        ("cat,dog", ("cat", "dog")),
        ("(cat, dog)", ("cat", "dog")),
        ("cat", ("cat",)),
    ],
)
def test_a_tuple_needs_neither_brackets_nor_quotes(text, value):
    assert parse_tuple(text) == value


def test_the_last_of_several_values_counts():
    """Of tuples, too."""
    _, [(config, _)], _ = parse([QUICKSTART, "--config.model.blocks=(1,1,1)", "--config.model.blocks=(2,2,2)"])
    assert config.model.blocks == (2, 2, 2)


@pytest.mark.parametrize("name", ["a?b", "100%", "a#b", "two words", "two\nlines", "\u732b", "-x", "a=b", "*"])
def test_a_workdir_may_have_any_name(name, tmp_path):
    for argv in ([f"--workdir={tmp_path}/{name}"], ["--workdir", f"{tmp_path}/{name}"]):
        assert parse([QUICKSTART, *argv])[1][0].workdir == tmp_path / name


def test_a_tilde_is_the_home_folder_in_every_path(small_runs, tmp_path, monkeypatch):
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home, here):
        folder.mkdir()
    shutil.copytree(small_runs[0], home / "run")
    shutil.copy(ROOT / "configs" / "quickstart.py", home / "mine.py")
    np.save(home / "images.npy", np.zeros((1, 32, 32, 3), np.uint8))
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    assert parse(["--config=~/mine.py", "--workdir=~/new"])[1][0].workdir == home / "new"
    assert run("export", "--workdir=~/run", "--output=~/w.safetensors") == 0
    fields = [f"--config.model.{field}" for field in ("blocks=(1,1)", "widths=(8,16)")]
    assert run("import-torch", "--config=~/mine.py", *fields, "--file=~/w.safetensors", "--workdir=~/imported") == 0
    assert run("predict", "~/images.npy", "--workdir=~/w.safetensors", "--output=~/answers.csv") == 0
    assert find_initial_weights("~/w.safetensors").path == find_trained("~/w.safetensors") == home / "w.safetensors"
    assert {path.name for path in home.iterdir()} >= {"answers.csv", "imported"} and not list(here.iterdir())


@pytest.mark.parametrize("verb", ["train", "summary", "preview", "sweep", "import-torch", "evaluate", "report"])
def test_a_workdir_that_cannot_be_a_folder_is_one_line(verb, tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    texts = {
        f"{tmp_path}/file": f"{tmp_path}/file is not a folder, so it cannot be a workdir: choose another --workdir",
        "": "--workdir must be a path, not ''",
        "\udcff": "--workdir must be a path in UTF-8, not '\\udcff'",
    }
    words = ["optimizer.b1=0.1"] if verb == "sweep" else []
    for text, message in texts.items():
        assert run(verb, QUICKSTART, f"--workdir={text}", *words) == 1
        assert capsys.readouterr().err == f"error: {message}\n"
    assert (tmp_path / "file").read_text() == "kept"


ELSEWHERE = "gs://bucket/run"
MOUNT = f"must be a path on this machine, not '{ELSEWHERE}': mount the bucket as a folder, or copy from and to it"
# What a flag, or a word after the verb, is called in the message -> verb and words.
ADDRESSES = [
    *[("--workdir", [verb, QUICKSTART, f"--workdir={ELSEWHERE}"]) for verb in VERBS if not VERBS[verb].standalone],
    *[("--workdir", [verb, ELSEWHERE]) for verb in ("evaluate", "report")],
    ("--workdir", ["report", "--watch", ELSEWHERE]),
    ("--output", ["summary", QUICKSTART, f"--output={ELSEWHERE}"]),
    ("--file", ["import-torch", QUICKSTART, f"--file={ELSEWHERE}"]),
    ("--config", ["summary", f"--config={ELSEWHERE}"]),
    ("an image", ["predict", "--workdir=pretrained:preact", ELSEWHERE]),
]


@pytest.mark.parametrize(("name", "words"), ADDRESSES, ids=lambda value: " ".join(value) if type(value) is list else "")
def test_a_bucket_is_refused_in_one_line_that_says_what_to_do(name, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(*words) == 1
    assert capsys.readouterr().err == f"error: {name} {MOUNT}, see launch/README.md\n"
    assert list(tmp_path.iterdir()) == []  # no folder called gs:


@pytest.mark.parametrize("name", ["XDG_CACHE_HOME", "TFDS_DATA_DIR"])
def test_a_bucket_in_the_environment_is_refused(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(name, ELSEWHERE)
    assert run("preview", f"--config={ROOT}/configs/preact.py", f"--workdir={tmp_path}/run") == 1
    assert capsys.readouterr().err == f"error: {name} {MOUNT}, see launch/README.md\n"
    assert not (tmp_path / "gs:").exists()


@pytest.mark.parametrize("verb", ["export", "predict", "report"])
def test_a_bucket_is_no_place_for_output(verb, tmp_path, monkeypatch, capsys):
    """Of verbs that read a run first."""
    monkeypatch.chdir(tmp_path)
    words = ["runs"] if verb == "report" else ["--workdir=pretrained:preact"]
    (tmp_path / "runs").mkdir()
    shutil.copy(ROOT / "tests/fixtures/stopped_run/config.json", tmp_path / "runs")
    assert run(verb, *words, f"--output={ELSEWHERE}") == 1
    assert capsys.readouterr().err == f"error: --output {MOUNT}, see launch/README.md\n"


@pytest.mark.parametrize("workdir", ["/proc/x", "{file}/x"])
@pytest.mark.parametrize("verb", ["train", "preview"])
def test_a_workdir_that_cannot_be_made_is_one_line(verb, workdir, tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    assert run(verb, QUICKSTART, f"--workdir={workdir.format(file=tmp_path / 'file')}") == 1
    err = capsys.readouterr().err
    assert err.startswith(("error: No such file or directory: ", "error: Not a directory: "))
    assert err.count("\n") == 1


def verb_of(command: str) -> str:
    return command.split()[0] if command.split()[0] in VERBS else "train"


def test_readme_commands_are_ones_that_the_program_takes(tmp_path, monkeypatch):
    text = (ROOT / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    commands = re.findall(r"^python -m resnet_flax\.main (.*?)(?: +#.*)?$", text, re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        if "--config=" in command and not VERBS[verb_of(command)].trained:
            parse(command.replace("configs/", f"{ROOT}/configs/").replace("'", "").split())


def test_configs_change_nothing_but_what_they_say():
    """A recipe is a docstring and assignments: it computes nothing and imports nothing but what recipes start from."""
    for path in (ROOT / "configs").glob("*.py"):
        tree = ast.parse(path.read_text())
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        allowed = {"recipe", "speed_recipe", "fast", "TRAININGS"}
        assert {name.name for node in imports for name in node.names} <= allowed, path
        assert ast.get_docstring(tree), path


def test_readme_has_the_measured_accuracy_of_the_demo():
    lines = (ROOT / "benchmarks" / "results" / "quickstart.jsonl").read_text().splitlines()
    accuracies = [100 * json.loads(line)["found"]["test_accuracy"] for line in lines]
    said = f"{statistics.mean(accuracies):.1f} ± {statistics.stdev(accuracies):.1f} % on the test split"
    assert len(lines) == 5 and f"Over five seeds it reaches {said}" in (ROOT / "README.md").read_text()
