"""The documentation: its links lead somewhere, and its commands, files, functions and numbers exist."""

import importlib
import os
import re
import subprocess
from itertools import takewhile
from pathlib import Path

import pytest
import yaml

import resnet_flax
from resnet_flax import models
from resnet_flax.command_line import parse
from resnet_flax.config.checks import complete
from resnet_flax.config.defaults import field_types
from resnet_flax.config.recipes import load_recipe
from resnet_flax.verbs import VERBS
from tests.documents import (
    DOCUMENTS,
    MAIN,
    ROOT,
    blocks,
    code_cells,
    commands,
    documented_code,
    documented_files,
    furnish,
    name_of,
    prose,
    write_documented_recipes,
)

WIDEST = 98  # characters of a line of code that GitHub shows without scrolling

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
    elif program in ("sbatch", "launch/tpu.sh", "launch/gke.sh", "launch/spot.sh"):
        check_launcher(given, [program, *rest])
    elif words[:3] == [".venv/bin/python", "-m", "pytest"]:
        pass  # its files were looked for above
    else:
        assert program in ("benchmarks/gpu.sh", "git", "docker", "pre-commit", "sky"), words


def check_main(words: list[str]) -> None:
    """Fail unless the program reads these words; where they name only a workdir, its config cannot be read yet."""
    flags = {word.removeprefix("--").partition("=")[0] for word in words if re.match(r"--(?!config)", word)}
    verb = next((word for word in words if not word.startswith("-")), "train")
    assert flags <= {"workdir", "help", "version", *VERBS.get(verb, VERBS["train"]).flags}, words
    if any(word.startswith("--config=") for word in words) and not VERBS[verb].trained:
        parse(words)


def check_benchmark(name: str, words: list[str]) -> None:
    shared = [(ROOT / "benchmarks" / f"{other}.py").read_text() for other in ("command_line", "recipes")]
    path = ROOT / "benchmarks" / name
    program = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    source = "".join([program.read_text(), *shared])
    for flag in (word for word in words if word.startswith("--")):
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
    parts = {"models/__init__", "models/blocks", "data/augment/ops", "optim/optimizers", "optim/schedules"}
    assert {f"resnet_flax/{part}.py" for part in parts} < set(files) and len(files) == 7


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a document."""
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


def test_usage_shows_every_verb():
    shown = {command[3] for command in commands(ROOT / "docs" / "usage.md") if command[:3] == MAIN}
    assert {"--config=configs/preact.py", *VERBS} - {"train"} <= shown


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


@pytest.mark.parametrize("name", ["first_steps.ipynb", "tour.ipynb"])
def test_a_notebook_shows_what_it_printed_in_this_order(name):
    cells = code_cells(name)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
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
    assert 'requires-python = ">=3.11,<3.14"' in (ROOT / "pyproject.toml").read_text()


def test_hooks_run_what_lint_runs():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    entries = [hook["entry"] for repository in hooks["repos"] for hook in repository["hooks"]]
    assert [repository["repo"] for repository in hooks["repos"]] == ["local"]
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert lint
    assert entries == [line.strip().replace("$(BIN)", ".venv/bin") for line in lint[1].splitlines()]
