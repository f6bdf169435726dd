"""The cache: no other user's programs are run from it, it heals, and only datasets need it."""

import errno
import os
import stat
import subprocess
import sys
import warnings
from types import SimpleNamespace

import jax
import pytest

from resnet_flax import cache
from resnet_flax.errors import UserError


@pytest.fixture
def compiled(monkeypatch):
    """Collect the settings that jax gets for its cache of compiled programs."""
    settings = []
    monkeypatch.setattr(jax.config, "update", lambda name, value: settings.append((name, value)))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    return settings


def test_the_cache_is_private_and_used(tmp_path, monkeypatch, compiled, capsys):
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
    assert "as other users can write there" in capsys.readouterr().err


def test_programs_of_another_user_are_not_run(tmp_path, monkeypatch, compiled):
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


def test_a_bad_program_that_cannot_be_deleted_does_not_end_the_run(tmp_path, monkeypatch, capsys):
    def refuse(self):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    (tmp_path / "jit_step-123-cache").touch()
    monkeypatch.setattr(cache, "jax", SimpleNamespace(config=SimpleNamespace(jax_compilation_cache_dir=tmp_path)))
    monkeypatch.setattr(cache.Path, "unlink", refuse)
    cache.delete_bad_entry(print, "Error reading persistent compilation cache entry for 'jit_step': it is cut short")
    assert capsys.readouterr().out == ""


def test_an_error_of_the_system_deletes_no_program(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cache, "jax", SimpleNamespace(config=SimpleNamespace(jax_compilation_cache_dir=tmp_path)))
    (tmp_path / "jit_step-123-cache").touch()
    about = "Error reading persistent compilation cache entry for 'jit_step': "
    cache.delete_bad_entry(print, f"{about}OSError: [Errno 24] Too many open files")
    assert (tmp_path / "jit_step-123-cache").exists()
    cache.delete_bad_entry(print, f"{about}ZstdError: it is cut short")
    assert not (tmp_path / "jit_step-123-cache").exists() and capsys.readouterr().out == ""


COMPILE = """
import warnings
import jax
from resnet_flax.cache import keep_compiled_programs
keep_compiled_programs()
keep_compiled_programs()
jax.jit(lambda x: 2 * x + 1)(3)
warnings.warn("another warning")
"""


@pytest.mark.parametrize("left", [0, 100])
def test_a_truncated_program_is_replaced_without_a_word(tmp_path, left):
    def entries() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / "resnet_flax" / "compiled").iterdir()}

    def start() -> str:
        environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "")
        return done.stderr

    err = start()
    assert "another warning" in err
    whole = entries()
    assert whole
    for name, content in whole.items():
        (tmp_path / "resnet_flax" / "compiled" / name).write_bytes(content[:left])
    assert start() == err
    assert entries().keys() == whole.keys()
    assert all(len(content) > 500 for content in entries().values())
    healed = entries()
    assert start() == err
    assert entries() == healed
