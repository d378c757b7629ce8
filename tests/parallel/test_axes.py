"""Axis names: checked where they are written, laid over a mesh where rules say so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from seqzoo.errors import UserError
from seqzoo.parallel.axes import (
    DEFAULT_RULES,
    axis_rules,
    constrain,
    named,
    partition_spec,
    target_platform,
)
from seqzoo.parallel.mesh import MeshConfig, build_mesh, put_rows, row_shards


def mesh_of(**sizes):
    return build_mesh(MeshConfig(**sizes))


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match='embeding'):
        named(jax.nn.initializers.zeros, 'embeding')


def test_a_parameter_needs_a_name_for_every_dimension():
    init = named(jax.nn.initializers.zeros, 'embed', 'mlp')
    with pytest.raises(ValueError, match=r'\(2, 3, 4\)'):
        init(jax.random.key(0), (2, 3, 4))


def test_axes_of_size_one_vanish_and_no_mesh_axis_is_used_twice():
    mesh = mesh_of(data=2, fsdp=2, tensor=2)
    names = ('embed', 'heads', 'kv')
    assert partition_spec(names, DEFAULT_RULES, mesh) == PartitionSpec('fsdp', 'tensor', None)
    assert partition_spec(names, DEFAULT_RULES, mesh_of(data=8)) == PartitionSpec(None, None, None)
    assert partition_spec(('batch', 'embed'), DEFAULT_RULES, mesh) == PartitionSpec(
        ('data', 'fsdp'), None
    )


def test_constrain_is_really_in_the_program():
    mesh = mesh_of(data=4, tensor=2)

    def function(x):
        with axis_rules(mesh):
            return constrain(x * 2, 'batch', 'mlp')

    assert 'sharding_constraint' in jax.jit(function).lower(jnp.ones((8, 4))).as_text()
    assert (
        'sharding_constraint'
        not in jax.jit(lambda x: constrain(x, 'batch', 'mlp')).lower(jnp.ones((8, 4))).as_text()
    )


def test_the_platform_is_that_of_the_mesh_also_where_arrays_are_local():
    assert target_platform() == jax.default_backend()
    with axis_rules(mesh_of(data=8)):
        assert target_platform() == jax.devices()[0].platform
    with axis_rules(None, platform='tpu'), axis_rules(None):
        assert target_platform() == 'tpu'


def test_a_mesh_without_rules_is_refused_rather_than_ignored():
    with jax.set_mesh(mesh_of(data=8)), pytest.raises(ValueError, match='axis_rules'):
        constrain(jnp.ones((8, 2)), 'batch', 'embed')


def test_constrain_checks_the_rank():
    with pytest.raises(ValueError, match='axis names'):
        constrain(jnp.ones((2, 3)), 'batch')


def test_meshes_that_do_not_fit_are_refused_with_the_count():
    with pytest.raises(UserError, match='8'):
        mesh_of(data=3, tensor=1)
    with pytest.raises(UserError, match='does not divide'):
        mesh_of(tensor=3)
    with pytest.raises(UserError, match='at most one'):
        MeshConfig(data=-1, fsdp=-1)


def test_rows_are_spread_over_data_and_fsdp():
    mesh = mesh_of(data=2, fsdp=2, tensor=2)
    assert row_shards(mesh) == 4
    batch = put_rows({'x': np.arange(8).reshape(8, 1)}, mesh)
    assert {s.data.shape for s in batch['x'].addressable_shards} == {(2, 1)}
