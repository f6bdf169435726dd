"""The start-up benchmark says how long a start takes and where its time goes; nothing heavy is imported too soon."""

import json
import sys

import pytest

from benchmarks import startup

SMALL = [
    "--config.data.name=digits",
    "--config.data.train=train[:500]",
    "--config.data.validation=",
    "--config.data.test=",
    "--config.train.patience=0",
    "--config.model.blocks=(1,)",
    "--config.model.widths=(4,)",
    "--config.model.max_params=0",
    "--config.data.policy=flip|normalize(half)",
]


def test_a_start_on_the_device_is_timed_cold_and_warm(tmp_path, monkeypatch, capsys):
    words = ["startup", "--feeds=device", "--rounds=1", "--no-plain", f"--output={tmp_path}", *SMALL]
    monkeypatch.setattr(sys, "argv", words)
    startup.main()
    lines = [json.loads(line) for line in (tmp_path / "startup.jsonl").read_text().splitlines()]
    assert [line["case"]["cache"] for line in lines] == ["cold", "warm"]
    for line in lines:
        found = line["found"]
        assert found["imported"] == []
        parts = found["parts"]
        assert sum(parts[name] for name in ("imports", "data", "init", "feed", "step")) == pytest.approx(
            found["seconds"], abs=0.5
        )
        assert 0 < parts["compile"] < found["seconds"]
    assert "| ours, device, warm |" in capsys.readouterr().out
    monkeypatch.setattr(startup, "start", None)
    startup.main()  # measures nothing again


def test_table_has_a_row_for_each_start_and_a_column_for_each_part_that_one_has():
    def line(program: str, of: str, cache: str, **parts) -> dict:
        case = {"program": program, "feed": of, "cache": cache, "jax": "1.2"}
        return {"case": case, "found": {"seconds": 3.0, "parts": parts}}

    rows = startup.table([line("plain", "", "", imports=1.0), line("ours", "device", "warm", imports=0.5, feed=0.25)])
    assert rows.splitlines() == [
        "| start | jax | seconds | imports | feed |",
        "|:--|--:|--:|--:|--:|",
        "| ours, device, warm | 1.2 | 3.00 | 0.50 | 0.25 |",
        "| plain | 1.2 | 3.00 | 1.00 |  |",
    ]
