"""The mixture of experts: gates and losses against NumPy, dispatch, balance over shards."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from jax.sharding import Mesh, PartitionSpec

from seqzoo.errors import ConfigError
from seqzoo.layers.mixture import MixtureConfig, MixtureOfExperts
from seqzoo.layers.recurrent import RecurrentConfig, RecurrentStack
from seqzoo.layers.recurrent_cells import LSTM
from seqzoo.parallel import axes, prng
from seqzoo.parallel.mesh import MeshConfig, build_mesh, rows_sharding, shardings_of

KEY = jax.random.key(7)
BATCH, LENGTH, EMBED, EXPERTS, K = 4, 5, 6, 8, 2
MASK = jnp.arange(LENGTH)[None] < jnp.array([5, 3, 4, 1])[:, None]


def build(**more):
    config = MixtureConfig(num_experts=EXPERTS, top_k=K, mlp_dim=7, **more)
    return MixtureOfExperts(config, jnp.float32)


@pytest.fixture(scope='module')
def network():
    x = np.random.default_rng(0).normal(size=(BATCH, LENGTH, EMBED)).astype(np.float32)
    params = meta.unbox(jax.jit(build().init)(jax.random.key(0), x))['params']
    keys = jax.random.split(jax.random.key(1), 2)
    for name, key in zip(('gate_kernel', 'noise_kernel'), keys, strict=True):
        assert not params[name].any()  # as the paper starts
        params[name] = jax.random.normal(key, params[name].shape)
    return {'params': params}, x


@functools.partial(jax.jit, static_argnames=('module', 'train'))
def apply(module, params, x, mask=MASK, rngs=None, train=False):
    collect = ['intermediates']
    return module.apply(params, x, mask=mask, rngs=rngs, train=train, mutable=collect)


def test_each_token_gets_its_two_best_experts_weighted_by_their_softmax(network):
    params, x = network
    found, sown = apply(build(), params, x)
    p = {name: np.asarray(value, np.float64) for name, value in params['params'].items()}
    expected, count = np.zeros_like(x), np.zeros(EXPERTS)
    importance = np.zeros(EXPERTS)
    for row, step in zip(*np.nonzero(MASK), strict=True):
        token = x[row, step].astype(np.float64)
        scores = token @ p['gate_kernel']
        best = np.argsort(-scores)[:K]
        gates = np.exp(scores[best]) / np.exp(scores[best]).sum()
        for gate, expert in zip(gates, best, strict=True):
            hidden = np.maximum(token @ p['up_kernel'][expert], 0)
            expected[row, step] += gate * hidden @ p['down_kernel'][expert]
            count[expert] += 1
            importance[expert] += gate
    np.testing.assert_allclose(found.features, expected, rtol=1e-4, atol=1e-5)
    (share,) = sown['intermediates']['expert_share']
    np.testing.assert_allclose(share, count / count.sum(), rtol=1e-6)
    for name, values in (('importance', importance), ('load', count)):
        variation = values.var() / values.mean() ** 2
        np.testing.assert_allclose(found.losses[name], 0.1 * variation, rtol=1e-5)


def test_load_is_the_probability_of_being_chosen_with_new_noise(network):
    """Equation 9 by drawing the noise of one expert many times, all others' held."""
    from seqzoo.layers.mixture import _chance

    rng = np.random.default_rng(0)
    clean, spread = rng.normal(size=EXPERTS), np.abs(rng.normal(size=EXPERTS)) + 0.2
    noisy = clean + spread * rng.normal(size=EXPERTS)
    found = _chance(*(jnp.asarray(a, jnp.float32) for a in (clean, spread, noisy)), K)
    for expert in range(EXPERTS):
        others = np.sort(np.delete(noisy, expert))[::-1]
        drawn = clean[expert] + spread[expert] * rng.normal(size=20_000)
        assert abs(found[expert] - (drawn > others[K - 1]).mean()) < 0.015


@pytest.mark.parametrize('group', ['row', 'batch'])
def test_with_room_for_all_the_places_give_what_every_expert_everywhere_gives(network, group):
    params, x = network

    def run(module):
        def loss(params, x):
            output, sown = apply(module, params, x)
            return jnp.sum(jnp.sin(output.features)), (output.features, sown)

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)

    (_, (dense, _)), dense_gradient = run(build())
    module = build(dispatch='capacity', capacity_factor=EXPERTS / K, group=group)
    (_, (places, sown)), gradient = run(module)
    np.testing.assert_allclose(places, dense, rtol=1e-5, atol=1e-6)
    assert sown['intermediates']['overflow'] == (0.0,)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(dense_gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_what_finds_no_place_is_left_out_and_reported(network):
    params, x = network
    module = build(dispatch='capacity', capacity_factor=0.1)  # one place per expert and row
    found, sown = apply(module, params, x)
    (overflow,) = sown['intermediates']['overflow']
    assert 0 < overflow < 1
    dense, _ = apply(build(), params, x)
    # A row of one real token never overflows; no other row changes what a row gets.
    np.testing.assert_allclose(found.features[3], dense.features[3], rtol=1e-5, atol=1e-6)
    alone, _ = apply(module, params, x[:1], MASK[:1])
    np.testing.assert_allclose(alone.features, found.features[:1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('before', [0, 6])
def test_a_row_gets_the_same_however_far_it_is_padded(network, before):
    params, x = network
    module = build(dispatch='capacity', capacity_factor=1.0)
    rows = [(0, 0), (before, 11 - before), (0, 0)]
    padded, mask = np.pad(x, rows, constant_values=1.0), np.pad(MASK, rows[:2])
    found, sown = apply(module, params, padded, jnp.asarray(mask))
    short, expected = apply(module, params, x)
    assert 0 < expected['intermediates']['overflow'][0] == sown['intermediates']['overflow'][0]
    got = found.features[:, before : before + LENGTH]
    np.testing.assert_allclose(got, short.features, rtol=1e-5, atol=1e-6)


def test_noise_belongs_to_the_row_and_only_to_training(network):
    params, x = network
    rngs = {'dropout': jax.random.key(5)}
    clean, _ = apply(build(), params, x)
    noisy, _ = apply(build(), params, x, train=True, rngs=rngs)
    assert np.abs(noisy.features - clean.features).max() > 1e-3
    with prng.example_rows(jnp.arange(2, 4)):
        part = build().apply(params, x[2:], mask=MASK[2:], train=True, rngs=rngs)
    np.testing.assert_allclose(part.features, noisy.features[2:], rtol=1e-5, atol=1e-6)


def test_balance_is_that_of_the_whole_batch_on_every_shard(network):
    params, x = network
    whole, sown = apply(build(), params, x)
    mesh = Mesh(np.array(jax.devices()[:4]), ('data',))

    def local(x, mask):
        with axes.axis_rules(None, manual=('data',)):
            output, sown = build().apply(params, x, mask=mask, mutable=['intermediates'])
        return output.losses, sown['intermediates']['expert_share'][0]

    rows = PartitionSpec('data')
    split = jax.shard_map(
        local, mesh=mesh, in_specs=(rows, rows), out_specs=PartitionSpec(), check_vma=False
    )
    losses, share = jax.jit(split)(x, MASK)
    for name, value in whole.losses.items():
        np.testing.assert_allclose(losses[name], value, rtol=1e-5)
    np.testing.assert_allclose(share, sown['intermediates']['expert_share'][0], rtol=1e-6)


def test_experts_may_lie_on_different_devices(network):
    params, x = network
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ('data', 'tensor'))
    module = build(dispatch='capacity', capacity_factor=EXPERTS / K)

    def run(params, x):
        with axes.axis_rules(mesh):
            return module.apply(params, x, mask=MASK).features

    placed = jax.jit(run)(params, x)
    np.testing.assert_allclose(placed, apply(build(), params, x)[0].features, rtol=1e-5, atol=1e-6)
    boxed = jax.eval_shape(module.init, jax.random.key(0), x)['params']['up_kernel']
    assert axes.partition_spec(boxed.names, axes.DEFAULT_RULES, mesh)[0] == 'tensor'


@pytest.mark.parametrize('dispatch', ['capacity', pytest.param('dense', marks=pytest.mark.slow)])
def test_tokens_go_to_the_devices_of_their_experts_and_come_back(network, dispatch):
    """Rows and experts split the same devices: values and gradients are those of one device."""
    params, x = network
    x, mask = (jnp.concatenate([a, jnp.flip(a, 0)]) for a in (x, MASK))
    module = build(dispatch=dispatch, capacity_factor=1.5)
    mesh = build_mesh(MeshConfig(data=2, expert=4))
    boxed = jax.eval_shape(module.init, jax.random.key(0), x)['params']
    places = {'params': shardings_of(boxed, mesh)}
    assert places['params']['up_kernel'].spec[0] == 'expert'
    rows = rows_sharding(mesh)
    assert rows.spec[0] == ('data', 'fsdp', 'expert')

    def loss(params, x, mask):
        output = module.apply(params, x, mask=mask, train=True, rngs={'dropout': KEY})
        return jnp.sum(jnp.sin(output.features)) + sum(output.losses.values()), output.features

    def placed(params, x, mask):
        with axes.axis_rules(mesh):
            return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x, mask)

    program = jax.jit(placed, in_shardings=(places, rows, rows)).lower(params, x, mask).compile()
    if dispatch == 'capacity':
        assert 'all-to-all(' in program.as_text()
    found = program(*jax.device_put((params, x, mask), (places, rows, rows)))
    alone = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x, mask)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_outside_of_training_the_places_may_be_without_limit(network):
    params, x = network
    module = build(dispatch='capacity', capacity_factor=0.1, evaluation_dispatch='dense')
    found, sown = apply(module, params, x)
    np.testing.assert_array_equal(found.features, apply(build(), params, x)[0].features)
    assert 'overflow' not in sown['intermediates']
    _, sown = apply(module, params, x, train=True, rngs={'dropout': jax.random.key(0)})
    assert sown['intermediates']['overflow'][0] > 0


@pytest.mark.parametrize(
    ('experts', 'k', 'expected'),
    [(4, 4, 8_392_704), (32, 4, 37_781_504), (256, 4, 272_891_904)],
)
def test_the_language_models_of_the_paper_have_their_counts(experts, k, expected):
    """LSTM-512, a mixture of experts 512 -> 1024 -> 512, LSTM-512; no biases."""
    x = jax.ShapeDtypeStruct((1, 2, 512), jnp.float32)
    cell = LSTM(hidden_dim=512, biases=0, forget_bias=0.0)
    mixture = MixtureConfig(num_experts=experts, top_k=k, mlp_dim=1024)
    modules = [
        RecurrentStack(RecurrentConfig(cell=cell), jnp.float32),
        MixtureOfExperts(mixture, jnp.float32),
        RecurrentStack(RecurrentConfig(cell=cell), jnp.float32),
    ]
    shapes = [jax.eval_shape(module.init, jax.random.key(0), x)['params'] for module in modules]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        *(('top_k', 9), ('top_k', 0), ('group', 'all'), ('capacity_factor', 0.0)),
        *(('dispatch', 'all'), ('dispatch', None), ('evaluation_dispatch', 'all')),
    ],
)
def test_impossible_hyperparameters_are_refused_by_name(field, value):
    given = {'num_experts': EXPERTS, 'top_k': K, 'mlp_dim': 7, field: value}
    with pytest.raises(ConfigError, match=field):
        MixtureConfig(**given)
