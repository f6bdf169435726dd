"""Imports run one way: a room imports only those before it, and its first line says what lives there."""

import ast
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "resnet_flax"
# From what all may use to what uses everything. What stands in one row does not import each other.
FLOORS = (
    ("text", "files", "hashing", "memory", "verbs"),
    ("errors",),
    ("cache", "models", "optim", "parallel"),
    ("data",),
    ("config",),
    ("workdir",),
    ("command_line", "training"),
    ("report",),
    ("studies",),
    ("commands",),
    ("api", "main"),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module: str) -> str:
    """The folder or module right below the package, "" for the package itself."""
    return [*module.split("."), ""][1]


def imports(path: Path) -> set[str]:
    """Every module of the package that a file names in an import, at its top or within a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if node.module == "resnet_flax" else {node.module}
    return {name for name in found if name.startswith("resnet_flax.") and not name.endswith(".__version__")}


def files() -> list[tuple[str, Path]]:
    paths = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE or path.name != "__init__.py"]
    return [(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path) for path in paths]


def test_every_room_has_its_floor():
    assert {room for room, _ in files()} == FLOOR.keys()


@pytest.mark.parametrize(("room", "path"), [pytest.param(*entry, id=entry[1].stem) for entry in files()])
def test_imports_run_one_way(room, path):
    for module in imports(path):
        other = room_of(module)
        assert other == room or FLOOR[other] < FLOOR[room], f"{room} imports {module}"


@pytest.mark.parametrize("room", sorted(room for room in FLOOR if (PACKAGE / room).is_dir()))
def test_the_first_line_of_a_room_says_what_lives_there(room):
    documentation = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text()))
    assert documentation and documentation.splitlines()[0].endswith(".")


def constants(path: Path) -> list[str]:
    statements = ast.parse(path.read_text()).body
    assigned = [target for node in statements if isinstance(node, ast.Assign) for target in node.targets]
    assigned += [node.target for node in statements if isinstance(node, ast.AnnAssign)]
    return [target.id for target in assigned if isinstance(target, ast.Name)]


def test_no_constant_has_the_name_of_another():
    counts = Counter(name for _, path in files() for name in constants(path))
    assert [name for name, count in counts.items() if count > 1] == []
