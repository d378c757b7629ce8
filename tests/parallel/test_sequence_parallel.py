"""A length split over devices: the same numbers, and no device ever sees all pairs of positions."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqzoo.data.batching import BatchConfig
from seqzoo.errors import UserError
from seqzoo.layers.attention import dot_product_attention
from seqzoo.parallel import shards
from seqzoo.parallel.axes import axis_rules
from seqzoo.parallel.mesh import MeshConfig, build_mesh
from seqzoo.training.lengths import refuse_uneven_lengths

SOURCE, TARGET = 40, 24
RING = (('attention_implementation', 'ring'),)


@pytest.fixture(scope='module')
def reference(program, batch):
    return program((), data=1).step(batch)


def assert_same(found, wanted):
    np.testing.assert_allclose(found[0], wanted[0], rtol=2e-6)
    distance = optax.global_norm(jax.tree.map(jnp.subtract, found[1], wanted[1]))
    assert distance <= 1e-5 * optax.global_norm(wanted[1])


@pytest.mark.parametrize(
    ('changes', 'mesh'),
    [
        pytest.param((), {'sequence': 4}, id='all-gather'),
        pytest.param(RING, {'data': 2, 'sequence': 4}, id='ring'),
        pytest.param(
            (*RING, ('remat', 'full'), ('vocab_multiple', 4)),
            {'fsdp': 2, 'tensor': 2, 'sequence': 2},
            id='ring-fsdp-tensor-remat',
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_split_length_takes_the_step_of_one_device(program, batch, reference, changes, mesh):
    # Packed rows, causal and cross attention, dropout of activations and of attention weights.
    assert_same(program(changes, **mesh).step(batch), reference)


def arrays_in(hlo):
    """The sizes of every array of a compiled program."""
    return {tuple(map(int, m.split(','))) for m in re.findall(r'\w\[(\d[\d,]*)\]', hlo)}


def holds(shape, a, b):
    """Whether an array has two dimensions of these sizes."""
    sizes = list(shape)
    return all(n in sizes and (sizes.remove(n) or True) for n in (a, b))


@pytest.mark.parametrize(
    ('queries', 'keys'), [(SOURCE, SOURCE), (TARGET, TARGET), (TARGET, SOURCE)]
)
def test_no_device_holds_all_pairs_of_positions(program, queries, keys):
    whole = arrays_in(program((), data=1).hlo)
    gathered = arrays_in(program((), sequence=4).hlo)
    ring = arrays_in(program(RING, data=2, sequence=4).hlo)
    assert any(holds(shape, queries, keys) for shape in whole)  # so that it would be seen
    for shapes in (gathered, ring):
        assert not any(holds(shape, queries, keys) for shape in shapes)
    assert any(holds(shape, queries // 4, keys) for shape in gathered)
    assert not any(holds(shape, queries // 4, keys) for shape in ring)
    assert any(holds(shape, queries // 4, keys // 4) for shape in ring)


def test_activations_are_split_over_the_length(program):
    for changes, mesh in (((), {'sequence': 4}), (RING, {'data': 2, 'sequence': 4})):
        rows = 8 // mesh.get('data', 1)
        shapes = arrays_in(program(changes, **mesh).hlo)
        for length in (SOURCE, TARGET):
            assert (rows, length // 4, 32) in shapes  # the residual stream
            assert (rows, length, 32) not in shapes
        assert (rows, TARGET // 4, 61) in shapes  # the logits
        assert (rows, TARGET, 61) not in shapes


def test_the_memory_of_a_ring_is_that_of_blocks():
    length, mesh = 1024, build_mesh(MeshConfig(data=1, sequence=8))
    spec = jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32)
    options = {'xla_backend_optimization_level': 0}

    def temporary_bytes(mesh, implementation):
        def loss(*arrays):
            with axis_rules(mesh):
                result = dot_product_attention(*arrays, causal=True, implementation=implementation)
            return jnp.square(result).sum()

        lowered = jax.jit(jax.grad(loss, (0, 1, 2))).lower(spec, spec, spec)
        return lowered.compile(compiler_options=options).memory_analysis().temp_size_in_bytes

    square = 4 * length**2
    assert temporary_bytes(None, 'xla') > square
    assert square / 8 < temporary_bytes(mesh, 'xla') < square
    assert temporary_bytes(mesh, 'ring') < square / 8


def test_tokens_are_decoded_on_a_mesh_that_splits_lengths(program):
    factory = program(RING, data=2, sequence=4).factory
    model, params = factory.model, factory.create().params
    source = jnp.arange(4 * 8, dtype=jnp.int32).reshape(4, 8)

    def logits(params, mesh):
        with axis_rules(mesh):
            memory = model.apply({'params': params}, source, method='encode')
            cache = model.apply({'params': params}, memory, 3, method='init_cache')
            return model.apply({'params': params}, source[:, :2], memory, cache, method='extend')[0]

    on_mesh, alone = (
        jax.jit(logits, static_argnums=1)(place, mesh)
        for place, mesh in ((params, factory.mesh), (jax.device_get(params), None))
    )
    np.testing.assert_allclose(on_mesh, alone, atol=1e-5)


# What a length must be


def test_a_ring_refuses_a_length_that_it_cannot_split_and_auto_does_it_otherwise():
    mesh = build_mesh(MeshConfig(data=2, sequence=4))
    x = jax.random.normal(jax.random.key(0), (2, 10, 1, 4))

    @functools.partial(jax.jit, static_argnums=1)
    def attend(x, implementation):
        with axis_rules(mesh):
            return dot_product_attention(x, x, x, causal=True, implementation=implementation)

    with pytest.raises(UserError, match=r'does not divide 10 .*--batch\.length-multiple'):
        attend(x, 'ring')
    alone = dot_product_attention(x, x, x, causal=True, implementation='ring')
    np.testing.assert_allclose(attend(x, 'auto'), alone, atol=1e-6)


@pytest.mark.parametrize(
    ('changes', 'name'),
    [
        ({'max_length': 130}, 'max_length is 130'),
        ({'length_multiple': 2}, 'length_multiple is 2'),
        ({'buckets': (30, 128)}, 'buckets is 30'),
        ({'packing': True, 'pack_length': 130}, 'pack_length is 130'),
        ({'evaluation_max_length': 130}, 'evaluation_max_length is 130'),
    ],
)
def test_lengths_that_the_mesh_does_not_divide_are_refused_before_training(changes, name):
    batch = BatchConfig(**changes)
    refuse_uneven_lengths(batch, build_mesh(MeshConfig(data=8)))
    with pytest.raises(UserError, match=rf'batch\.{name}.*--batch\.length-multiple'):
        refuse_uneven_lengths(batch, build_mesh(MeshConfig(data=2, sequence=4)))


def test_lengths_that_the_mesh_divides_pass():
    mesh = build_mesh(MeshConfig(data=2, sequence=4))
    refuse_uneven_lengths(BatchConfig(), mesh)
    refuse_uneven_lengths(BatchConfig(buckets=(12, 128), length_multiple=3), mesh)


# The one place that runs programs device by device


def test_a_program_sees_its_own_part_and_knows_where_that_begins():
    mesh = build_mesh(MeshConfig(data=2, tensor=2, sequence=2))
    x = jnp.arange(4 * 6 * 2).reshape(4, 6, 2, 1)
    seen = []

    def local(place, x, scale):
        seen.append((x.shape, scale.shape, dict(place.ways)))
        return x * scale + place.offset('length', x.shape[1])

    names = {'x': ('batch', 'length', 'heads', None), 'scale': ('batch', 'length', 'heads', None)}
    arrays = {'x': x, 'scale': jnp.ones((1, 1, 2, 1), int), 'left out': None}
    with axis_rules(mesh):
        result = shards.per_device(local, arrays, names, names['x'])
    assert seen == [((2, 3, 1, 1), (1, 1, 1, 1), {'batch': 2, 'length': 2, 'heads': 2})]
    offset = np.where(np.arange(6) < 3, 0, 3)[None, :, None, None]
    np.testing.assert_array_equal(result, x + offset)


def test_a_program_finds_axes_that_are_manual_already():
    mesh = build_mesh(MeshConfig(data=2, sequence=4))
    shapes = []

    def local(place, x):
        shapes.append((x.shape, dict(place.ways)))
        return x

    def outer(x):
        with axis_rules(mesh):
            return shards.per_device(
                local, {'x': x}, {'x': ('batch', 'length')}, ('batch', 'length')
            )

    x, spec = jnp.ones((4, 8)), jax.sharding.PartitionSpec('data')
    for manual in ({'data'}, set(mesh.axis_names)):
        run = jax.shard_map(
            outer, mesh=mesh, in_specs=spec, out_specs=spec, axis_names=manual, check_vma=False
        )
        np.testing.assert_array_equal(jax.jit(run)(x), x)
    assert shapes == [((2, 2), {'length': 4}), ((2, 8), {})]


def test_what_the_mesh_does_not_divide_every_device_has_in_full():
    mesh = build_mesh(MeshConfig(data=4, tensor=2))
    shapes = []

    def local(place, x):
        shapes.append((x.shape, dict(place.ways)))
        return x

    names = ('batch', 'heads')
    with axis_rules(mesh):
        shards.per_device(local, {'x': jnp.ones((4, 3))}, {'x': names}, names)
    assert shapes == [((1, 3), {'batch': 4})]
