"""The cache: nobody else's programs are run out of it, and nothing but a dataset needs it."""

import os
import stat

import jax
import pytest

from resnet_flax import cache
from resnet_flax.errors import UserError


@pytest.fixture
def compiled(monkeypatch):
    """What jax is told about its cache of compiled programs."""
    told = []
    monkeypatch.setattr(jax.config, "update", lambda name, value: told.append((name, value)))
    return told


def test_it_is_private_and_used(tmp_path, monkeypatch, compiled, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new"))
    for _ in range(2):
        cache.keep_compiled_programs()
        folder = cache.cache_folder()
        assert folder == tmp_path / "new" / "resnet_flax"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert ("jax_compilation_cache_dir", str(folder / "compiled")) in compiled
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("place", ["", "compiled"])
@pytest.mark.parametrize("mode", [0o770, 0o777, 0o702])
def test_programs_that_others_could_have_written_are_not_run(tmp_path, monkeypatch, compiled, capsys, place, mode):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (cache.cache_folder() / place).mkdir(exist_ok=True)
    (cache.cache_folder() / place).chmod(mode)
    cache.keep_compiled_programs()
    assert compiled == []
    assert "where others can write" in capsys.readouterr().err


def test_nor_those_of_another_user(tmp_path, monkeypatch, compiled):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    cache.keep_compiled_programs()
    assert compiled == []


def test_without_a_place_for_it_programs_are_compiled_again(tmp_path, monkeypatch, compiled):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cache.keep_compiled_programs()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.keep_compiled_programs()
    assert compiled == []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set XDG_CACHE_HOME"):
        cache.cache_folder()
