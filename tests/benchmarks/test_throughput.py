"""The throughput benchmark measures every part in the ways asked for, once, and gives percentages of the limits."""

import json
import sys

from benchmarks import throughput

TINY = ["--recipes=preact", "--batches=8", "--config.model.blocks=(1,)", "--config.model.widths=(4,)"]
SHORT = ["--examples=32", "--steps=2", "--rounds=1", "--seconds=0", "--ways=looped"]


def test_every_part_once(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(sys, "argv", ["throughput", *TINY, *SHORT, f"--output={tmp_path}"])
    throughput.main()
    lines = [json.loads(line) for line in (tmp_path / "throughput.jsonl").read_text().splitlines()]
    cases = {(line["case"]["part"], line["case"]["way"], line["case"]["steps"]) for line in lines}
    assert cases == {("step", "looped", 2), ("feed", "looped", 2), ("loop", "looped", 2)}
    assert all(line["found"]["images_per_second"] > 0 for line in lines)
    assert all(line["case"]["changes"] == TINY[2:] for line in lines)
    capsys.readouterr()
    monkeypatch.setattr(throughput, "measure", None)
    throughput.main()
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("XLA_FLAGS", "--some")
    monkeypatch.setattr(throughput, "measure", lambda run, wanted, *_: [[1.0] for _ in wanted])
    throughput.main()
    lines = [json.loads(line) for line in (tmp_path / "throughput.jsonl").read_text().splitlines()]
    assert [line["case"]["changes"] for line in lines] == [TINY[2:]] * 3 + [[*TINY[2:], "XLA_FLAGS=--some"]] * 3


def test_each_part_has_the_cases_of_its_ways(monkeypatch, capsys):
    ways = ["single", "unrolled", "host"]
    assert throughput.cases("feed", ways, (1, 4), 15) == [
        {"part": "feed", "way": "single", "steps": 1},
        {"part": "feed", "way": "host", "steps": 1},
    ]
    assert [case["steps"] for case in throughput.cases("step", ways, (1, 4), 15)] == [1, 1, 4]
    grouped = throughput.cases("loop", ["grouped"], (1, 4), 15)
    assert grouped == [{"part": "loop", "way": "grouped", "steps": 15}]
    monkeypatch.setattr(throughput.importlib.util, "find_spec", lambda name: None)
    assert throughput.usable(ways) == ["single", "unrolled"]
    assert "TensorFlow is not installed" in capsys.readouterr().out


def test_limits_are_of_every_recipe():
    assert set(throughput.LIMITS) == set(throughput.recipes.RECIPES)
    assert throughput.percent_of_limits("resnet_353", 65_000) == {"peak": 39.6, "roofline": 70.7, "attainable": 100.0}
