"""A journal has one line for a case and device, and survives whatever kills a benchmark."""

import pytest

from benchmarks import record


def test_journal_has_one_line_for_a_case_and_device(tmp_path):
    journal = record.Journal("speed", tmp_path / "new")
    journal.add({"part": "step", "widths": (4, 8)}, {"rate": 1.0})
    journal.add({"part": "feed"}, {"rate": 2.0})
    assert journal.has({"part": "step", "widths": [4, 8]}) and not journal.has({"part": "loop"})
    journal.add({"part": "step", "widths": [4, 8]}, {"rate": 3.0})
    assert [line["found"]["rate"] for line in journal.lines()] == [2.0, 3.0]
    assert {"date", "device", "versions", "commit"} <= journal.lines()[0]["made"].keys()
    elsewhere = record.Journal("speed", tmp_path / "new")
    elsewhere.made = elsewhere.made | {"device": "1 x another"}
    assert not elsewhere.has({"part": "feed"})
    elsewhere.add({"part": "feed"}, {"rate": 9.0})
    assert len(journal.lines()) == 3
    assert not record.Journal("speed", tmp_path / "new", again=True).has({"part": "feed"})


@pytest.mark.parametrize("device", ["1 x cpu", "2 cores of AMD EPYC", "4 x cpu on 2 cores of AMD EPYC"])
def test_a_cpu_is_told_from_an_accelerator_in_runs_of_all_versions(device):
    assert record.is_cpu(device) and not record.is_cpu("1 x NVIDIA H200")


def test_commit_is_told_where_the_code_is_no_checkout(monkeypatch, tmp_path):
    monkeypatch.setenv("COMMIT", "abc1234")
    assert record.circumstances()["commit"] == "abc1234"
    monkeypatch.delenv("COMMIT")
    monkeypatch.setattr(record, "RESULTS", tmp_path / "no" / "checkout")
    (tmp_path / "no").mkdir()
    assert record.commit() == "unknown"
