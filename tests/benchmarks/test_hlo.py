"""The text of a compiled program is read as it is: types, padding, the kernels of a loop, and what each moves."""

import pytest

from benchmarks.hlo import Program, arrays, instruction

LOOP = """
HloModule jit_steps, is_scheduled=true

%gathered (p0: u8[50000,32], p1: s32[4]) -> u8[4,32] {
  %p0 = u8[50000,32]{1,0} parameter(0)
  %p1 = s32[4]{0} parameter(1)
  %flat = u8[50000,32]{1,0} bitcast(%p0)
  ROOT %gather.1 = u8[4,32]{1,0} gather(%flat, %p1), offset_dims={1}
}
%both (p0.1: u8[4,32]) -> f32[4,32] {
  %p0.1 = u8[4,32]{1,0} parameter(0)
  %first = u8[1,32]{1,0} dynamic-slice(%p0.1, %zero, %zero), dynamic_slice_sizes={1,32}
  ROOT %convert.1 = f32[4,32]{1,0} convert(%p0.1)
}
%called (c0: f32[4,32]) -> f32[4,32] {
  %c0 = f32[4,32]{1,0} parameter(0)
  ROOT %negate.1 = f32[4,32]{1,0} negate(%c0)
}
%inner (i0: (s32[], f32[4,32])) -> (s32[], f32[4,32]) {
  %i0 = (s32[], f32[4,32]{1,0}) parameter(0)
  %value = f32[4,32]{1,0} get-tuple-element(%i0), index=1
  %exponential.1 = f32[4,32]{1,0} exponential(%value)
  ROOT %tuple.9 = (s32[], f32[4,32]{1,0}) tuple(%count, %exponential.1)
}
%body (state: (s32[], u8[50000,32], s32[4], f32[4,32])) -> (s32[], u8[50000,32], s32[4], f32[4,32]) {
  %state = (s32[], u8[50000,32]{1,0}, s32[4]{0}, /*index=3*/f32[4,32]{1,0}) parameter(0)
  %images = u8[50000,32]{1,0} get-tuple-element(%state), index=1
  %order = s32[4]{0} get-tuple-element(%state), index=2
  %gather_fusion = u8[4,32]{1,0} fusion(%images, %order), kind=kLoop, calls=%gathered, metadata={op_name="jit(steps)/feed/gather"}
  %convert_fusion = f32[4,32]{1,0} fusion(%gather_fusion), kind=kLoop, calls=%both
  %call.1 = f32[4,32]{1,0} call(%convert_fusion), to_apply=%called
  %while.1 = (s32[], f32[4,32]{1,0}) while(%start), condition=%short, body=%inner
  %all-reduce-start.1 = (f32[4,32]{1,0}, f32[4,32]{1,0}) all-reduce-start(%call.1), to_apply=%add
  %all-reduce-done.1 = f32[4,32]{1,0} all-reduce-done(%all-reduce-start.1)
  ROOT %tuple.1 = (s32[], u8[50000,32]{1,0}, s32[4]{0}, f32[4,32]{1,0}) tuple(%one, %images, %order, %all-reduce-done.1)
}
ENTRY %main (a: u8[50000,32]) -> f32[4,32] {
  %a = u8[50000,32]{1,0} parameter(0)
  %copy.1 = u8[50000,32]{1,0} copy(%a)
  %while.2 = (s32[], u8[50000,32]{1,0}, s32[4]{0}, f32[4,32]{1,0}) while(%tuple.2), condition=%long, body=%body
  ROOT %result = f32[4,32]{1,0} get-tuple-element(%while.2), index=3
}
"""  # noqa: E501


@pytest.mark.parametrize(
    ("text", "number", "padded"),
    [
        ("f32[3,5]{1,0}", 60, 60),
        ("pred[]", 1, 1),
        ("u4[3]{0}", 2, 2),
        ("token[]", 0, 0),
        ("bf16[4,32,32,3]{3,2,1,0:T(8,128)(2,1)}", 24_576, 4 * 32 * 32 * 128 * 2),
        ("bf16[4,32,32,3]{2,1,3,0:T(8,128)(2,1)S(1)}", 24_576, 4 * 3 * 32 * 128 * 2),
        ("f32[10]{0:T(128)}", 40, 512),
        ("f32[]{:T(128)}", 4, 4),
        ("(f32[2]{0}, /*index=1*/u8[0]{0})", 8, 8),
    ],
)
def test_bytes_of_a_type_and_those_that_a_tpu_fills_up(text, number, padded):
    found = arrays(text)
    assert (sum(array.bytes for array in found), sum(array.padded_bytes for array in found)) == (number, padded)


def test_memory_of_the_chip_is_told_from_the_large_one():
    assert [array.on_chip for array in arrays("(f32[8]{0:T(128)S(1)}, f32[8]{0:T(128)}, f32[8]{0:T(128)S(0)})")] == [
        True,
        False,
        False,
    ]


def test_an_instruction_has_its_parts():
    text = '((f32[2]{0:T(8,128)}), s32[]) custom-call(%a.1, %b), custom_call_target="f", metadata={op_name="x(y)/z"}'
    one = instruction("c", text)
    assert (one.type, one.opcode) == ("((f32[2]{0:T(8,128)}), s32[])", "custom-call")
    assert (one.operands, one.target, one.path) == (("a.1", "b"), "f", "x(y)/z")


def test_kernels_are_those_of_the_largest_loop_with_calls_and_inner_loops_resolved():
    program = Program.parse(LOOP)
    names = [kernel.name for kernel in program.kernels(program.body())]
    assert names == ["gather_fusion", "convert_fusion", "negate.1", "exponential.1", "all-reduce-start.1"]
    without = Program.parse(LOOP.replace("while(", "custom-call("))
    assert [kernel.name for kernel in without.kernels(without.body())] == ["copy.1", "while.2"]


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("gather_fusion", [128, 16, 128]),  # what it takes of the images, the indices, and its result
        ("convert_fusion", [128, 512]),  # it slices its operand, but reads the whole, too
        ("all-reduce-start.1", [512, 512]),
        ("copy.1", [1_600_000, 1_600_000]),
    ],
)
def test_a_kernel_moves_its_operands_and_results_and_of_what_it_indexes_a_part(name, moved):
    program = Program.parse(LOOP)
    assert [array.bytes for array in program.traffic(program.instructions[name])] == moved


def test_an_update_in_place_moves_what_it_updates():
    text = """
%updated (p0: f32[1000], p1: f32[2]) -> f32[1000] {
  %p0 = f32[1000]{0} parameter(0)
  %p1 = f32[2]{0} parameter(1)
  ROOT %dynamic-update-slice.1 = f32[1000]{0} dynamic-update-slice(%p0, %p1, %at)
}
ENTRY %main (a: f32[1000], b: f32[2]) -> f32[1000] {
  %a = f32[1000]{0} parameter(0)
  %b = f32[2]{0} parameter(1)
  %fusion.1 = f32[1000]{0} fusion(%a, %b), kind=kLoop, calls=%updated
  ROOT %dynamic-update-slice.2 = f32[1000]{0} dynamic-update-slice(%fusion.1, %b, %at)
}
"""
    program = Program.parse(text)
    for kernel in program.kernels(program.body()):
        assert [array.bytes for array in program.traffic(kernel)] == [8, 8]
