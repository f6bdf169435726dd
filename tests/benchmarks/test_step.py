"""The step benchmark measures every variant that the machine can run, and says why it cannot run another."""

import json
import sys

import pytest

from benchmarks import step
from resnet_flax import models


def measure(monkeypatch, folder, variants: str) -> dict[str, dict]:
    monkeypatch.setitem(models.NETWORKS, "tiny", dict(blocks=(1,), widths=(4,)))
    words = ["--networks=tiny", "--batch=4", "--rounds=2", "--seconds=0", f"--variants={variants}"]
    monkeypatch.setattr(sys, "argv", ["step", *words, f"--output={folder}"])
    step.main()
    lines = [json.loads(line) for line in (folder / "step.jsonl").read_text().splitlines()]
    return {line["case"]["variant"]: line["found"] for line in lines}


def test_steps_of_pytorch(monkeypatch, tmp_path):
    pytest.importorskip("torch")
    assert len(measure(monkeypatch, tmp_path, "torch float32 channels_last,torch bfloat16")) == 2


def test_a_variant_that_cannot_run_is_skipped_with_a_message(monkeypatch, tmp_path, capsys):
    def broken(*arguments):
        raise OSError("no compiler\nand more")

    monkeypatch.setitem(step.VARIANTS, "torch bfloat16 compiled", broken)
    found = measure(monkeypatch, tmp_path, "torch bfloat16 compiled,jax float32")
    assert set(found) == {"jax float32"}
    assert found["jax float32"]["images_per_second"] > 0 and len(found["jax float32"]["rounds"]) == 2
    assert "tiny: torch bfloat16 compiled does not run here, OSError: no compiler\n" in capsys.readouterr().out
