"""The documents and what is in them, for the tests that check them and the tests that run them."""

import contextlib
import importlib
import json
import pickle
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "launch" / "README.md"]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
MAIN = ["python", "-m", "resnet_flax.main"]

# What makes every recipe a matter of seconds, appended to its file.
TINY = """

def shrunk(get_config):
    def get_tiny_config(*words):
        config = get_config(*words)
        if config.data.name == "cifar10":
            config.data.dir = "arrays"
        config.data.train_examples = 64
        config.data.policy = "normalize(auto)"
        config.model.blocks, config.model.widths = (1,), (4,)
        config.schedule.per, config.schedule.milestones, config.schedule.warmup = "step", (1,), 1
        config.train.epochs, config.train.batch_size = 2, 16
        return config
    return get_tiny_config


get_config = shrunk(get_config)
"""


class Block(NamedTuple):
    """A block of code in a document, fenced with a language or none."""

    language: str
    text: str

    def commands(self) -> list[list[str]]:
        """The words of each command, those of a pipe apart."""
        lines = self.text.replace("\\\n", " ").splitlines()
        words = [shlex.split(part, comments=True) for line in lines for part in line.split(" | ")]
        return [command for command in words if command]


def blocks(path: Path) -> list[Block]:
    return [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)]


def prose(path: Path) -> str:
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands(path: Path) -> list[list[str]]:
    """Those of the blocks, in their order, and then those within the text."""
    within = re.findall(r"`((?:[A-Z]+=\S+ )*(?:python|make|pip|launch/\w+\.sh|benchmarks/gpu\.sh) [^`]+)`", prose(path))
    fenced = [command for block in blocks(path) if block.language == "sh" for command in block.commands()]
    return fenced + [shlex.split(text.replace("\n", " ")) for text in within]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def furnish(folder: Path, tiny: bool = True) -> None:
    """Put into `folder` what the documents speak of: recipes, photos, arrays, a pickle."""
    (folder / "configs").mkdir()
    for recipe in (ROOT / "configs").glob("*.py"):
        write_recipe(folder / "configs" / recipe.name, recipe.read_text(), tiny)
    rng = np.random.default_rng(0)
    for name, count in (("photos/cat", 12), ("photos/dog", 12), ("new", 2)):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / name / f"{index}.png")
    Image.new("RGB", (40, 30), "brown").save(folder / "cat.jpg")
    arrays = {
        name: rng.integers(0, 256, (count, 32, 32, 3), np.uint8) for name, count in (("train", 200), ("test", 40))
    }
    (folder / "arrays").mkdir()
    for name, images in arrays.items():
        np.save(folder / "arrays" / f"{name}_images.npy", images)
        np.save(folder / "arrays" / f"{name}_labels.npy", rng.integers(0, 10, len(images)))
    content = {b"data": arrays["test"], b"ids": np.arange(40)}
    (folder / "test.pkl").write_bytes(pickle.dumps(content))


def write_recipe(path: Path, source: str, tiny: bool) -> None:
    path.write_text(source + TINY if tiny else source)


def documented_files(path: Path) -> Iterator[tuple[str, str]]:
    """The file and the code of each block that says in its first line which file it belongs to."""
    for block in blocks(path):
        if block.language == "python" and (match := re.match(r"# (\S+\.py)\n", block.text)):
            yield match[1], block.text


def write_documented_recipes(path: Path, tiny: bool) -> None:
    for file, code in documented_files(path):
        if file.startswith("configs/"):
            write_recipe(Path(file), code, tiny)


@contextlib.contextmanager
def documented_code(path: Path) -> Iterator[None]:
    """A context in which the code of a document is part of the modules that it belongs to."""
    before = []
    for file, code in documented_files(path):
        if file.startswith("resnet_flax/"):
            name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            space = vars(importlib.import_module(name))
            before.append((space, dict(space)))
            before += [(value, dict(value)) for value in space.values() if type(value) is dict]
            exec(compile(code, file, "exec"), space)
    try:
        yield
    finally:
        for changed, old in reversed(before):
            changed.clear()
            changed.update(old)


def code_cells(name: str) -> list[dict]:
    notebook = json.loads((ROOT / "examples" / name).read_text())
    assert notebook["nbformat"] == 4
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
