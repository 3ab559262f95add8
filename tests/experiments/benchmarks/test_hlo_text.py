"""What a program's text says it costs is what one counts by hand."""

import math

import pytest

from experiments.benchmarks.hlo_text import Program, exchanges

# ruff: noqa: E501  a compiler's lines are long
# A loop of 10 turns around a convolution in a fusion, a product before it, an all-reduce after it.
TEXT = """HloModule step, is_scheduled=true, num_partitions=8

%conv (p0: bf16[2,4,4,3], p1: bf16[3,3,3,8]) -> bf16[2,4,4,8] {
  %p0 = bf16[2,4,4,3]{3,2,1,0} parameter(0)
  %p1 = bf16[3,3,3,8]{3,2,1,0} parameter(1)
  ROOT %c = bf16[2,4,4,8]{3,2,1,0} convolution(%p0, %p1), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, metadata={op_name="jit(one)/layer/conv"}
}

%body (t: (s32[], bf16[2,4,4,3])) -> (s32[], bf16[2,4,4,3]) {
  %t = (s32[], /*index=1*/bf16[2,4,4,3]{3,2,1,0:T(4,128)(2,1)}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = bf16[2,4,4,3]{3,2,1,0} get-tuple-element(%t), index=1
  %k = bf16[3,3,3,8]{3,2,1,0:T(8,128)(2,1)S(1)} constant({...})
  %f = bf16[2,4,4,8]{3,2,1,0} fusion(%x, %k), kind=kOutput, calls=%conv, metadata={op_name="jit(one)/layer/conv"}, backend_config={"estimated_cycles":"100"}
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  ROOT %out = (s32[], bf16[2,4,4,3]{3,2,1,0}) tuple(%next, %x)
}

%condition (s: (s32[], bf16[2,4,4,3])) -> pred[] {
  %s = (s32[], bf16[2,4,4,3]{3,2,1,0}) parameter(0)
  %j = s32[] get-tuple-element(%s), index=0
  %ten = s32[] constant(10)
  ROOT %less = pred[] compare(%j, %ten), direction=LT
}

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %added = f32[] add(%a, %b)
}

ENTRY %main (x: bf16[2,4,4,3], m: f32[5,7], n: f32[7,6]) -> f32[5,6] {
  %x.1 = bf16[2,4,4,3]{3,2,1,0} parameter(0)
  %m = f32[5,7]{1,0} parameter(1)
  %n = f32[7,6]{1,0} parameter(2)
  %zero = s32[] constant(0)
  %start = (s32[], bf16[2,4,4,3]{3,2,1,0}) tuple(%zero, %x.1)
  %loop = (s32[], bf16[2,4,4,3]{3,2,1,0}) while(%start), condition=%condition, body=%body, metadata={op_name="jit(one)/while"}
  %d = f32[5,6]{1,0} dot(%m, %n), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %r = f32[5,6]{1,0} all-reduce(%d), replica_groups=[1,8]<=[8], to_apply=%sum
}
"""


def by_name(program):
    return {cost.operation.name: cost for cost in program.costs()}


def test_loops_count_as_often_as_they_turn():
    program = Program(TEXT)
    costs = by_name(program)
    # Of 3 taps along a side of 4, padded by 1, the 2 outer places meet 2 and the 2 inner ones 3: 10 of 12, both ways.
    assert costs["f"].flops == 10 * 2 * 2 * 8 * 3 * 10 * 10
    # 2 x 4 x 4 pixels of 3 and of 8 channels, 2 bytes each; the kernel lies on the chip.
    assert costs["f"].bytes == 10 * 2 * 32 * (3 + 8)
    assert costs["f"].calls == 10 and costs["f"].cycles == 1000
    assert costs["less"].calls == 10  # XLA tests once more at the end, for nothing that counts
    assert not program.unknown_trips


def test_products_and_exchanges_outside_of_loops():
    program = Program(TEXT)
    costs = by_name(program)
    assert costs["d"].flops == 2 * 5 * 6 * 7
    assert costs["d"].bytes == 4 * (35 + 42 + 30)
    assert math.isnan(costs["d"].cycles)
    (exchange,) = exchanges(program, program.costs())
    assert exchange == ("all-reduce", "f32", 4 * 30, 1)


def test_a_trip_count_that_the_compiler_knows_is_taken():
    known = TEXT.replace("body=%body, ", 'body=%body, backend_config={"known_trip_count":{"n":"3"}}, ')
    assert by_name(Program(known))["f"].calls == 3


def test_a_loop_of_unknown_length_is_told():
    unknown = TEXT.replace("%ten = s32[] constant(10)", "%ten = s32[] negate(%j)")
    program = Program(unknown)
    assert by_name(program)["f"].calls == 1
    assert program.unknown_trips == ["loop"]


def convolution(shapes, window, labels="b01f_01io->b01f"):
    left, right, out = shapes
    text = f"""HloModule one

ENTRY %main (x: {left}, k: {right}) -> {out} {{
  %x = {left} parameter(0)
  %k = {right} parameter(1)
  ROOT %c = {out} convolution(%x, %k), window={{{window}}}, dim_labels={labels}
}}
"""
    (cost,) = Program(text).costs()
    return cost.flops


@pytest.mark.parametrize(
    ("shapes", "window", "pairs"),
    [
        # 1 x 1: every pixel once.
        (("f32[1,5,1,1]", "f32[1,1,1,1]", "f32[1,5,1,1]"), "size=1x1", 5),
        # Stride 2 over 6 pixels, 3 taps, padded by 1 in front: the first place lacks a tap.
        (("f32[1,6,1,1]", "f32[3,1,1,1]", "f32[1,3,1,1]"), "size=3x1 stride=2x1 pad=1_0x0_0", 8),
        # Its input gradient: 3 numbers with holes between them, spread over 6 places; 8 pairs again.
        (
            ("f32[1,3,1,1]", "f32[3,1,1,1]", "f32[1,6,1,1]"),
            "size=3x1 pad=1_2x0_0 lhs_dilate=2x1 rhs_reversal=1x0",
            8,
        ),
        # Its kernel gradient: the cotangent as a kernel with holes.
        (("f32[1,6,1,1]", "f32[3,1,1,1]", "f32[1,3,1,1]"), "size=3x1 pad=1_0x0_0 rhs_dilate=2x1", 8),
    ],
)
def test_convolutions_count_what_meets_pixels(shapes, window, pairs):
    assert convolution(shapes, window) == 2 * pairs


def test_a_grouped_convolution_sees_its_own_channels():
    shapes = ("f32[2,4,4,6]", "f32[1,1,3,8]", "f32[2,4,4,8]")
    assert convolution(shapes, "size=1x1") == 2 * (2 * 16) * 8 * 3


@pytest.mark.parametrize(
    ("target", "shapes"),
    [
        # 5 pixels, 3 taps padded by 1: 13 pairs; 2 channels to 4, 7 images.
        ("convForward", ("f32[7,2,5,1]", "f32[4,2,3,1]", "f32[7,4,5,1]")),
        ("convBackwardInput", ("f32[7,4,5,1]", "f32[4,2,3,1]", "f32[7,2,5,1]")),
        ("convBackwardFilter", ("f32[7,2,5,1]", "f32[7,4,5,1]", "f32[4,2,3,1]")),
    ],
)
def test_a_convolution_by_cudnn_and_its_gradients_count_alike(target, shapes):
    left, right, out = shapes
    text = f"""HloModule one

ENTRY %main (x: {left}, k: {right}) -> {out} {{
  %x = {left} parameter(0)
  %k = {right} parameter(1)
  %c = ({out}, u8[64]) custom-call(%x, %k), window={{size=3x1 pad=1_1x0_0}}, dim_labels=bf01_oi01->bf01, custom_call_target="__cudnn${target}"
  ROOT %r = {out} get-tuple-element(%c), index=0
}}
"""
    found = [cost for cost in Program(text).costs() if cost.operation.opcode == "custom-call"]
    assert [cost.flops for cost in found] == [2 * 13 * 2 * 4 * 7]


SLICED = """HloModule one

%take (p0: f32[100,8], p1: s32[]) -> f32[1,8] {
  %p0 = f32[100,8]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %z = s32[] constant(0)
  ROOT %s = f32[1,8]{1,0} dynamic-slice(%p0, %p1, %z), dynamic_slice_sizes={1,8}
}

%put (q0: f32[100,8], q1: f32[1,8], q2: s32[]) -> f32[100,8] {
  %q0 = f32[100,8]{1,0} parameter(0)
  %q1 = f32[1,8]{1,0} parameter(1)
  %q2 = s32[] parameter(2)
  %y = s32[] constant(0)
  ROOT %u = f32[100,8]{1,0} dynamic-update-slice(%q0, %q1, %q2, %y)
}

ENTRY %main (a: f32[100,8], i: s32[]) -> f32[100,8] {
  %a = f32[100,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %row = f32[1,8]{1,0} fusion(%a, %i), kind=kLoop, calls=%take
  %copy = (f32[1,8]{1,0:S(1)}, f32[1,8]{1,0}, u32[]{:S(2)}) copy-start(%row)
  %there = f32[1,8]{1,0:S(1)} copy-done(%copy)
  ROOT %all = f32[100,8]{1,0} fusion(%a, %there, %i), kind=kLoop, calls=%put
}
"""


def test_slices_are_not_whole_arrays():
    costs = by_name(Program(SLICED))
    assert costs["row"].bytes == 32 + 32 + 4  # read, written, and the place
    assert costs["copy"].bytes == 32  # into the chip
    assert costs["all"].bytes == 32 + 4  # written; the row lies on the chip


def test_what_was_converted_is_of_its_first_type():
    text = """HloModule one

ENTRY %main (x: bf16[5,7], n: f32[7,6]) -> f32[5,6] {
  x = bf16[5,7] parameter(0)
  n = f32[7,6] parameter(1)
  wide = f32[5,7] convert(x)
  turned = f32[7,5] transpose(wide), dimensions={1,0}
  ROOT d = f32[5,6] dot(turned, n), lhs_contracting_dims={0}, rhs_contracting_dims={0}
}
"""
    program = Program(text)
    (cost,) = program.costs()[-1:]
    assert [program.origin(name, cost.operation) for name in cost.operation.operands] == ["bf16", "f32"]
    assert cost.flops == 2 * 5 * 6 * 7


def test_other_text_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        Program("HloModule nothing\n")
