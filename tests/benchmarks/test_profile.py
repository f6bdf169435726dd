"""The profile knows what every kernel is for: of a step on the CPU, and of programs and traces as a GPU has them."""

import gzip
import json
import sys
from collections import Counter

import pytest

from benchmarks import hlo, profile

# What XLA writes of a program for a GPU, shortened.
GPU_PROGRAM = """
%fused_reduce (p0: f32[8]) -> f32[] {
  %p0 = f32[8]{0} parameter(0)
  ROOT %reduce.1 = f32[] reduce(%p0, %zero), dimensions={0}, to_apply=%add, metadata={op_name="jit(step)/jvp(ResNet)/stem_norm/reduce_sum"}
}
%fused_transpose (p1: f32[8,4]) -> bf16[4,8] {
  %p1 = f32[8,4]{1,0} parameter(0)
  %convert.1 = bf16[8,4]{1,0} convert(%p1)
  ROOT %transpose.1 = bf16[4,8]{1,0} transpose(%convert.1), dimensions={1,0}
}
%fused_backward (p2: bf16[8,32,32,4]) -> bf16[3,3,4,4] {
  %p2 = bf16[8,32,32,4]{3,2,1,0} parameter(0)
  ROOT %convolution.9 = bf16[3,3,4,4]{3,2,1,0} convolution(%p2, %p2), window={size=3x3 pad=1_1x1_1}, dim_labels=f01b_i01o->01bf
}
%fused_maximum (p3: f32[8]) -> f32[8] {
  %p3 = f32[8]{0} parameter(0)
  ROOT %maximum.1 = f32[8]{0} maximum(%p3, %p3)
}
ENTRY %main.1 (a: f32[8,4]) -> f32[] {
  %cudnn-conv.1 = (bf16[8,32,32,4]{3,2,1,0}, u8[0]{0}) custom-call(%a, %b), window={size=3x3 pad=1_1x1_1}, custom_call_target="__cudnn$convForward", metadata={op_name="jit(step)/jvp(ResNet)/stage1_block1/conv1/conv_general_dilated"}
  %cudnn-conv.2 = (bf16[8,32,32,4]{3,2,1,0}, u8[0]{0}) custom-call(%a, %b), window={size=3x3 pad=1_1x1_1}, custom_call_target="__cudnn$convForward", metadata={op_name="jit(step)/transpose(jvp(ResNet))/stage1_block1/conv1/conv_general_dilated"}
  %cudnn-conv-bw-input.1 = (bf16[8,32,32,4]{3,2,1,0}, u8[0]{0}) custom-call(%a, %b), window={size=3x3}, custom_call_target="__cudnn$convBackwardInput", metadata={op_name="jit(step)/transpose(jvp(ResNet))/stage1_block1/conv1/conv_general_dilated"}
  %cudnn-conv-bw-filter.1 = (f32[3,3,4,4]{3,2,1,0}, u8[0]{0}) custom-call(%a, %b), window={size=3x3}, custom_call_target="__cudnn$convBackwardFilter"
  %fusion.7 = bf16[3,3,4,4]{3,2,1,0} fusion(%a), kind=kCustom, calls=%fused_backward, metadata={op_name="jit(step)/transpose(jvp(ResNet))/stage1_block1/conv1/conv_general_dilated"}
  %custom-call.4 = (bf16[8,10]{1,0}, s8[4194304]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", metadata={op_name="jit(step)/jvp(ResNet)/head/dot_general"}
  %input_reduce_fusion = f32[] fusion(%a), kind=kInput, calls=%fused_reduce
  %input_transpose_fusion = bf16[4,8]{1,0} fusion(%a), kind=kInput, calls=%fused_transpose, metadata={op_name="jit(step)/jvp(ResNet)/stem_conv/transpose"}
  %loop_add_fusion.3 = f32[8]{0} fusion(%a), kind=kLoop, calls=%fused_add, metadata={op_name="jit(step)/optimizer/add"}
  %loop_maximum_fusion = f32[8]{0} fusion(%a), kind=kLoop, calls=%fused_maximum, metadata={op_name="jit(step)/jvp(ResNet)/jit(relu)/max"}
  ROOT %loop_gather_fusion = f32[8]{0} fusion(%a), kind=kLoop, calls=%fused_gather, metadata={op_name="jit(step)/feed/gather"}
}
"""  # noqa: E501
GPU_KINDS = {
    "cudnn-conv.1": "convolution, forward",
    "cudnn-conv.2": "convolution, input gradient",
    "cudnn-conv-bw-input.1": "convolution, input gradient",
    "cudnn-conv-bw-filter.1": "convolution, weight gradient",
    "fusion.7": "convolution, weight gradient",
    "custom-call.4": "matmul",
    "input_reduce_fusion": "reductions",
    "input_transpose_fusion": "copies, transposes, casts",
    "loop_add_fusion.3": "optimizer",
    "loop_maximum_fusion": "BatchNorm and elementwise",
    "loop_gather_fusion": "feed",
}
KERNELS = {"stage1_block1/conv1": 144}


@pytest.mark.parametrize("name", GPU_KINDS)
def test_kinds_of_a_program_for_a_gpu(name):
    assert profile.kind(hlo.Program.parse(GPU_PROGRAM).instructions[name], KERNELS) == GPU_KINDS[name]


def test_trace_of_a_gpu(tmp_path):
    """Kernels are found by their operation or else by their own name, summaries are passed over, the rest is idle."""

    def kernel(name, ts, dur, tid=1, **arguments):
        return {"ph": "X", "pid": 1, "tid": tid, "name": name, "ts": ts, "dur": dur, "args": arguments}

    rows = [
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "/device:GPU:0"}},
        {"ph": "M", "pid": 1, "tid": 1, "name": "thread_name", "args": {"name": "Stream #13(Compute)"}},
        {"ph": "M", "pid": 1, "tid": 2, "name": "thread_name", "args": {"name": "XLA Ops"}},
        kernel("sm90_xmma_fprop_bf16", 1000, 400, hlo_op="cudnn-conv.1", hlo_module="jit_step"),
        kernel("cudnn-conv.1", 1000, 400, tid=2, hlo_op="cudnn-conv.1"),
        kernel("loop_add_fusion_3", 1500, 100),
        kernel("MemcpyD2D", 1600, 50),
        kernel("mystery", 1700, 300),
        {"ph": "X", "pid": 2, "tid": 1, "name": "host", "ts": 0, "dur": 9000, "args": {"hlo_op": "cudnn-conv.1"}},
        {},
    ]
    with gzip.open(tmp_path / "host.trace.json.gz", "wt") as file:
        json.dump({"traceEvents": rows}, file)
    found = profile.summarise(tmp_path, GPU_PROGRAM, KERNELS, steps=2, top=2)
    assert found["milliseconds"] == 0.5
    assert found["kinds"] == {
        "convolution, forward": 0.2,
        "other": 0.15,
        "idle": 0.075,
        "optimizer": 0.05,
        "copies, transposes, casts": 0.025,
    }
    assert [top["name"] for top in found["top"]] == ["cudnn-conv.1", "mystery"]


def test_profile_of_a_step_on_the_cpu(monkeypatch, tmp_path, capsys):
    tiny = ["--config.model.blocks=(1,1)", "--config.model.widths=(4,8)", "--config.train.batch_size=8"]
    words = ["--recipes=preact", "--steps=2", "--top=1000", "--examples=32", f"--output={tmp_path}", *tiny]
    monkeypatch.setattr(sys, "argv", ["profile", *words])
    profile.main()
    [line] = [json.loads(line) for line in (tmp_path / "profile.jsonl").read_text().splitlines()]
    found = line["found"]
    assert sum(found["kinds"].values()) == pytest.approx(found["milliseconds"], rel=1e-3)
    assert {"feed", "optimizer", "reductions", "BatchNorm and elementwise"} <= found["kinds"].keys()
    assert "other" not in found["kinds"]
    # A stem, two convolutions a block and a shortcut; nobody asks for the gradient of the image.
    kinds = Counter(kernel["kind"] for kernel in found["top"])
    assert [kinds[f"convolution, {kind}"] for kind in ("forward", "input gradient", "weight gradient")] == [6, 5, 6]
    assert "convolution, forward" in capsys.readouterr().out
