"""Attention: the lecture's figures, a plain NumPy version, and the fused kernels against XLA."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh

from seqzoo.errors import UserError
from seqzoo.layers import attention_kernels
from seqzoo.layers.attention import (
    attention_weights,
    choose_implementation,
    dot_product_attention,
)
from seqzoo.layers.masks import ancestry_mask, causal_mask, combine_masks, segment_mask
from seqzoo.parallel.axes import axis_rules


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision('highest'):
        yield


def inputs(batch=2, queries=6, keys=7, heads=3, key_dim=8, value_dim=4, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = [(queries, key_dim), (keys, key_dim), (keys, value_dim)]
    return [
        jnp.asarray(rng.normal(size=(batch, length, heads, width)), dtype)
        for length, width in shapes
    ]


def reference(query, key, value, mask):
    """Loops over rows, heads and queries, in float64."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    result = np.zeros((*query.shape[:3], value.shape[3]))
    mask = np.broadcast_to(mask, (query.shape[0], query.shape[2], query.shape[1], key.shape[1]))
    for b, i, h in np.ndindex(*query.shape[:3]):
        scores = key[b, :, h] @ query[b, i, h] / math.sqrt(query.shape[3])
        weights = np.where(mask[b, h, i], np.exp(scores - scores.max()), 0.0)
        result[b, i, h] = weights @ value[b, :, h] / weights.sum()
    return result


def one_query(query, keys, values):
    as_heads = [jnp.asarray(x, jnp.float32)[None, :, None] for x in ([query], keys, values)]
    return np.asarray(dot_product_attention(*as_heads))[0, 0, 0]


def test_dot_products_112_and_96_at_width_64_give_weights_088_and_012():
    query = np.zeros(64)
    query[:2] = 8.0
    keys = np.zeros((2, 64))
    keys[0, 0], keys[1, 1] = 14.0, 12.0
    assert (keys @ query).tolist() == [112.0, 96.0]
    weights = one_query(query, keys, np.eye(2))  # the values are unit vectors: z is the weights
    np.testing.assert_allclose(weights, [0.88, 0.12], atol=0.005)


def test_the_lectures_three_words_give_its_z():
    query = [-1.0, 1.0, 0.0, 1.0]
    e1, e2 = [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]
    z = one_query(query, [e1, e2, e1], [(1.0, 0.0), (0.0, 1.0), (1.0, 0.0)])
    low, high = math.exp(-0.5), math.exp(0.5)
    np.testing.assert_allclose(z, np.array([2 * low, high]) / (2 * low + high), atol=1e-6)


@pytest.mark.parametrize('causal', [False, True])
def test_it_is_the_definition_under_masks_and_segments(causal):
    query, key, value = inputs()
    query_segments = jnp.array([[1, 1, 1, 2, 2, 2], [1, 1, 2, 2, 3, 3]])
    key_segments = jnp.array([[1, 1, 1, 2, 2, 2, 2], [1, 2, 2, 3, 3, 3, 0]])
    if causal:
        key_segments = jnp.concatenate([query_segments, jnp.zeros((2, 1), int)], axis=1)
    mask = jnp.ones((2, 1, 6, 7), bool).at[1, 0, 4, 5].set(False)
    visible = mask & segment_mask(query_segments, key_segments)
    if causal:
        visible &= causal_mask(6, 7)
    ours = dot_product_attention(
        query,
        key,
        value,
        mask=mask,
        query_segments=query_segments,
        key_segments=key_segments,
        causal=causal,
    )
    np.testing.assert_allclose(ours, reference(query, key, value, visible), atol=1e-5)


def test_a_query_that_sees_nothing_gets_finite_numbers_and_gradients():
    query, key, value = inputs()
    mask = jnp.ones((1, 1, 6, 7), bool).at[0, 0, 2].set(False)
    loss, gradients = jax.value_and_grad(
        lambda *x: dot_product_attention(*x, mask=mask).sum(), argnums=(0, 1, 2)
    )(query, key, value)
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in gradients)


def test_segments_of_only_one_side_are_refused():
    with pytest.raises(ValueError, match='together'):
        dot_product_attention(*inputs(), query_segments=jnp.ones((2, 6), int))


@pytest.mark.parametrize(('name', 'platform'), [('splash', 'tpu'), ('cudnn', 'gpu')])
def test_fused_kernels_are_refused_on_other_platforms(name, platform):
    if jax.default_backend() == platform:
        pytest.skip(f'this is a {platform}')
    half = [x.astype(jnp.bfloat16) for x in inputs(value_dim=8)]
    with pytest.raises(UserError, match=f"'{name}' needs a {platform.upper()}, .*choose 'xla'"):
        dot_product_attention(*half, implementation=name)


def test_the_kernel_is_that_of_the_devices_compiled_for_and_not_of_these():
    long = [jax.ShapeDtypeStruct((2, 256, 2, 64), jnp.bfloat16)] * 3
    choose = functools.partial(choose_implementation, 'auto', *long, None, 0.0, False)
    with axis_rules(None, platform='tpu'):
        assert choose() == 'splash'
        with axis_rules(None):  # as inside of a program for each device
            assert choose() == 'splash'
    with axis_rules(None, platform='gpu'):
        assert choose() == 'cudnn'
    with axis_rules(None, platform='cpu'):
        assert choose() == 'xla'


def test_fused_kernels_are_refused_where_they_would_leave_something_out():
    query, key, value = inputs(value_dim=8)
    half = [x.astype(jnp.bfloat16) for x in (query, key, value)]
    drop = {'dropout_rate': 0.1, 'dropout_key': jax.random.key(0)}
    for name in ('splash', 'cudnn'):
        with pytest.raises(ValueError, match='dropout of attention weights'):
            dot_product_attention(*half, implementation=name, **drop)
    with pytest.raises(ValueError, match='arbitrary mask'):
        dot_product_attention(query, key, value, implementation='splash', mask=causal_mask(6, 7))
    with pytest.raises(ValueError, match='16-bit'):
        dot_product_attention(query, key, value, implementation='cudnn')
    with pytest.raises(UserError, match='no attention implementation'):
        dot_product_attention(query, key, value, implementation='flash')
    assert np.isfinite(dot_product_attention(query, key, value, **drop)).all()  # 'auto' finds a way


def test_dropped_weights_are_zero_and_the_others_scaled():
    query, key, _ = inputs()
    value = jnp.broadcast_to(jnp.eye(7)[None, :, None], (2, 7, 3, 7))  # the result is the weights
    weights = attention_weights(query, key, None).swapaxes(1, 2)
    dropped = dot_product_attention(
        query, key, value, dropout_rate=0.5, dropout_key=jax.random.key(0)
    )
    kept = np.asarray(dropped) != 0
    assert 0.3 < kept.mean() < 0.7
    np.testing.assert_allclose(np.asarray(dropped)[kept], 2 * np.asarray(weights)[kept], rtol=1e-5)


@pytest.mark.parametrize(
    ('queries', 'keys', 'causal', 'packed', 'dtype', 'tolerance'),
    [
        pytest.param(40, 150, False, True, jnp.float32, 1e-5, id='segments'),
        pytest.param(130, 130, True, False, jnp.float32, 1e-5, id='causal'),
        pytest.param(130, 130, True, True, jnp.bfloat16, 2e-2, id='causal-segments-bfloat16'),
    ],
)
def test_splash_attention_equals_xla_gradients_too(queries, keys, causal, packed, dtype, tolerance):
    arrays = inputs(1, queries, keys, heads=1, key_dim=64, value_dim=64, dtype=dtype)
    segments = {}
    real = np.ones((1, queries), bool)
    if packed:
        rows = [np.repeat([1, 2, 0], [n // 3, n // 3, n - 2 * (n // 3)]) for n in (queries, keys)]
        segments = {
            'query_segments': jnp.asarray(rows[0])[None],
            'key_segments': jnp.asarray(rows[1])[None],
        }
        real = (rows[0] > 0)[None]
    direction = np.random.default_rng(1).normal(size=(1, queries, 1, 64)) * real[..., None, None]

    def loss(implementation, *arrays):
        result = dot_product_attention(
            *arrays, causal=causal, implementation=implementation, **segments
        )
        return (result.astype(jnp.float32) * direction).mean(), result

    run = jax.value_and_grad(loss, argnums=(1, 2, 3), has_aux=True)
    (_, expected), expected_gradients = run('xla', *arrays)
    with pltpu.force_tpu_interpret_mode():
        (_, ours), gradients = run('splash', *arrays)
    compare = (ours, *gradients), (expected, *expected_gradients)
    for a, b in zip(*compare, strict=True):
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        if a.shape[1] == queries and packed:
            a, b = a[:, real[0]], b[:, real[0]]
        np.testing.assert_allclose(a, b, atol=tolerance * max(1.0, np.abs(b).max()))


def mesh_of(*sizes):
    """Axes data, tensor, sequence."""
    count = math.prod(sizes)
    if jax.device_count() < count:
        pytest.skip(f'needs {count} devices')
    return Mesh(np.array(jax.devices()[:count]).reshape(sizes), ('data', 'tensor', 'sequence'))


def with_gradients(mesh, implementation, arrays, **options):
    """The result on a mesh, and the gradients for query, key and value."""
    direction = jnp.asarray(
        np.random.default_rng(1).normal(size=(*arrays[0].shape[:3], arrays[2].shape[3]))
    )

    def loss(*arrays):
        with axis_rules(mesh):
            result = dot_product_attention(*arrays, implementation=implementation, **options)
        return (result * direction).sum(), result

    run = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True)).lower(*arrays)
    run = run.compile(compiler_options={'xla_backend_optimization_level': 0})
    (_, result), gradients = run(*arrays)
    return (result, *gradients)


PACKED = np.array([[1] * 5 + [2] * 7 + [0] * 4, [1] * 16], np.int32)


@pytest.mark.parametrize(
    ('keys', 'options'),
    [
        pytest.param(16, {'causal': True, 'packed': True, 'drop': True}, id='causal-packed-drop'),
        pytest.param(32, {'packed': True, 'masked': True}, id='cross-packed-masked'),
    ],
)
def test_a_length_split_over_devices_changes_nothing(keys, options):
    """A query of the mask sees nothing at all: that, too, is the same."""
    arrays = inputs(2, 16, keys, heads=2)
    given = {'causal': options.get('causal', False)}
    if 'packed' in options:
        given['query_segments'] = jnp.asarray(PACKED)
        given['key_segments'] = jnp.asarray(np.repeat(PACKED, keys // 16, axis=1))
    if 'masked' in options:
        mask = np.random.default_rng(2).random((2, 1, 16, keys)) < 0.7
        mask[0, 0, 3] = False
        given['mask'] = jnp.asarray(mask)
    if 'drop' in options:
        given |= {'dropout_rate': 0.3, 'dropout_key': jax.random.key(3)}
    expected = with_gradients(None, 'xla', arrays, **given)
    for implementation, mesh in (('ring', mesh_of(2, 2, 2)), ('xla', mesh_of(2, 1, 4))):
        for a, b in zip(
            with_gradients(mesh, implementation, arrays, **given), expected, strict=True
        ):
            np.testing.assert_allclose(a, b, atol=3e-6)


def test_long_inputs_that_are_split_take_the_ring_by_themselves():
    mesh = mesh_of(2, 1, 4)

    def chosen(length, implementation='auto'):
        x = jax.ShapeDtypeStruct((2, length, 1, 8), jnp.float32)

        def attend(x):
            with axis_rules(mesh):
                return dot_product_attention(x, x, x, implementation=implementation)

        return 'ring' if 'ppermute' in str(jax.make_jaxpr(attend)(x)) else 'gathered'

    assert chosen(1024) == chosen(8, 'ring') == 'ring'
    assert chosen(8) == chosen(1026) == chosen(1024, 'xla') == 'gathered'


def test_fused_kernels_refuse_to_be_causal_over_a_split_length():
    x = jnp.ones((2, 16, 1, 8))
    refused = pytest.raises(UserError, match=r"'splash' cannot be causal .* choose 'ring'")
    with axis_rules(mesh_of(2, 1, 4)), pltpu.force_tpu_interpret_mode(), refused:
        dot_product_attention(x, x, x, implementation='splash', causal=True)


@pytest.mark.parametrize('sizes', [(4, 2, 1), (2, 2, 2)], ids=['rows-heads', 'rows-heads-queries'])
def test_splash_attention_on_a_mesh_equals_one_device(sizes):
    mesh = mesh_of(*sizes)
    rows = sizes[0]  # one for each device: more is beyond the interpreter
    query, key, value = inputs(rows, 20, 24, heads=2, key_dim=64, value_dim=64)
    segments = jnp.array([[1, 2], [1, 0]] * (rows // 2))
    query_segments, key_segments = (jnp.repeat(segments, n, axis=1) for n in (10, 12))

    @jax.jit
    def attend(query, key, value):
        with axis_rules(mesh), pltpu.force_tpu_interpret_mode():
            return dot_product_attention(
                query,
                key,
                value,
                query_segments=query_segments,
                key_segments=key_segments,
                implementation='splash',
            )

    mask = segment_mask(query_segments, key_segments)
    result = attend(query, key, value)
    local = (1, 20 // sizes[2], 2 // sizes[1], 64)
    assert {shard.data.shape for shard in result.addressable_shards} == {local}
    np.testing.assert_allclose(result, reference(query, key, value, mask), atol=1e-5)


def test_cudnn_attention_on_a_mesh_sees_its_own_rows_and_heads(monkeypatch):
    mesh, seen, original = mesh_of(4, 2, 1), [], jax.nn.dot_product_attention

    def stand_in(query, key, value, *, mask, is_causal, implementation):
        assert implementation == 'cudnn'
        seen.append((query.shape, key.shape, mask.shape))
        return original(query, key, value, mask=mask, is_causal=is_causal)

    monkeypatch.setattr(jax.nn, 'dot_product_attention', stand_in)
    monkeypatch.setattr(attention_kernels, 'platform_obstacle', lambda name: None)
    arrays = [x.astype(jnp.bfloat16) for x in inputs(4, 6, 6, heads=2, value_dim=8)]
    segments = jnp.array([[1, 1, 2, 2, 2, 0]] * 4)
    options = {'causal': True, 'query_segments': segments, 'key_segments': segments}

    @jax.jit
    def attend(*arrays):
        with axis_rules(mesh):
            return dot_product_attention(*arrays, implementation='cudnn', **options)

    expected = dot_product_attention(*arrays, implementation='xla', **options)
    result, real = attend(*arrays), np.asarray(segments) > 0
    assert seen == [((1, 6, 1, 8), (1, 6, 1, 8), (1, 1, 6, 6))]
    ours, theirs = (np.asarray(x, np.float32)[real] for x in (result, expected))
    np.testing.assert_allclose(ours, theirs, atol=2e-2)


@pytest.mark.parametrize('causal', [False, True])
def test_cudnn_attention_equals_xla(causal):
    if jax.default_backend() != 'gpu':
        pytest.skip('cuDNN attention needs a GPU')
    arrays = inputs(2, 64, 64, key_dim=64, value_dim=64, dtype=jnp.bfloat16)
    segments = jnp.repeat(jnp.array([[1, 2], [1, 0]]), 32, axis=1)
    options = {'causal': causal, 'query_segments': segments, 'key_segments': segments}
    direction = (
        np.random.default_rng(1).normal(size=(2, 64, 3, 64)) * (segments > 0)[..., None, None]
    )

    def loss(implementation, *arrays):
        result = dot_product_attention(*arrays, implementation=implementation, **options)
        return (result.astype(jnp.float32) * direction).mean()

    for a, b in zip(
        jax.grad(loss, (1, 2, 3))('cudnn', *arrays),
        jax.grad(loss, (1, 2, 3))('xla', *arrays),
        strict=True,
    ):
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        np.testing.assert_allclose(a, b, atol=2e-2 * max(1e-3, np.abs(b).max()))


def test_masks_combine_by_conjunction():
    assert combine_masks(None, None) is None
    a, b = jnp.array([True, True, False]), jnp.array([True, False, True])
    np.testing.assert_array_equal(combine_masks(a, None, b), [True, False, False])


def test_the_ancestry_mask_follows_one_path_of_slots():
    ancestry = jnp.array([[[0, 1, 1, 0], [0, 0, 2, 0], [1, 1, 0, 0]]])  # [batch, beams, time]
    mask = np.asarray(ancestry_mask(ancestry, jnp.int32(2))).reshape(3, 4, 3)
    expected = np.zeros((3, 4, 3), bool)
    for beam in range(3):
        for time in range(3):
            expected[beam, time, ancestry[0, beam, time]] = True
    np.testing.assert_array_equal(mask, expected)
