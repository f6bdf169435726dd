"""Recipes by name: from any folder, in a checkout and in an installed package."""

import os
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from resnet_flax.command_line import parse
from resnet_flax.config.recipes import load_recipe, recipe_names, recipe_summary
from resnet_flax.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("argument", ["", ":full", ":sgd,relu"])
def test_a_name_is_the_recipe_of_that_file_with_the_same_workdir(argument, tmp_path, monkeypatch):
    by_file = parse([f"--config={ROOT}/configs/preact.py{argument}"])
    monkeypatch.chdir(tmp_path)
    assert parse([f"--config=preact{argument}"]) == by_file
    assert by_file[1][0].workdir == Path("runs") / ("preact" + argument.replace(":", "-"))


def test_a_name_is_not_a_file_that_happens_to_be_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "configs" / "quickstart.py", "preact")
    shutil.copy(ROOT / "configs" / "quickstart.py", "own")
    assert load_recipe("preact").model.name == "preact"
    assert load_recipe("./preact").model.name == load_recipe("own").model.name == "tiny"


def test_an_unknown_name_or_file_is_answered_with_the_nearest_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in ("quickstrat", "configs/quickstrat.py", "quickstrat.py"):
        with pytest.raises(UserError, match=r"did you mean 'quickstart'\?"):
            load_recipe(text)
    with pytest.raises(UserError, match="there is no recipe '': the choices are: best, folder, "):
        load_recipe(":full")


def test_every_recipe_says_in_a_line_what_it_is():
    assert {"preact", "quickstart", "folder"} <= set(recipe_names())
    assert all(recipe_summary(name).endswith(".") for name in recipe_names())


def test_the_package_holds_every_folder_and_the_recipes():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    setup = project["tool"]["setuptools"]
    folders = {path.parent for path in (ROOT / "resnet_flax").rglob("*.py")}
    packages = {str(folder.relative_to(ROOT)).replace(os.sep, ".") for folder in folders}
    assert set(setup["packages"]) == packages | setup["package-dir"].keys()
    assert setup["package-dir"] == {"resnet_flax.configs": "configs"}
    module, name = project["project"]["scripts"]["resnet-flax"].split(":")
    assert callable(getattr(import_module(module), name))


def test_an_installed_package_knows_the_recipes(tmp_path):
    """As setuptools lays it out; nothing of the checkout is on the path."""
    installed = tmp_path / "site" / "resnet_flax"
    without_cache = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "resnet_flax", installed, ignore=without_cache)
    shutil.copytree(ROOT / "configs", installed / "configs", ignore=without_cache)
    (installed / "configs" / "preact.py").rename(installed / "configs" / "only_here.py")
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from resnet_flax.main import console; console()", "--config=only_here:sdg"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed.parent)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (1, "error: unknown config argument 'sdg': did you mean 'sgd'?\n")
