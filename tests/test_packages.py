"""Imports run one way: a package imports only those of the layers before it, and its first line says what it holds."""

import ast
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "resnet_flax"
# From what all may use to what uses everything. What stands in one row does not import each other.
LAYERS = (
    ("text", "files", "hashing", "memory", "processor", "verbs"),
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
LAYER = {package: layer for layer, packages in enumerate(LAYERS) for package in packages}


def package_of(module: str) -> str:
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


def test_every_package_has_its_layer():
    assert {package for package, _ in files()} == LAYER.keys()


@pytest.mark.parametrize(("package", "path"), [pytest.param(*entry, id=entry[1].stem) for entry in files()])
def test_imports_run_one_way(package, path):
    for module in imports(path):
        other = package_of(module)
        assert other == package or LAYER[other] < LAYER[package], f"{package} imports {module}"


@pytest.mark.parametrize("package", sorted(package for package in LAYER if (PACKAGE / package).is_dir()))
def test_the_first_line_of_a_package_says_what_it_holds(package):
    documentation = ast.get_docstring(ast.parse((PACKAGE / package / "__init__.py").read_text()))
    assert documentation and documentation.splitlines()[0].endswith(".")


def constants(path: Path) -> list[str]:
    statements = ast.parse(path.read_text()).body
    assigned = [target for node in statements if isinstance(node, ast.Assign) for target in node.targets]
    assigned += [node.target for node in statements if isinstance(node, ast.AnnAssign)]
    return [target.id for target in assigned if isinstance(target, ast.Name)]


def test_no_constant_has_the_name_of_another():
    counts = Counter(name for _, path in files() for name in constants(path))
    assert [name for name, count in counts.items() if count > 1] == []
