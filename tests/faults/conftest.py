"""Runs without faults, to compare with."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.faults import injection


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Callable[..., Path]:
    """undisturbed(*words): the workdir of a finished run of injection.SMALL with `words`. Tests only read it."""
    workdirs: dict[tuple[str, ...], Path] = {}

    def find(*words: str) -> Path:
        if words not in workdirs:
            workdirs[words] = tmp_path_factory.mktemp("undisturbed")
            assert injection.run(workdirs[words], *words) == 0
        return workdirs[words]

    return find
