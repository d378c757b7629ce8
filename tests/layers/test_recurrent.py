"""Recurrent layers and stacks: padding on any side, state handed over, dropout, counts."""

import dataclasses

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from hypothesis import strategies as st

from seqzoo.errors import ConfigError
from seqzoo.layers.factorised import FactorisedLSTM, GroupedLSTM
from seqzoo.layers.recurrent import (
    RecurrentConfig,
    RecurrentLayer,
    RecurrentStack,
    length_mask,
)
from seqzoo.layers.recurrent_cells import GRU, LSTM, Elman
from seqzoo.layers.recurrent_dropout import drop_connect, embedding_dropout, variational_dropout
from seqzoo.parallel import prng

BATCH, LENGTH, INPUT = 3, 6, 4
STACKS = {
    'elman': RecurrentConfig(cell=Elman(hidden_dim=4), num_layers=2, residual_from=0),
    'lstm': RecurrentConfig(
        cell=LSTM(hidden_dim=4, projection_dim=2), num_layers=2, directions='concatenated'
    ),
    'gru': RecurrentConfig(
        cell=GRU(hidden_dim=4),
        num_layers=3,
        directions='summed',
        bidirectional_layers=1,
        residual_from=1,
    ),
}


@pytest.fixture(scope='module')
def networks():
    """By name: the parameters, and a compiled `(x, mask) -> Recurrence`."""
    result = {}
    for name, config in STACKS.items():
        stack = RecurrentStack(config, jnp.float32)
        x = jnp.zeros((BATCH, LENGTH, INPUT))
        params = meta.unbox(jax.jit(stack.init)(jax.random.key(0), x))
        run = jax.jit(lambda p, x, mask, stack=stack: stack.apply(p, x, mask=mask))
        packed = jax.jit(lambda p, x, segments, stack=stack: stack.apply(p, x, segments=segments))
        result[name] = (params, run, packed)
    return result


def noise(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize('name', STACKS)
@hypothesis.given(
    lengths=st.lists(st.integers(0, LENGTH), min_size=BATCH, max_size=BATCH),
    starts=st.lists(st.integers(0, LENGTH), min_size=BATCH, max_size=BATCH),
    seed=st.integers(0, 100),
)
def test_a_batch_gives_what_each_sequence_gives_alone(networks, name, lengths, starts, seed):
    params, run, _ = networks[name]
    starts = [min(start, LENGTH - n) for start, n in zip(starts, lengths, strict=True)]
    # What stands in the padding must not matter: it is noise, and large.
    x, mask = 10 * noise(seed, BATCH, LENGTH, INPUT), np.zeros((BATCH, LENGTH), bool)
    own = noise(seed + 1, BATCH, LENGTH, INPUT)
    alone_x, alone_mask = np.zeros_like(x), np.zeros_like(mask)
    for row, (start, n) in enumerate(zip(starts, lengths, strict=True)):
        x[row, start : start + n] = own[row, :n]
        mask[row, start : start + n] = True
        alone_x[row, :n], alone_mask[row, :n] = own[row, :n], True
    batch = run(params, x, mask)
    assert not np.asarray(batch.features)[~mask].any()
    # One at a time, padded on the right, in the place of another row.
    for row, (start, n) in enumerate(zip(starts, lengths, strict=True)):
        other = np.roll(alone_x, 1, axis=0) * 0
        other_mask = np.zeros_like(mask)
        other[0], other_mask[0] = alone_x[row], alone_mask[row]
        alone = run(params, other, other_mask)
        np.testing.assert_allclose(
            batch.features[row, start : start + n], alone.features[0, :n], rtol=1e-5, atol=1e-6
        )
        for a, b in zip(jax.tree.leaves(batch.carry), jax.tree.leaves(alone.carry), strict=True):
            np.testing.assert_allclose(a[row], b[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', STACKS)
@hypothesis.given(cuts=st.tuples(*[st.integers(0, LENGTH)] * 4), seed=st.integers(0, 100))
def test_packed_segments_give_what_each_gives_alone(networks, name, cuts, seed):
    params, run, packed = networks[name]
    a, b, c, d = sorted(cuts)
    x = noise(seed, BATCH, LENGTH, INPUT)
    segments = np.zeros((BATCH, LENGTH), np.int32)
    segments[0, a:b], segments[0, c:d] = 1, 2
    together = packed(params, x, segments).features[0]
    alone, mask = np.zeros_like(x), np.zeros(segments.shape, bool)
    for row, (start, end) in enumerate([(a, b), (c, d)]):
        alone[row, : end - start], mask[row, : end - start] = x[0, start:end], True
    parts = run(params, alone, mask).features
    for row, (start, end) in enumerate([(a, b), (c, d)]):
        np.testing.assert_allclose(
            together[start:end], parts[row, : end - start], rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize('cell', [Elman(hidden_dim=4), LSTM(hidden_dim=4), GRU(hidden_dim=4)])
def test_state_is_handed_over_from_call_to_call_and_step_to_step(cell):
    stack = RecurrentStack(RecurrentConfig(cell=cell, num_layers=2), jnp.float32)
    x = noise(0, BATCH, LENGTH, INPUT)
    params = meta.unbox(jax.jit(stack.init)(jax.random.key(0), x))
    run = jax.jit(lambda x, carry: stack.apply(params, x, carry=carry))
    whole = run(x, None)
    carry, parts = stack.initial_carry(BATCH), []
    for part in (slice(0, 3), slice(3, 4), slice(4, 5), slice(5, 6)):
        result = run(x[:, part], carry)
        carry = result.carry
        parts.append(result.features)
    close = {'rtol': 1e-5, 'atol': 1e-6}
    np.testing.assert_allclose(jnp.concatenate(parts, 1), whole.features, **close)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **close), carry, whole.carry)


def count(config, input_dim):
    stack = RecurrentStack(config, jnp.float32)
    x = jax.ShapeDtypeStruct((2, 3, input_dim), jnp.float32)
    shapes = jax.eval_shape(stack.init, jax.random.key(0), x)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


BIG = {'hidden_dim': 8192, 'projection_dim': 1024}


@pytest.mark.parametrize(
    ('cell', 'layers', 'input_dim', 'expected'),
    [
        (Elman(hidden_dim=64), 1, 32, 64 * (32 + 64 + 1)),
        (Elman(hidden_dim=64, biases=2), 1, 32, 64 * (32 + 64 + 2)),
        # 64 -> 64: flax and Keras, then torch.
        (LSTM(hidden_dim=64), 1, 64, 33_024),
        (LSTM(hidden_dim=64, biases=2), 1, 64, 33_280),
        (LSTM(hidden_dim=64, peepholes=True), 1, 64, 33_024 + 3 * 64),
        (LSTM(hidden_dim=64, layer_norm=True), 1, 64, 33_024 + 10 * 64),
        # 64 -> 64: the first version, torch and Keras, flax.
        (GRU(hidden_dim=64, reset='before'), 1, 64, 24_768),
        (GRU(hidden_dim=64, biases=2), 1, 64, 24_960),
        (GRU(hidden_dim=64), 1, 64, 24_832),
        # Sutskever et al. 2014, eight layers of 1000, no biases.
        (LSTM(hidden_dim=1000, biases=0, forget_bias=0.0), 8, 1000, 64_000_000),
        # Kuchaiev and Ginsburg 2017.
        (LSTM(**BIG), 2, 1024, 151_060_480),
        (FactorisedLSTM(**BIG, rank=512), 2, 1024, 52_494_336),
        (GroupedLSTM(**BIG, groups=2), 2, 1024, 83_951_616),
        (GroupedLSTM(**BIG, groups=4), 2, 1024, 50_397_184),
        (GroupedLSTM(**BIG, groups=8), 2, 1024, 33_619_968),
    ],
)
def test_parameters_are_as_many_as_the_papers_say(cell, layers, input_dim, expected):
    assert count(RecurrentConfig(cell=cell, num_layers=layers), input_dim) == expected


def test_widths_of_layers_may_differ():
    # AWD-LSTM: 24,221,600 with a tied table of 10,000 x 400 and its bias.
    config = RecurrentConfig(
        cell=LSTM(hidden_dim=1150, biases=2), num_layers=3, hidden_dims=(1150, 1150, 400)
    )
    assert count(config, 400) + 10_000 * 400 + 10_000 == 24_221_600
    assert config.output_dims == (1150, 1150, 400)


def test_every_parameter_names_its_axes_and_recurrent_kernels_are_never_split():
    from seqzoo.parallel.axes import DEFAULT_RULES

    split = {name for name, _ in DEFAULT_RULES}
    for cell in (
        LSTM(hidden_dim=4, peepholes=True, projection_dim=2, layer_norm=True, biases=2),
        GRU(hidden_dim=4),
        GroupedLSTM(hidden_dim=4, groups=2),
        FactorisedLSTM(hidden_dim=4, rank=2),
    ):
        layer = RecurrentLayer(cell, jnp.float32)
        boxed = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 2, 4)))['params']
        for name, leaf in boxed.items():
            assert isinstance(leaf, meta.Partitioned), name
            if name != 'input_kernel':
                assert not split & set(leaf.names), (name, leaf.names)


def test_the_forget_gate_starts_open_and_kernels_start_as_asked():
    layer = RecurrentLayer(LSTM(hidden_dim=5, forget_bias=1.0), jnp.float32)
    params = meta.unbox(jax.jit(layer.init)(jax.random.key(0), jnp.zeros((1, 2, 4))))['params']
    np.testing.assert_array_equal(params['input_bias'], np.eye(4)[1][:, None] * np.ones((4, 5)))
    for gate in range(4):
        kernel = params['recurrent_kernel'][:, gate]
        np.testing.assert_allclose(kernel @ kernel.T, np.eye(5), atol=1e-5)
    layer = RecurrentLayer(GRU(hidden_dim=50, init_scale=0.08), jnp.float32)
    params = meta.unbox(jax.jit(layer.init)(jax.random.key(0), jnp.zeros((1, 2, 4))))['params']
    for name in ('input_kernel', 'recurrent_kernel'):
        assert 0.07 < np.abs(params[name]).max() <= 0.08


# Dropout


def train_with(config, x, seed=0):
    stack = RecurrentStack(config, jnp.float32)
    params = meta.unbox(jax.jit(stack.init)(jax.random.key(0), x))
    rngs = {'dropout': jax.random.key(seed)}

    def both(params, x):
        return stack.apply(params, x, train=True, rngs=rngs), stack.apply(params, x)

    return jax.jit(both)(params, x)


@pytest.mark.parametrize(
    'rate',
    [
        'input_dropout_rate',
        'dropout_rate',
        'output_dropout_rate',
        'recurrent_dropout_rate',
        'weight_drop_rate',
    ],
)
def test_each_dropout_acts_in_training_alone_and_on_the_same_rows_of_any_split(rate):
    config = RecurrentConfig(cell=GRU(hidden_dim=8, reset='before'), num_layers=2, **{rate: 0.5})
    x = noise(0, 4, LENGTH, INPUT)
    dropped, clean = train_with(config, x)
    assert np.abs(dropped.features - clean.features).max() > 0.01
    again, _ = train_with(dataclasses.replace(config, **{rate: 0.0}), x)
    np.testing.assert_array_equal(again.features, clean.features)
    with prng.example_rows(jnp.arange(2, 4)):
        part, _ = train_with(config, x[2:])
    np.testing.assert_allclose(part.features, dropped.features[2:], rtol=1e-5, atol=1e-6)


def test_variational_dropout_drops_the_same_features_at_every_step():
    config = RecurrentConfig(cell=LSTM(hidden_dim=64), output_dropout_rate=0.5, variational=True)
    dropped, clean = train_with(config, noise(0, BATCH, LENGTH, INPUT))
    kept = np.asarray(dropped.features) != 0
    assert (kept == kept[:, :1]).all()
    assert 0.3 < kept.mean() < 0.7
    np.testing.assert_allclose(
        dropped.features[kept], 2 * np.asarray(clean.features)[kept], rtol=1e-5
    )
    x = jnp.ones((2, 5, 3))
    assert variational_dropout(x, 0.0, jax.random.key(0)) is x


def test_connections_and_words_are_dropped_whole_and_scaled():
    kernel = drop_connect(jnp.ones((40, 40)), 0.25, jax.random.key(0))
    assert set(np.unique(kernel).round(4)) == {0.0, np.float32(4 / 3).round(4)}
    assert abs((np.asarray(kernel) == 0).mean() - 0.25) < 0.05
    table = np.asarray(embedding_dropout(jnp.ones((400, 3)), 0.1, jax.random.key(1)))
    assert (table == table[:, :1]).all()
    assert 0.05 < (table == 0).mean() < 0.15


def test_weight_drop_draws_anew_in_each_step_and_once_for_all_rows():
    config = RecurrentConfig(cell=LSTM(hidden_dim=8), weight_drop_rate=0.5)
    x = np.repeat(noise(0, 1, LENGTH, INPUT), 2, axis=0)
    first, second = (train_with(config, x, seed=seed)[0].features for seed in (0, 1))
    np.testing.assert_allclose(first[0], first[1], rtol=1e-6)
    assert np.abs(first - second).max() > 1e-3


# Mistakes


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: LSTM(hidden_dim=0), 'hidden_dim'),
        (lambda: LSTM(hidden_dim=4, biases=0), 'forget_bias'),
        (lambda: Elman(hidden_dim=4, activation='gelu'), 'activation'),
        (lambda: GRU(hidden_dim=4, reset='never'), 'reset'),
        (lambda: GroupedLSTM(hidden_dim=6, groups=4), 'does not divide'),
        (lambda: FactorisedLSTM(hidden_dim=6, rank=2, layer_norm=True), 'layer_norm'),
        (lambda: RecurrentConfig(cell=LSTM(hidden_dim=4), num_layers=0), 'num_layers'),
        (lambda: RecurrentConfig(cell=LSTM(hidden_dim=4), hidden_dims=(4, 4)), 'hidden_dims'),
        (lambda: RecurrentConfig(cell=LSTM(hidden_dim=4), directions='both'), 'directions'),
        (lambda: RecurrentConfig(cell=LSTM(hidden_dim=4), bidirectional_layers=1), 'directions'),
        (lambda: RecurrentConfig(cell=LSTM(hidden_dim=4), dropout_rate=1.0), 'dropout_rate'),
    ],
)
def test_impossible_hyperparameters_are_refused_by_name(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        *(('bidirectional_layers', -1), ('bidirectional_layers', 3)),
        *(('residual_from', -1), ('residual_from', 2)),
    ],
)
def test_layers_that_a_stack_does_not_have_are_refused(name, value):
    given = {'num_layers': 2, 'directions': 'summed', name: value}
    with pytest.raises(ConfigError, match=f'{name} is {value} of num_layers 2: choose 0 to'):
        RecurrentConfig(cell=LSTM(hidden_dim=4), **given)


def test_what_does_not_fit_together_is_refused():
    x = jnp.zeros((BATCH, LENGTH, INPUT))
    wide = RecurrentStack(RecurrentConfig(cell=LSTM(hidden_dim=5), residual_from=0), jnp.float32)
    with pytest.raises(ConfigError, match='residual_from'):
        wide.init(jax.random.key(0), x)
    layer = RecurrentLayer(Elman(hidden_dim=3), jnp.float32)
    mask = length_mask(jnp.array([1, 2, 3]), LENGTH)
    with pytest.raises(ValueError, match='not both'):
        layer.init(jax.random.key(0), x, mask=mask, segments=mask.astype(jnp.int32))
    with pytest.raises(ValueError, match='shape'):
        layer.init(jax.random.key(0), x, mask=mask[:, 1:])
