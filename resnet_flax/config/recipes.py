"""Recipes: files with a function get_config(ARGUMENT) that returns a config. The project's own have names."""

import ast
import importlib.machinery
import os
import traceback
import types
from pathlib import Path

from ml_collections import ConfigDict, FrozenConfigDict

from resnet_flax.errors import UserError, nearest, refuse_address
from resnet_flax.text import escape_line, short_repr

# configs/ is beside the package in a checkout, and within it once it is installed.
RECIPE_FOLDER = next(path for folder in Path(__file__).parents[1:3] if (path := folder / "configs").is_dir())


def recipe_names() -> list[str]:
    """Return the names of the project's recipes, sorted."""
    return sorted(path.stem for path in RECIPE_FOLDER.glob("*.py"))


def recipe_summary(name: str) -> str:
    """Return the first line of the docstring of one of the project's recipes."""
    return (ast.get_docstring(ast.parse((RECIPE_FOLDER / f"{name}.py").read_text("utf-8"))) or "").partition("\n")[0]


def default_run_name(recipe: str) -> str:
    """Return the default name of a run of RECIPE:ARGUMENT: NAME or NAME-ARGUMENT."""
    file, _, argument = recipe.partition(":")
    return Path(file).stem + (f"-{argument}" if argument else "")


def find_recipe(text: str) -> str:
    """Return the file of a recipe, given its name or its path. Raises UserError if there is none."""
    is_path = text.endswith(".py") or os.sep in text
    if not is_path and text in recipe_names():
        return str(RECIPE_FOLDER / f"{text}.py")
    from resnet_flax.files import user_path  # with NumPy, for which a shell's completion need not wait

    path = user_path(text)
    if path.is_file():
        return str(path)
    if not is_path:
        raise UserError(f"there is no recipe {short_repr(text)}: {nearest(text, recipe_names())}")
    files = [str(other) for other in path.parent.glob("*.py")] or [str(other) for other in Path("configs").glob("*.py")]
    in_files = files and path.stem not in recipe_names()
    hint = nearest(text, files) if in_files else nearest(path.stem, recipe_names())
    raise UserError(f"there is no config file {short_repr(text)}: {hint}")


def load_recipe(recipe: str) -> ConfigDict:
    """Return the config that get_config(ARGUMENT) of a `recipe`, RECIPE or RECIPE:ARGUMENT (see find_recipe), returns.

    Raises UserError if there is no such recipe, or, naming the line of its file, if something goes wrong in it.
    """
    text, colon, argument = recipe.partition(":")
    if not text.endswith(".py"):  # whose argument may be a path
        refuse_address("--config", recipe)
    file = find_recipe(text)
    loader = importlib.machinery.SourceFileLoader("recipe", file)
    module = types.ModuleType(loader.name)
    module.__file__ = file
    try:
        loader.exec_module(module)
        config = module.get_config(*[argument] if colon else [])
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        line = error.lineno if isinstance(error, SyntaxError) else (lines or [0])[-1]
        place = f"{file}, line {line}" if line else file
        raise UserError(f"{place}: {type(error).__name__}: {escape_line(error, 300)}") from None
    if not isinstance(config, ConfigDict) or isinstance(config, FrozenConfigDict):
        raise UserError(f"{file}: get_config must return a ConfigDict, not {short_repr(config)}")
    return config
