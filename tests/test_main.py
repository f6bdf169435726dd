"""The command line: what it prints, and one line for every mistake a user can make."""

import ast
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_flax.config.stored import config_to_json
from resnet_flax.main import VERBS, main, parse

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
    "speed96",
)


def run(*words: str) -> int:
    return main(list(words))


def test_help_names_every_verb_and_flag(capsys):
    assert run("--help") == 0
    text = capsys.readouterr().out
    for word in (*VERBS, "--config", "--workdir"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("recipe", RECIPES)
def test_summary_of_every_recipe_ends_with_its_count(recipe, capsys):
    assert run("summary", f"--config={ROOT}/configs/{recipe}.py") == 0
    assert re.search(r"^parameters: [24],\d{3},\d{3} ", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("argument", ["full", "sgd", "sgd,relu", "adagrad,gelu,full"])
def test_arguments_of_preact(argument):
    verb, [(config, workdir)], _ = parse([f"--config={ROOT}/configs/preact.py:{argument}"])
    assert verb == "train"
    assert workdir == Path("runs") / f"preact-{argument}"
    assert (config.data.validation == "") == ("full" in argument)
    assert config.data.train == ("train" if "full" in argument else "train[:80%]")
    assert config.optimizer.name == next((n for n in ("sgd", "adagrad") if n in argument), "adam")
    assert config.model.activation == ("relu" if "relu" in argument else "gelu")


def test_recipes_hold_out_what_the_design_says():
    for recipe in RECIPES:
        _, [(config, workdir)], _ = parse([f"--config={ROOT}/configs/{recipe}.py"])
        assert config.data.validation == ("train[80%:]" if recipe == "preact" else "train[90%:]")
        assert config.model.max_params == 5_000_000
        assert workdir == Path("runs") / recipe


MISTAKES = [
    ([], "which recipe"),
    (["--config=configs/preakt.py"], "there is no config file 'configs/preakt.py': did you mean 'configs/preact.py'"),
    ([f"--config={ROOT}/configs/preact.py:sdg"], "unknown config argument 'sdg': did you mean 'sgd'"),
    ([f"--config={ROOT}/configs/preact.py:sgd,adam"], "chooses one thing twice"),
    (["trian", QUICKSTART], "unknown verb 'trian': did you mean 'train'"),
    (["train", "summary", QUICKSTART], "one verb at a time, and a flag's value behind '=': what is 'summary'?"),
    (["report"], "/run holds no run"),
    (["train", QUICKSTART, "--workdir=a"], "train takes one --workdir, not 2"),
    ([QUICKSTART, "--wordkir=x"], "Did you mean: workdir"),
    ([QUICKSTART, "--config.optimizer.momentun=1"], "config.optimizer.momentun: did you mean 'optimizer.momentum'"),
    ([QUICKSTART, "--config.train.zzzzzzzzzzzzzzzzz=1"], "there are: train.batch_size, "),
    ([QUICKSTART, "--noconfig.optimizer.nesterov=maybe"], "--noconfig.optimizer.nesterov=maybe does not take"),
    ([QUICKSTART, "--config.optimizer.learning_rate=fast"], "could not convert string to float: 'fast'"),
    ([QUICKSTART, "--config.model.name=resnet_433"], "unknown model 'resnet_433': did you mean 'resnet_443'"),
    ([QUICKSTART, "--config.model.block=basik"], "unknown block 'basik': did you mean 'basic'"),
    ([QUICKSTART, "--config.model.activation=rely"], "unknown activation 'rely': did you mean 'relu'"),
    ([QUICKSTART, "--config.optimizer.name=adma"], "unknown optimizer 'adma': did you mean 'adam'"),
    ([QUICKSTART, "--config.schedule.name=onecicle"], "unknown schedule 'onecicle': did you mean 'onecycle'"),
    ([QUICKSTART, "--config.data.policy=crop(4)|flop|normalize(half)"], "flop"),
    ([QUICKSTART, "--config.data.name=cifar"], "unknown dataset 'cifar': did you mean 'cifar10'"),
    ([QUICKSTART, "--config.data.train=trian"], "unknown split 'trian': did you mean 'train'"),
    ([QUICKSTART, "--config.data.train=train[:1"], "must look like train, train[:90%]"),
    ([QUICKSTART, "--config.data.train=train[:99999]"], "is examples 0 to 99999 of 1437"),
    ([QUICKSTART, "--config.data.validation=train[5%:]"], "share examples"),
    ([QUICKSTART, "--config.model.blocks=(1,1)"], "must be of one length"),
    ([QUICKSTART, "--config.model.widths=(8,0,8)"], "for each of at most 8 stages, not (8, 0, 8)"),
    ([QUICKSTART, "--config.train.epochs=0"], "config.train.epochs must be positive, not 0"),
    ([QUICKSTART, "--config.train.batch_size=-3"], "config.train.batch_size must be positive, not -3"),
    ([QUICKSTART, "--config.train.batch_size=5000"], "is more than an epoch's 1293"),
    ([QUICKSTART, "--config.schedule.name=multistep"], "config.schedule.milestones must be epochs between"),
    ([QUICKSTART, "--config.model.max_params=1000"], "has 78,042 parameters, more than config.model.max_params 1,000"),
    ([QUICKSTART, "--config.data.validation=", "--config.train.patience=2"], "needs a validation split"),
    ([QUICKSTART, "--config.optimizer.nesterov", "--config.optimizer.dampening=0.1"], "nesterov needs sgd"),
    ([QUICKSTART, "--config.optimizer.momentum=0.0"], "cycle_momentum cycles a momentum"),
    (["export", QUICKSTART], "/run holds no run"),
    (["import-torch", QUICKSTART, "--file=nothing.pt"], "there is no file 'nothing.pt'"),
    (["preview", QUICKSTART, "--images=0"], "--images must be from 1 to 50, not 0"),
    (["summary", QUICKSTART, "--images=2"], "Unknown command line flag 'images'"),
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
    assert captured.out == ""
    assert not workdir.exists()


def test_verbs_on_runs_ask_for_one_and_name_the_nearest(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "preact").mkdir(parents=True)
    (tmp_path / "runs" / "preact" / "config.json").write_text("{}")
    assert run("evaluate") == 1
    assert "which run? Give --workdir=PATH" in capsys.readouterr().err
    assert run("evaluate", "runs/preakt") == 1
    assert capsys.readouterr().err == "error: runs/preakt holds no run: did you mean 'runs/preact'?\n"
    (tmp_path / "runs" / "preact" / "config.json").write_text('{"model": {"nam": "preact"}}')
    assert run("evaluate", "runs/preact") == 1
    assert (
        "preact/config.json is no config of this version: unknown field config.model.nam: did you mean 'model.name'?"
        in capsys.readouterr().err
    )


def test_a_workdir_holds_its_config(tmp_path):
    _, [(config, _)], _ = parse([f"--config={ROOT}/configs/preact.py:sgd", "--config.train.epochs=3"])
    (tmp_path / "config.json").write_text(config_to_json(config))
    for verb in ("train", "evaluate", "export", "summary"):
        assert parse([verb, f"--workdir={tmp_path}"])[1] == [(config, tmp_path)]
    _, [(changed, _)], _ = parse(["train", f"--workdir={tmp_path}", "--config.train.epochs=4"])
    assert changed.train.epochs == 4
    _, [(same, _), other], _ = parse(["evaluate", QUICKSTART, str(tmp_path), f"{tmp_path}/."])
    assert same == other[0] == config


def test_several_mistakes_are_told_at_once(capsys):
    assert run(QUICKSTART, "--config.train.epochs=0", "--config.optimizer.name=x", "--config.seed=-1") == 1
    assert capsys.readouterr().err.count("config.") >= 3


def test_process_exits_with_the_code_and_no_traceback():
    command = [sys.executable, "-m", "resnet_flax.main", "--config=configs/nothing.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no config file")
    assert done.stdout == ""


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
    """A recipe is a docstring and assignments: it computes nothing and imports nothing but `recipe`."""
    for path in (ROOT / "configs").glob("*.py"):
        tree = ast.parse(path.read_text())
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        assert [name.name for node in imports for name in node.names] == ["recipe"], path
        assert ast.get_docstring(tree), path


def test_readme_has_the_measured_accuracy_of_the_demo():
    lines = (ROOT / "benchmarks" / "results" / "quickstart.jsonl").read_text().splitlines()
    accuracies = [100 * json.loads(line)["found"]["test_accuracy"] for line in lines]
    said = f"{statistics.mean(accuracies):.1f} % ± {statistics.stdev(accuracies):.1f} % on the test split"
    assert f"{said} ({len(lines)} seeds)" in (ROOT / "README.md").read_text()


def test_readme_has_the_counts_of_the_networks(capsys):
    text = (ROOT / "README.md").read_text()
    for recipe in RECIPES:
        run("summary", f"--config={ROOT}/configs/{recipe}.py")
        count = re.search(r"^parameters: ([\d,]+)", capsys.readouterr().out, re.MULTILINE)[1]
        assert re.search(rf"\[{recipe}\].*\| {count} \|", text), recipe
        assert f"{count} parameters" in (ROOT / "configs" / f"{recipe}.py").read_text()
