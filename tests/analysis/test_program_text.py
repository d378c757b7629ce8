"""Programs read from text written by hand, in the words of XLA on TPU, and from a compiled one."""

import jax
import jax.numpy as jnp
import pytest

from seqzoo.analysis.collectives import collectives
from seqzoo.analysis.compile_report import kernels
from seqzoo.analysis.memory_traffic import bytes_moved
from seqzoo.analysis.program_text import ENTRY, arrays_of, parse, runs
from seqzoo.parallel.loops import loop_over

# ruff: noqa: E501
TPU = """\
HloModule jit_step, is_scheduled=true

%all-reduce-scatter.1 (input: f32[128,4]) -> f32[32,4] {
  %input = f32[128,4]{1,0:T(8,128)} parameter(0)
  %all-reduce.9 = f32[128,4]{1,0:T(8,128)} all-reduce(%input), channel_id=7, replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %dynamic-slice.9 = f32[32,4]{1,0:T(8,128)} dynamic-slice(%all-reduce.9, %zero, %zero), dynamic_slice_sizes={32,4}
}

%begun (p: bf16[8]) -> bf16[32] {
  %p = bf16[8]{0} parameter(0)
  ROOT %all-gather.1 = bf16[32]{0} all-gather(%p), replica_groups=mesh['axis_0'=4,'axis_1'=4], device_ids=([4,4]T(1,0)) {'axis_0'}, dimensions={0}, backend_config={"async_collective_fusion_config":{"flag_start":"-1","flag_end":"-1"}}
}

%beside (p: bf16[8]) -> bf16[32] {
  %p = bf16[8]{0} parameter(0)
  ROOT %all-gather.2 = bf16[32]{0} all-gather(%p), replica_groups=mesh['axis_0'=4,'axis_1'=4], device_ids=([4,4]T(1,0)) {'axis_0'}, dimensions={0}, backend_config={"async_collective_fusion_config":{"flag_start":"2","flag_end":"8"}}
}

%of_one_layer (stack: f32[6,128,128], at: s32[]) -> f32[128,128] {
  %stack = f32[6,128,128]{2,1,0:T(8,128)} parameter(0)
  %at = s32[]{:T(128)} parameter(1)
  %one = f32[1,128,128]{2,1,0:T(8,128)} dynamic-slice(%stack, %at, %zero, %zero), dynamic_slice_sizes={1,128,128}
  ROOT %flat = f32[128,128]{1,0:T(8,128)S(1)} bitcast(%one)
}

%outer (stack: f32[6,128,128], at: s32[]) -> f32[128,128] {
  %stack = f32[6,128,128]{2,1,0:T(8,128)} parameter(0)
  %at = s32[]{:T(128)} parameter(1)
  ROOT %inner = f32[128,128]{1,0:T(8,128)S(1)} fusion(%stack, %at), kind=kLoop, calls=%of_one_layer
}

%written (stack: f32[6,128,128], row: f32[1,128,128], at: s32[]) -> f32[6,128,128] {
  %stack = f32[6,128,128]{2,1,0:T(8,128)} parameter(0)
  %row = f32[1,128,128]{2,1,0:T(8,128)} parameter(1)
  %at = s32[]{:T(128)} parameter(2)
  ROOT %put = f32[6,128,128]{2,1,0:T(8,128)} dynamic-update-slice(%stack, %row, %at, %zero, %zero)
}

%body (state: (s32[], f32[6,128,128])) -> (s32[], f32[6,128,128]) {
  %state = (s32[]{:T(128)}, f32[6,128,128]{2,1,0:T(8,128)}) parameter(0)
  %count = s32[]{:T(128)} get-tuple-element(%state), index=0
  %stack = f32[6,128,128]{2,1,0:T(8,128)} get-tuple-element(%state), index=1
  %taken = f32[128,128]{1,0:T(8,128)S(1)} fusion(%stack, %count), kind=kLoop, calls=%outer
  %summed = f32[32,4]{1,0:T(8,128)} fusion(%grad), kind=kCustom, calls=%all-reduce-scatter.1, metadata={op_name="jit(step)/transpose(jvp(layer_scan))/while/body/up"}
  ROOT %next = (s32[]{:T(128)}, f32[6,128,128]{2,1,0:T(8,128)}) tuple(%count, %stack)
}

%condition (state: (s32[], f32[6,128,128])) -> pred[] {
  %state = (s32[]{:T(128)}, f32[6,128,128]{2,1,0:T(8,128)}) parameter(0)
  %limit = s32[]{:T(128)} constant(6)
  %count = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %below = pred[]{:T(512)} compare(%count, %limit), direction=LT
}

ENTRY %main (x: f32[6,128,128], row: f32[1,128,128]) -> f32[6,128,128] {
  %x = f32[6,128,128]{2,1,0:T(8,128)} parameter(0)
  %row = f32[1,128,128]{2,1,0:T(8,128)} parameter(1)
  %small = bf16[8]{0} parameter(2)
  %begin = bf16[32]{0} fusion(%small), kind=kCustom, calls=%begun
  %going = bf16[32]{0} fusion(%small), kind=kCustom, calls=%beside
  %kernel = f32[8,128]{1,0:T(8,128)} custom-call(%row), custom_call_target="tpu_custom_call", metadata={op_name="jit(step)/splash_mha_fwd"}
  %init = (s32[]{:T(128)}, f32[6,128,128]{2,1,0:T(8,128)}) tuple(%zero, %x)
  %while.1 = (s32[]{:T(128)}, f32[6,128,128]{2,1,0:T(8,128)}) while(%init), condition=%condition, body=%body, metadata={op_name="jit(step)/transpose(jvp(layer_scan))/while"}
  ROOT %result = f32[6,128,128]{2,1,0:T(8,128)} fusion(%x, %row, %zero), kind=kLoop, calls=%written
}
"""
LAYER = 4 * 128 * 128


@pytest.fixture(scope='module')
def program():
    return parse(TPU)


@pytest.mark.parametrize(
    ('shape', 'stored'),
    [
        ('f32[]{:T(128)}', 4 * 128),
        ('f32[2,32]{1,0:T(2,128)}', 4 * 2 * 128),
        # Axis 0 runs fastest: it is filled up to 128, axis 1 to 8.
        ('f32[256,300]{0,1:T(8,128)}', 4 * 304 * 256),
        ('bf16[3,40,4,32]{1,3,2,0:T(8,128)(2,1)S(1)}', 2 * 3 * 4 * 32 * 128),
        ('f32[8,16]{1,0}', 4 * 8 * 16),
        ('(s32[2]{0}, u8[3]{0})', 8 + 3),
    ],
)
def test_arrays_take_whole_tiles(shape, stored):
    assert sum(array.stored_bytes for array in arrays_of(shape)) == stored


def test_fast_memory_is_told_from_main_memory():
    near, far, default = arrays_of('(f32[8]{0:T(128)S(1)}, f32[8]{0:T(128)}, f32[8]{0:S(0)})')
    assert [near.on_chip, far.on_chip, default.on_chip] == [True, False, False]
    assert near.text == 'f32[8]'


def test_a_loop_that_counts_to_a_constant_says_how_often_it_runs(program):
    (loop,) = program.loops['body']
    assert (loop.kind, loop.trips) == ('layer_scan', 6)
    assert program.loops[ENTRY] == ()
    other = parse(TPU.replace('direction=LT', 'direction=NE'))
    assert runs(other.loops['body']) is None


def test_a_sum_that_is_scattered_counts_as_what_it_keeps(program):
    scatter, gather = collectives(program)
    assert (scatter.kind, scatter.bytes, scatter.members) == ('reduce-scatter', 512, (0, 1, 2, 3))
    assert (scatter.place, scatter.times) == ('layer_scan', 6)
    assert scatter.source.endswith('up')  # of the fusion around it
    # Begun once, and not counted again where it runs beside something else. Along `axis_0` of a
    # mesh whose devices are counted through the other way round.
    assert (gather.kind, gather.bytes, gather.place) == ('all-gather', 64, 'outside')
    assert gather.members == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ('text', 'members'),
    [
        ('replica_groups={{0,4},{1,5}}', (0, 4)),
        ('replica_groups=[2,4]<=[8]', (0, 1, 2, 3)),
        ('replica_groups=[4,2]<=[2,4]T(1,0)', (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=8] {'a':(1)2}", (0, 4)),
        ("replica_groups=mesh['a'=8] {'a':(2)4}", (0, 1, 2, 3)),
        ('', ()),
    ],
)
def test_members_of_a_group_are_known_however_they_are_written(text, members):
    line = f'  ROOT %r = f32[8]{{0}} all-reduce(%x), {text}, to_apply=%add'
    (found,) = collectives(f'ENTRY %main (x: f32[8]) -> f32[8] {{\n{line}\n}}\n')
    assert found.members == members
    assert found.group == len(members)


def test_bytes_are_counted_as_often_as_loops_run_and_only_of_what_is_touched(program):
    scalar = 4 * 128  # a whole tile
    # Of a stack one layer is read, however deep inside of fusions; what lies near costs nothing.
    of_one_layer = LAYER + scalar
    scattered = 4 * 128 * 128 + 4 * 32 * 128  # columns are filled up from 4 to 128
    condition = 512 + 2 * scalar
    in_place = 2 * LAYER + scalar  # a row is read and written, of the rest nothing
    kernel = LAYER + 4 * 8 * 128
    small = 2 * 2 * (8 + 32)
    expected = 6 * (of_one_layer + scattered + condition) + in_place + kernel + small
    assert bytes_moved(program) == expected
    unknown = parse(TPU.replace('direction=LT', 'direction=NE'))
    once = expected - 5 * (of_one_layer + scattered + condition)
    assert bytes_moved(unknown) == once
    assert bytes_moved(unknown, unknown_trips=6) == expected


def test_kernels_are_named_by_what_they_do(program):
    assert kernels(program) == {'splash attention': 1}


def test_the_names_of_loops_survive_compilation_and_differentiation():
    def step(x, weights):
        def layer(x, w):
            def time(x, _):
                return jnp.tanh(x @ w), None

            with loop_over('time_scan'):
                return jax.lax.scan(time, x, length=5)[0], None

        with loop_over('layer_scan'):
            return jnp.sum(jax.lax.scan(layer, x, weights)[0])

    x, weights = jnp.ones((4, 4)), jnp.ones((3, 4, 4))
    text = jax.jit(jax.grad(step, argnums=1)).lower(x, weights).compile().as_text()
    program = parse(text)
    kinds = {tuple(loop.kind for loop in loops): runs(loops) for loops in program.loops.values()}
    assert kinds[('layer_scan',)] == 3
    assert kinds[('layer_scan', 'time_scan')] == 15
