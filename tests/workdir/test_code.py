"""Which code trains."""

import shutil
import subprocess

import pytest

import resnet_flax
from resnet_flax.workdir import code


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of one module that is no checkout."""
    (tmp_path / "resnet_flax").mkdir()
    (tmp_path / "resnet_flax" / "main.py").write_text("1\n")
    monkeypatch.setattr(code, "PACKAGE", tmp_path / "resnet_flax")
    return tmp_path / "resnet_flax"


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_version_is_the_commit_of_a_checkout(package):
    assert code.code_version() == resnet_flax.__version__

    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.check_output(["git", *identity, *words], cwd=package.parent, text=True).strip()

    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message=first")
    commit = git("rev-parse", "--short", "HEAD")
    assert code.code_version() == commit
    (package.parent / "notes").write_text("beside the package")
    assert code.code_version() == commit
    (package / "main.py").write_text("2\n")
    assert code.code_version() == f"{commit}-dirty"


def test_version_without_git_is_that_of_the_package(package, monkeypatch):
    (package.parent / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    assert code.code_version() == resnet_flax.__version__


def test_digest_changes_with_any_module(package):
    first = code.code_digest()
    assert first == code.code_digest()
    (package / "main.py").write_text("2\n")
    second = code.code_digest()
    (package / "main.py").rename(package / "other.py")
    assert len({first, second, code.code_digest()}) == 3
