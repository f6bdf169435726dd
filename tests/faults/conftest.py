"""Runs without faults, to compare with."""

from collections.abc import Callable

import pytest

from tests.faults import injection


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Callable[..., dict]:
    """undisturbed(*words): how a run of injection.SMALL with `words` ends that nothing happens to."""
    ends: dict[tuple[str, ...], dict] = {}

    def find(*words: str) -> dict:
        if words not in ends:
            workdir = tmp_path_factory.mktemp("undisturbed")
            assert injection.run(workdir, *words) == 0
            ends[words] = injection.end(workdir, *words)
        return ends[words]

    return find
