"""The soak counts a fault as survived only if the run took it as it should and ended as without it."""

import json
from pathlib import Path

import pytest

from benchmarks import record, soak
from benchmarks.faults.kinds import check


class Run:
    """A run that trains nothing: it has one end, and is finished after three faults."""

    def __init__(self, folder: Path, name: str, way: str):
        self.workdir, self.ending, self.faults = folder / name, "the same", 0

    def is_finished(self) -> bool:
        return self.faults == 3

    def end(self) -> dict:
        return {"results": self.ending}


def harmless(run, rng) -> bool:
    run.faults += 1
    return True


def spoils(run, rng) -> bool:
    run.ending = "another"
    return harmless(run, rng)


def fails(run, rng) -> bool:
    check(False, "exit code 3")
    return True


@pytest.mark.parametrize(
    ("fault", "figures", "failure"),
    [
        (harmless, {"bit_identical": 2, "faults": {"fault": [6, 6]}}, None),
        (spoils, {"bit_identical": 0, "faults": {"fault": [0, 6]}}, "ends differently after fault, fault, fault"),
        (fails, {"bit_identical": 4, "faults": {"fault": [0, 4]}}, "run0: fault: exit code 3"),
    ],
)
def test_fault_counts_as_survived_only_if_nothing_is_lost(fault, figures, failure, tmp_path, monkeypatch):
    monkeypatch.setattr(soak, "Run", Run)
    monkeypatch.setattr(soak, "STOPS", {"fault": fault})
    monkeypatch.setattr(soak, "OTHERS", {"fault": fault})
    soak.Soak(record.Journal("soak", tmp_path), seed=3).inject_faults(4, tmp_path)
    [line] = [json.loads(line) for line in (tmp_path / "soak.jsonl").read_text().splitlines()]
    assert line["case"] == {"seed": 3}
    assert {name: line["found"][name] for name in figures} == figures
    assert (failure in line["found"]["failures"][0]) if failure else line["found"]["failures"] == []
