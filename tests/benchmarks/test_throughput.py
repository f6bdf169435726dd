"""The throughput benchmark measures every part in the ways asked for, once, and gives percentages of the limits."""

import json
import sys

from benchmarks import throughput

TINY = ["--recipes=preact", "--batches=8", "--config.model.blocks=(1,)", "--config.model.widths=(4,)"]
SHORT = ["--examples=32", "--steps=2", "--rounds=1", "--seconds=0", "--ways=looped,host"]


def test_every_part_once(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["throughput", *TINY, *SHORT, f"--output={tmp_path}"])
    throughput.main()
    lines = [json.loads(line) for line in (tmp_path / "throughput.jsonl").read_text().splitlines()]
    cases = {(line["case"]["part"], line["case"]["way"]) for line in lines}
    assert cases == {("step", "looped"), *((part, way) for part in ("feed", "loop") for way in ("looped", "host"))}
    assert all(line["case"]["steps"] == (2 if line["case"]["way"] == "looped" else 1) for line in lines)
    assert all(line["found"]["images_per_second"] > 0 for line in lines)
    assert all(line["case"]["changes"] == TINY[2:] for line in lines)
    capsys.readouterr()
    monkeypatch.setattr(throughput, "measure", None)
    throughput.main()
    assert capsys.readouterr().out == ""


def test_limits_are_of_every_recipe():
    assert set(throughput.LIMITS) == set(throughput.recipes.RECIPES)
    assert throughput.percent_of_limits("resnet_353", 65_000) == {"A": 39.6, "C": 70.7, "D": 100.0}
