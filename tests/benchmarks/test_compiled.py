"""The training loop is compiled for a target without being run, and the log of programs only gets better."""

import json
import sys
from textwrap import indent

import jax
import pytest

from benchmarks import command_line, compiled, hlo
from benchmarks.record import Journal
from benchmarks.targets import Target
from resnet_flax.errors import UserError

TINY = ("--config.model.blocks=(1,)", "--config.model.widths=(4,)", "--config.train.batch_size=8")
# What XLA lists for a GPU, shortened: a step of two graphs and three launches outside of them.
LAUNCHES = """\
000: kCommandBuffer [source | next=002 (1)]
    001: kCopy         [source | sink] kCopy
002: kWhile         [prev=000 (1) | next=000 (1)]
condition:
    003: kCustomKernel [source | sink] wrapped_compare grid: [1, 1, 1]
  body:
    000: kCommandBuffer [source | next=006 (1)]
        004: kCustomKernel [source | next=005 (1)] loop_add_fusion grid: [1, 1, 1]
        005: kCopy         [prev=004 (1) | sink] kCopy
    006: kConvolution  [prev=000 (1) | next=007 (1)] kConvolution
    007: kConvolution  [prev=006 (1) | next=000 (1)] kConvolution
    008: kCustomKernel [prev=007 (1) | next=000 (1)] loop_add_fusion grid: [1, 1, 1]
    000: kCommandBuffer [prev=008 (1) | sink]
        009: kCustomKernel [source | sink] loop_multiply_fusion grid: [1, 1, 1]
000: kCommandBuffer [prev=002 (1) | sink]
    010: kCustomKernel [source | sink] wrapped_transpose grid: [1, 1, 1]
"""
STEP = """
ENTRY %main (a: bf16[8,32,32,4], b: bf16[4,3,3,4]) -> bf16[8,32,32,4] {
  %a = bf16[8,32,32,4]{3,2,1,0} parameter(0)
  %b = bf16[4,3,3,4]{3,2,1,0} parameter(1)
  %cudnn-conv.1 = (bf16[8,32,32,4]{3,2,1,0}, u8[0]{0}) custom-call(%a, %b), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", metadata={op_name="jit(steps)/jvp(ResNet)/stem_conv/conv_general_dilated"}
  %get-tuple-element.1 = bf16[8,32,32,4]{3,2,1,0} get-tuple-element(%cudnn-conv.1), index=0
  %all-reduce.1 = (f32[4]{0}, f32[2,4]{1,0}) all-reduce(%c, %d), to_apply=%add
  ROOT %transpose.1 = bf16[8,4,32,32]{3,2,1,0} transpose(%get-tuple-element.1), dimensions={0,3,1,2}
}
"""  # noqa: E501


def test_analysis_of_a_step():
    found = compiled.analyse(STEP, {})
    assert found["kernels"] == 3 and found["small"] == 3
    assert found["convolutions"] == {"bf16 x bf16 -> bf16, b01f_o01i->b01f": 1}
    assert found["collectives"] == {"all-reduce f32": [1, 0.0]} and found["transposes"] == [1, 0.1]
    assert found["custom_calls"] == {"__cudnn$convForward": 1}
    assert {name: count for name, (count, _) in found["groups"].items()} == {
        "collectives": 1,
        "convolution, forward": 1,
        "copies, transposes, casts": 1,
    }
    assert "padded_MB" not in found


def test_graphs_and_launches_are_those_of_the_loop():
    assert compiled.graphs(LAUNCHES) == {"graphs": 2, "outside": {"Convolution": 2, "CustomKernel": 1}}
    inside = "000: kCommandBuffer [source | sink]\n" + indent(LAUNCHES, "    ")
    assert compiled.graphs(inside) == {"graphs": 1, "outside": {}}  # the loop is in a graph itself
    assert compiled.graphs("") == {}  # no GPU


def test_a_program_is_predicted_from_each_of_its_costs():
    found = {"kernels": 400, "MB": 430.0}
    gpu = Target("h200:2", [None] * 2, "gpu")
    assert compiled.predicted(gpu, found, gflop=79.0, batch=100) == {
        "launches": 100.0,
        "bytes": 1000.0,
        "FLOPs": 1000.0,
    }
    tpu = Target("v5e:1x1", [None], "tpu")
    assert compiled.predicted(tpu, found | {"HBM_MB": 81.9}, 197.0, 100) == {"bytes": 1000.0, "FLOPs": 100.0}


def test_the_loop_is_compiled_and_not_run(monkeypatch, tmp_path):
    monkeypatch.setattr(compiled, "EXAMPLES", 64)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    words = ["--target=cpu", "--recipes=preact", f"--output={tmp_path}", f"--keep={tmp_path}", *TINY]
    monkeypatch.setattr(sys, "argv", ["compiled", *words])
    before = (jax.jit, jax.device_put, jax.devices)
    assert command_line.run(compiled.main) == 0
    assert (jax.jit, jax.device_put, jax.devices) == before
    [line] = [json.loads(line) for line in (tmp_path / "compiled.jsonl").read_text().splitlines()]
    assert line["case"]["changes"] == list(TINY) and line["found"]["chips"] == jax.device_count()
    assert {"feed", "optimizer", "reductions"} < line["found"]["groups"].keys()
    program = hlo.Program.parse((tmp_path / "cpu-preact.hlo").read_text())
    assert any(one.opcode == "while" for one in program.instructions.values())


@pytest.mark.parametrize(
    ("found", "worse"),
    [
        ({"kernels": 100, "MB": 50.0}, ""),
        ({"kernels": 90, "MB": 51.0}, ""),
        ({"kernels": 101, "MB": 40.0}, "101 kernels instead of 100"),
        ({"kernels": 100, "MB": 51.1}, "51.1 MB instead of 50.0"),
    ],
)
def test_a_program_that_has_become_worse_is_logged_only_if_that_is_accepted(tmp_path, found, worse):
    journal = Journal("compiled", tmp_path)
    case = {"target": "h200", "recipe": "preact", "batch": 32, "commit": "a"}
    assert compiled.log(journal, case, {"kernels": 100, "MB": 50.0}, accept=False) == ""
    later = case | {"commit": "b"}
    assert compiled.log(journal, later, found, accept=False) == (worse and f"h200 preact: {worse}")
    assert len(journal.lines()) == (1 if worse else 2)
    assert compiled.log(journal, later, found, accept=True) == ""
    assert journal.lines()[-1]["found"].get("accepted", "") == worse
    much = {"kernels": 900, "MB": 900.0}
    assert compiled.log(journal, case | {"batch": 64}, much, accept=False) == ""
    journal.made = {**journal.made, "versions": {"jax": "0.99"}}  # which compiles different programs
    assert compiled.log(journal, case | {"commit": "c"}, much, accept=False) == ""


def test_no_logged_program_is_worse_than_the_one_before_it_unless_that_was_accepted():
    lines = Journal("compiled").lines()
    assert lines
    for index, line in enumerate(lines):
        before = [earlier for earlier in lines[:index] if compiled.same_program(earlier, line["case"], line["made"])]
        if before:
            worse = compiled.regression(before[-1]["found"], line["found"])
            assert worse == line["found"].get("accepted", ""), line["case"]


@pytest.mark.parametrize("name", ["h100", "v5e", "v5e:2", "h200:x", "v6e:2x2x2"])
def test_a_target_that_there_is_not_is_named_with_those_that_there_are(name):
    with pytest.raises(UserError, match=f"such as v5e:2x4, not '{name}'"):
        Target.find(name)
