"""The documentation: its commands run, its code works, its links lead somewhere, and what it names exists."""

import contextlib
import importlib
import json
import os
import pickle
import re
import shlex
import subprocess
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image

import resnet_flax
from resnet_flax import models
from resnet_flax.command_line import load_recipe
from resnet_flax.config.checks import complete
from resnet_flax.config.defaults import field_types
from resnet_flax.main import VERBS, main, parse

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "launch" / "README.md", *(ROOT / "docs").glob("*.md")]
WIDEST = 98  # characters of a line of code that GitHub shows without scrolling
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
        config.model.blocks, config.model.widths = (1, 1), (4, 8)
        config.schedule.per, config.schedule.milestones, config.schedule.warmup = "step", (1,), 1
        config.train.epochs, config.train.batch_size = 2, 16
        return config
    return get_tiny_config


get_config = shrunk(get_config)
"""
SHORTER = {
    r"--seeds=\d+": "--seeds=2",
    r"--trials=\d+": "--trials=2",
    r"--config.train.epochs=\d+": "--config.train.epochs=2",
    r"--config.train.batch_size=\d+": "--config.train.batch_size=16",
}


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


documents = pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)


@documents
def test_blocks_say_what_they_are_and_fit_the_page(path):
    for block in blocks(path):
        assert block.language in ("", "sh", "python", "text"), block
        assert block.language or not re.search(r"^(python|make|pip) ", block.text, re.MULTILINE), block
        wide = [line for line in block.text.splitlines() if len(line) > (120 if block.language == "python" else WIDEST)]
        assert not wide


@documents
def test_commands_are_ones_that_there_are(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path, tiny=False)
    write_documented_recipes(path, tiny=False)
    found = commands(path)
    assert found or path.parent.name == "launch"
    with documented_code(path):
        for command in found:
            check_command(command)


def check_command(words: list[str]) -> None:
    """Fail unless a command's program, flags, fields and files exist."""
    given = list(takewhile(re.compile("[A-Z_]+=").match, words))
    program, *rest = words[len(given) :]
    for file in re.findall(r"(?:^|=)((?:configs|launch|benchmarks|tests)/[\w./]+\w)", "\n".join(rest), re.MULTILINE):
        assert Path(file).exists() or (ROOT / file).exists(), words
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= set(targets), words
    elif program == "pip":
        extras = re.findall(r"\[(.*)\]", rest[-1])
        declared = (ROOT / "pyproject.toml").read_text()
        assert rest[:-1] == ["install", "-c", "constraints.txt", "-e"] and (ROOT / "constraints.txt").exists(), words
        assert all(f"\n{extra} = [" in declared for extra in extras), words
    elif words[: len(MAIN)] == MAIN:
        check_main(words[len(MAIN) :])
    elif words[:2] == ["python", "-m"] and words[2].startswith("benchmarks."):
        check_benchmark(words[2].removeprefix("benchmarks."), words[3:])
    elif rest[:1] == ["launch/local.py"]:
        assert rest[1].isdecimal(), words
        check_main(rest[2:])
    elif program in ("sbatch", "launch/tpu.sh", "launch/gke.sh"):
        check_launcher(given, [program, *rest])
    elif words[:3] == ["python", "-m", "pytest"]:
        pass  # its files were looked for above
    else:
        assert program in ("benchmarks/gpu.sh", "git", "docker", "pre-commit"), words


def check_main(words: list[str]) -> None:
    """Fail unless the program reads these words; where they name only a workdir, its config cannot be read yet."""
    flags = {word.removeprefix("--").partition("=")[0] for word in words if re.match(r"--(?!config)", word)}
    verb = next((word for word in words if not word.startswith("-")), "train")
    assert flags <= {"workdir", "help", "version", *VERBS.get(verb, VERBS["train"]).flags}, words
    if any(word.startswith("--config=") for word in words) and not VERBS[verb].trained:
        parse(words)


def check_benchmark(name: str, words: list[str]) -> None:
    shared = [(ROOT / "benchmarks" / f"{other}.py").read_text() for other in ("recipes", "record")]
    source = "".join([(ROOT / "benchmarks" / f"{name}.py").read_text(), *shared])
    for flag in words:
        assert f'"{flag.partition("=")[0]}"' in source, (name, flag)


def check_launcher(given: list[str], words: list[str]) -> None:
    """Have a script of launch/ print what it would do."""
    environment = dict(word.split("=", 1) for word in given) | {"DRY_RUN": "1"}
    if words[0] == "sbatch":
        script = next(index for index, word in enumerate(words) if word.endswith(".sh"))
        asked = dict(word.removeprefix("--").split("=") for word in words[1:script])
        environment["SLURM_NTASKS_PER_NODE"] = asked["ntasks-per-node"]
        environment["SLURM_GPUS_ON_NODE"] = asked["gpus-per-node"]
        words = words[script:]
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHON"}
    done = subprocess.run(words, cwd=ROOT, env=inherited | environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout, (words, done.stderr)


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


@pytest.mark.parametrize(
    "path", [path for path in DOCUMENTS if any(c[:3] == MAIN for c in commands(path))], ids=name_of
)
def test_commands_run_in_their_order_on_what_earlier_ones_left(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path)
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
    for block in blocks(path):
        if block.language == "text":
            assert {without_numbers(line) for line in block.text.splitlines()} <= lines


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


def test_documented_recipes_have_the_parameters_that_they_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    path = ROOT / "docs" / "extending.md"
    write_documented_recipes(path, tiny=False)
    files = [file for file, _ in documented_files(path) if file.startswith("configs/")]
    assert files
    for file in files:
        config = complete(load_recipe(file))
        count = models.count_parameters(models.build(config), (32, 32, 3))
        assert f"{count:,} parameters" in Path(file).read_text()


def test_the_extensions_are_one_of_each_kind():
    files = [file for file, _ in documented_files(ROOT / "docs" / "extending.md")]
    rooms = {"models/__init__", "models/blocks", "data/augment/ops", "optim/optimizers", "optim/schedules"}
    assert {f"resnet_flax/{room}.py" for room in rooms} < set(files) and len(files) == 7


def anchors(path: Path) -> set[str]:
    """What GitHub calls the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@documents
def test_relative_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)\s]+)\)", prose(path))
    assert links
    for link in links:
        file, _, anchor = link.partition("#")
        if not file.startswith("https://"):
            target = (path.parent / file).resolve() if file else path
            assert target.exists() and target.is_relative_to(ROOT), link
            assert not anchor or anchor in anchors(target), link


@documents
def test_files_and_functions_named_in_the_text_exist(path):
    for token in re.findall(r"`([^`\n]+)`", prose(path)):
        if match := re.fullmatch(r"([\w/]+)\.py(?::([\w.]+))?", token):
            file, name = match.groups()
            if token == "FILE.py:NAME":
                continue
            assert (ROOT / "resnet_flax" / f"{file}.py").exists() or (ROOT / f"{file}.py").exists(), token
            if name and not file.startswith("configs/"):
                module = "resnet_flax." + file.replace("/", ".").removesuffix(".__init__")
                value = importlib.import_module(module)
                for part in name.split("."):
                    value = getattr(value, part)
        elif re.fullmatch(r"[\w/]+/", token) and not token.startswith(("runs/", "checkpoints/", "report/")):
            assert (ROOT / token).is_dir(), token


def test_how_it_works_names_many_functions():
    assert len(re.findall(r"`[\w/]+\.py:[\w.]+`", (ROOT / "docs" / "how_it_works.md").read_text())) > 40


def test_drawings_name_files_that_exist():
    drawings = list((ROOT / "docs" / "images").glob("*.svg"))
    assert drawings
    for drawing in drawings:
        files = re.findall(r"[\w/]+\.py", drawing.read_text())
        assert files
        for file in files:
            assert (ROOT / file).exists() or (ROOT / "resnet_flax" / file).exists(), file


@documents
def test_flags_and_fields_named_in_the_text_exist(path):
    known = {flag for verb in VERBS.values() for flag in verb.flags} | {"config", "workdir", "help", "version"}
    benchmarks = "".join(file.read_text() for file in (ROOT / "benchmarks").glob("*.py"))
    for flag, field in re.findall(r"`--([a-z-]+)\.?([\w.]*)", prose(path)):
        if flag == "config":
            assert field in ("", "FIELD", *field_types()), field
        else:
            assert flag in known or f'"--{flag}"' in benchmarks, flag
    for section, field in re.findall(r"`config\.(\w+)\.(\w+)`", prose(path)):
        assert f"{section}.{field}" in field_types()


def code_cells() -> list[dict]:
    notebook = json.loads((ROOT / "examples" / "tour.ipynb").read_text())
    assert notebook["nbformat"] == 4
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path)
    space: dict = {}
    for cell in code_cells():
        exec("".join(cell["source"]), space)
    assert space["probabilities"].shape == (360, 10) and (tmp_path / "runs" / "tour" / "gradients.png").exists()


def test_the_notebook_shows_what_it_printed_in_this_order():
    assert [cell["execution_count"] for cell in code_cells()] == list(range(1, len(code_cells()) + 1))
    outputs = [output for cell in code_cells() for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "execute_result"}
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4


def test_readme_takes_a_minute():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    assert (ROOT / "docs" / "images" / "run.png").stat().st_size < 300_000


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "license", "type"} <= citation.keys()
    assert citation["version"] == resnet_flax.__version__
    assert f"\n## {resnet_flax.__version__} " in (ROOT / "CHANGELOG.md").read_text()


def test_workflow_runs_the_tests_on_every_python_that_is_supported():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert any(step.get("run", "").startswith("make test") for step in job["steps"])
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text()


def test_hooks_run_what_lint_runs():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    entries = [hook["entry"] for repository in hooks["repos"] for hook in repository["hooks"]]
    assert [repository["repo"] for repository in hooks["repos"]] == ["local"]
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert lint
    assert entries == [line.strip().replace("$(BIN)", ".venv/bin") for line in lint[1].splitlines()]
