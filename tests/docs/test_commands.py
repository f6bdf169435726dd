"""The documentation's commands and code run, in their order, on tiny versions of the recipes."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from resnet_flax.config import recipes
from resnet_flax.main import main
from tests.documents import (
    MAIN,
    ROOT,
    blocks,
    code_cells,
    documented_code,
    furnish,
    name_of,
    write_documented_recipes,
    write_recipe,
)

SHORTER = {
    r"--seeds=\d+": "--seeds=2",
    r"--trials=\d+": "--trials=2",
    r"--config.train.epochs=\d+": "--config.train.epochs=2",
    r"--config.train.batch_size=\d+": "--config.train.batch_size=16",
}


# What a reader types first; the commands of the other documents are parsed, and each verb has tests of its own.
RUN = [ROOT / "README.md", ROOT / "docs" / "own_images.md", ROOT / "docs" / "extending.md"]


@pytest.mark.parametrize("path", RUN, ids=name_of)
def test_commands_run_in_their_order_on_what_earlier_ones_left(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path)
    monkeypatch.setattr(recipes, "RECIPE_FOLDER", tmp_path / "configs")
    write_documented_recipes(path, tiny=True)
    printed = ""
    with documented_code(path):
        for command in (words for block in blocks(path) if block.language == "sh" for words in block.commands()):
            words = words_of_main(command)
            if words is not None:
                code = main([shorter(word) for word in words])
                captured = capsys.readouterr()
                assert code == 0, (command, captured.err)
                printed += captured.out
    lines = {without_numbers(line) for line in printed.splitlines()}
    run_python(path)
    for block in blocks(path):
        if block.language == "text":
            assert {without_numbers(line) for line in block.text.splitlines()} <= lines


def run_python(path: Path) -> dict:
    """Run the Python code of a document that belongs to no file, in its order, and return what it has defined."""
    space: dict = {"images": np.zeros((2, 32, 32, 3), np.uint8)}
    for block in blocks(path):
        if block.language == "python" and not block.text.startswith("# "):
            exec(block.text, space)
    return space


def test_the_code_about_python_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path)
    monkeypatch.setattr(recipes, "RECIPE_FOLDER", tmp_path / "configs")
    space = run_python(ROOT / "docs" / "python.md")
    assert space["logits"].shape == (4, 100) and space["gradients"].shape == (8, 32, 32, 3)
    assert space["net"].results["epochs"] == 5
    assert capsys.readouterr().out.endswith("unknown model 'resnet_433': did you mean 'resnet_443'?\n")


def words_of_main(command: list[str]) -> list[str] | None:
    """The words behind resnet_flax.main in a command, also in what `make demo` stands for."""
    if command == ["make", "demo"]:
        recipe = re.search(r"^demo:.*\n\t(.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert recipe
        return shlex.split(recipe[1])[3:]
    return command[len(MAIN) :] if command[: len(MAIN)] == MAIN else None


def shorter(word: str) -> str:
    for pattern, instead in SHORTER.items():
        word = instead if re.fullmatch(pattern, word) else word
    return word


def without_numbers(line: str) -> str:
    return " ".join(re.sub(r"\d[\d.,]*(e-\d+)?", "#", line).split())


def test_the_tour_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path)
    space: dict = {}
    for cell in code_cells("tour.ipynb"):
        exec("".join(cell["source"]), space)
    assert space["probabilities"].shape == (360, 10) and (tmp_path / "runs" / "tour" / "gradients.png").exists()


def test_the_first_steps_run_from_top_to_bottom_in_fewer_epochs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path)
    write_recipe(tmp_path / "configs" / "preact.py", (ROOT / "configs" / "preact.py").read_text(), tiny=False)
    monkeypatch.setattr(recipes, "RECIPE_FOLDER", tmp_path / "configs")
    source = "\n".join("".join(cell["source"]) for cell in code_cells("first_steps.ipynb"))
    assert source.count("EPOCHS = 20  #") == 1
    space: dict = {}
    exec(source.replace("EPOCHS = 20  #", "EPOCHS = 2  #"), space)
    names = [space["net"].classes[label] for label in space["probabilities"].argmax(1)]
    assert names == ["airplane", "automobile", "ship"]
    assert (space["trained"].results["epochs"], space["tuned"].results["epochs"]) == (2, 1)
    assert "pictures/ship.png" in capsys.readouterr().out and (tmp_path / "pictures.png").stat().st_size > 10_000
