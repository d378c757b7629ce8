"""Collectives read from the text of compiled programs, simulated devices and written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqzoo.analysis.collectives import collectives, traffic

# The asynchronous forms of TPU and GPU, in the words of XLA; no backend here writes them.
# ruff: noqa: E501
ASYNCHRONOUS = """\
HloModule jit_f, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %c = f32[] add(%a, %b)
}

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %cp = (f32[8,4]{1,0}, f32[8,4]{1,0}, u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1},{1,2},{2,3},{3,0}}, metadata={op_name="ring/ppermute"}
  %cpd = f32[8,4]{1,0} collective-permute-done(%cp)
}

%condition (p: (s32[], f32[8,4])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %ag = (bf16[2,4]{1,0:T(8,128)}, bf16[8,4]{1,0:T(8,128)}) all-gather-start(%x), replica_groups=[2,4]<=[8], dimensions={0}
  %agd = bf16[8,4]{1,0} all-gather-done(%ag)
  %ars = (f32[16]{0}, pred[3]{0}) all-reduce-start(%y, %z), replica_groups={{0,1},{2,3}}, to_apply=%add
  %ard = (f32[16]{0}, pred[3]{0}) all-reduce-done(%ars)
  %rs = f32[2,4]{1,0} reduce-scatter(%agd), replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0':(1)2,'axis_1'}, to_apply=%add
  ROOT %while.7 = (s32[], f32[8,4]{1,0}) while(%t), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
}
"""


def test_asynchronous_collectives_are_counted_once_by_their_result():
    permute, gather, reduce, scatter = collectives(ASYNCHRONOUS)
    assert (permute.kind, permute.bytes, permute.group) == ('collective-permute', 128, 4)
    assert (permute.in_loop, permute.times, permute.source) == (True, 3, 'ring/ppermute')
    assert (gather.kind, gather.bytes, gather.group, gather.in_loop) == ('all-gather', 64, 4, False)
    assert (reduce.kind, reduce.bytes, reduce.group) == ('all-reduce', 67, 2)
    assert (scatter.kind, scatter.bytes, scatter.group) == ('reduce-scatter', 32, 4)
    total = traffic([permute, gather, reduce, scatter])
    assert total['collective-permute'].bytes == 3 * 128
    assert (total['all-gather'].count, total['all-gather'].in_loops) == (1, 0)


def test_a_loop_that_does_not_say_how_often_it_runs_is_known_as_one():
    unknown = ASYNCHRONOUS.replace('backend_config={"known_trip_count":{"n":"3"}}', '')
    permute = collectives(unknown)[0]
    assert (permute.in_loop, permute.times) == (True, None)
    assert traffic([permute])['collective-permute'].bytes == 128


@pytest.fixture(scope='module')
def mesh():
    if jax.device_count() < 8:
        pytest.skip('needs 8 devices')
    return Mesh(np.array(jax.devices()).reshape(2, 4), ('x', 'y'))


def text(mesh, function, spec):
    array = jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=NamedSharding(mesh, spec))
    return jax.jit(function).lower(array).compile().as_text()


def test_the_collectives_of_this_backend_are_found_in_loops_and_out_of_them(mesh):
    spec = PartitionSpec('x', 'y')
    ring = [(i, (i + 1) % 4) for i in range(4)]

    def local(x):
        def outer(x, _):
            def inner(x, _):
                return jnp.sin(jax.lax.ppermute(x, 'y', ring)), None

            return jax.lax.scan(inner, x, length=3)[0], None

        x = jax.lax.scan(outer, x, length=5)[0]
        return jax.lax.all_gather(x, 'x'), jax.lax.psum(x, ('x', 'y'))

    mapped = jax.shard_map(
        local, mesh=mesh, in_specs=spec, out_specs=(spec, PartitionSpec()), check_vma=False
    )
    found = {c.kind: c for c in collectives(text(mesh, mapped, spec))}
    permute = found['collective-permute']
    assert (permute.in_loop, permute.times, permute.bytes, permute.group) == (True, 15, 16, 4)
    gather = found['all-gather']
    assert (gather.in_loop, gather.times, gather.bytes, gather.group) == (False, 1, 32, 2)
    reduce = found['all-reduce']
    assert (reduce.times, reduce.bytes, reduce.group) == (1, 16, 8)


def test_a_program_without_communication_has_none(mesh):
    assert collectives(text(mesh, jnp.sin, PartitionSpec('x', 'y'))) == []
