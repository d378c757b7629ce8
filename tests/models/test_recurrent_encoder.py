"""Recurrent encoders and the heads on them: counts, torch, pooling by hand, spelling by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from seqzoo.analysis.flops import traced_flops
from seqzoo.analysis.parameters import count_parameters
from seqzoo.configuration import load_config
from seqzoo.interop.torch_recurrent import import_torch
from seqzoo.layers.inputs import Numbers, SpelledWords, Spelling, Tokens
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import LSTM, Elman
from seqzoo.models.base import ConfigError
from seqzoo.models.dense import DenseConfig
from seqzoo.models.labeler import LabelerConfig
from seqzoo.models.recurrent_encoder import RecurrentEncoderConfig

TOKENS = jnp.array([[1, 2, 3, 4], [5, 6, 0, 0], [7, 0, 0, 0], [0, 0, 0, 0]])
SEGMENTS = (jnp.arange(4) < jnp.array([4, 2, 1, 0])[:, None]).astype(jnp.int32)


@functools.cache
def built(config):
    module = config.build()
    return module, meta.unbox(jax.jit(module.init)(jax.random.key(0), *config.example_inputs()))


@functools.partial(jax.jit, static_argnums=0, static_argnames='train')
def run(config, variables, *inputs, **options):
    """Compiled: one by one, the operations of a scan take longer to compile than all together."""
    seed = jax.random.key(1)
    return built(config)[0].apply(variables, *inputs, rngs={'dropout': seed}, **options)


def simple_encoder(directions='concatenated'):
    layers = RecurrentConfig(cell=Elman(hidden_dim=3), directions=directions)
    return RecurrentEncoderConfig(inputs=Tokens(vocab_size=8, embed_dim=4), layers=layers)


def test_the_keras_example_has_its_2_757_761_parameters():
    keras = load_config('bilstm_imdb:keras')
    assert keras.model.pooling == 'last'
    assert count_parameters(keras.nominal_model()) == 2_757_761


def test_a_bidirectional_lstm_classifier_is_that_of_torch():
    torch = pytest.importorskip('torch')
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(4, 5, num_layers=2, bidirectional=True, batch_first=True)
    embedding, linear = torch.nn.Embedding(8, 4), torch.nn.Linear(10, 3)
    layers = RecurrentConfig(
        cell=LSTM(hidden_dim=5, biases=2), num_layers=2, directions='concatenated'
    )
    encoder = RecurrentEncoderConfig(inputs=Tokens(vocab_size=8, embed_dim=4), layers=layers)
    state = {name: x.detach().numpy() for name, x in lstm.state_dict().items()}
    params = {
        'encoder': {
            'reader': {'table': {'table': embedding.weight.detach().numpy()}},
            'stack': import_torch(state, layers),
        },
        'head': {
            'kernel': linear.weight.detach().numpy().T,
            'bias': linear.bias.detach().numpy(),
        },
    }
    lengths = torch.tensor([4, 2, 1])
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        embedding(torch.tensor(np.asarray(TOKENS[:3]))), lengths, batch_first=True
    )
    outputs, (last, _) = lstm(packed)
    theirs = linear(torch.cat([last[-2], last[-1]], dim=-1)).detach().numpy()
    config = LabelerConfig(encoder=encoder, num_outputs=3, pooling='last')
    ours = run(config, {'params': params}, TOKENS[:3], segments=SEGMENTS[:3])
    np.testing.assert_allclose(ours.outputs, theirs, atol=1e-5)
    steps = torch.nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True)[0]
    tagger = LabelerConfig(encoder=encoder, num_outputs=3, per='step')
    ours = run(tagger, {'params': params}, TOKENS[:3], segments=SEGMENTS[:3]).outputs
    real = np.asarray(SEGMENTS[:3]) > 0
    np.testing.assert_allclose(ours[real], linear(steps).detach().numpy()[real], atol=1e-5)


@pytest.mark.parametrize('pooling', ['last', 'mean', 'max', 'attention'])
def test_pooling_is_what_it_says_and_a_row_without_positions_is_no_nan(pooling):
    config = LabelerConfig(encoder=simple_encoder(), num_outputs=2, pooling=pooling)
    rng, encoder = np.random.default_rng(0), built(simple_encoder())[1]
    features = run(simple_encoder(), encoder, TOKENS, segments=SEGMENTS).features
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    own = {'hidden': {'kernel': draw(6, 6), 'bias': draw(6)}, 'context': draw(6)}
    params = {'encoder': encoder['params'], 'head': {'kernel': draw(6, 2), 'bias': draw(2)}}
    params |= {'attention': own} if pooling == 'attention' else {}
    kernel, bias = params['head']['kernel'], params['head']['bias']
    apply = jax.jit(functools.partial(config.build().apply, mutable='intermediates'))
    found, seen = apply({'params': params}, TOKENS, segments=SEGMENTS)
    for row, length in enumerate([4, 2, 1]):
        h = np.asarray(features[row, :length])
        if pooling == 'attention':
            hidden = np.tanh(h @ own['hidden']['kernel'] + own['hidden']['bias'])
            weights = np.exp(hidden @ own['context'])
            pooled = (weights / weights.sum()) @ h
            sown = seen['intermediates']['pooling_weights'][0][row]
            np.testing.assert_allclose(sown[:length], weights / weights.sum(), rtol=1e-5)
            assert not sown[length:].any()
        else:
            both_ends = np.concatenate([h[-1, :3], h[0, 3:]])
            pooled = {'last': both_ends, 'mean': h.mean(0), 'max': h.max(0)}[pooling]
        np.testing.assert_allclose(found.outputs[row], pooled @ kernel + bias, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.outputs[3], bias, atol=1e-6)


def test_the_last_state_of_one_direction_is_the_feature_of_the_last_real_step():
    _, variables = built(simple_encoder('forward'))
    found = run(simple_encoder('forward'), variables, TOKENS, segments=SEGMENTS)
    for row, length in enumerate([4, 2, 1]):
        np.testing.assert_allclose(found.pooled[row], found.features[row, length - 1], rtol=1e-6)


@pytest.mark.parametrize('directions', ['forward', 'concatenated'])
def test_whether_a_labeler_looks_ahead_is_what_it_says(directions):
    config = LabelerConfig(encoder=simple_encoder(directions), num_outputs=2, per='step')
    _, variables = built(config)
    before = run(config, variables, TOKENS).outputs
    after = run(config, variables, TOKENS.at[:, 2].add(1)).outputs
    ahead = np.abs(before - after)[:, :2].max() > 1e-4
    assert ahead == (not config.causal) == (directions != 'forward')
    assert np.abs(before - after)[:, 2:].max() > 1e-4


def test_summed_directions_sum_their_last_states():
    _, variables = built(simple_encoder('summed'))
    found = run(simple_encoder('summed'), variables, TOKENS, segments=SEGMENTS)
    first, second = found.carry[-1]
    np.testing.assert_allclose(found.pooled, first['h'] + second['h'], rtol=1e-6)
    assert found.features.shape[-1] == found.pooled.shape[-1] == 3


def spelling_of(network):
    sizes = {'vocab_size': 9, 'num_characters': 7, 'max_characters': 5}
    return Spelling(embed_dim=4, character_dim=3, network=network, **sizes)


@pytest.mark.parametrize('network', ['lstm', 'convolution'])
def test_a_word_is_spelled_alike_wherever_it_stands_and_however_wide_the_rest_is(network):
    config = dataclasses.replace(spelling_of(network), features=6)
    module = config.build(jnp.float32)
    tokens = jnp.array([[1, 2]])
    words = jnp.array([[[3, 4, 0, 0, 0], [1, 2, 3, 4, 5]]])
    init = jax.jit(functools.partial(module.init, train=False))
    variables = meta.unbox(init(jax.random.key(0), SpelledWords(tokens, words)))
    apply = jax.jit(functools.partial(module.apply, train=False))
    run = lambda t, w: np.asarray(apply(variables, SpelledWords(t, w)))  # noqa: E731
    found = run(tokens, words)
    assert found.shape == (1, 2, 10)
    alone = run(tokens[:, :1], words[:, :1, :2])
    np.testing.assert_allclose(found[0, 0], alone[0, 0], atol=1e-6)
    other = run(tokens, words.at[0, 0, 1].set(5))
    assert np.abs(other[0, 0] - found[0, 0]).max() > 1e-3
    np.testing.assert_array_equal(other[0, 1], found[0, 1])
    assert np.isfinite(run(tokens, jnp.zeros_like(words))).all()


def test_the_convolution_over_characters_takes_the_largest_of_all_windows():
    config = dataclasses.replace(spelling_of('convolution'), features=5, window=3)
    module = config.build(jnp.float32)
    words = SpelledWords(jnp.array([[1]]), jnp.array([[[3, 4, 2, 0]]]))
    init = jax.jit(functools.partial(module.init, train=False))
    variables = meta.unbox(init(jax.random.key(0), words))
    params = jax.tree.map(np.asarray, variables['params'])
    vectors = params['characters']['table'][[3, 4, 2]]
    padded = np.concatenate([np.zeros((1, 3)), vectors, np.zeros((1, 3))])
    windows = np.stack([padded[i : i + 3].reshape(-1) for i in range(3)])
    filters = windows @ params['network']['kernel'].reshape(9, 5) + params['network']['bias']
    found = jax.jit(functools.partial(module.apply, train=False))(variables, words)[0, 0, 4:]
    np.testing.assert_allclose(found, np.tanh(filters.max(axis=0)), rtol=1e-5)


def test_dropped_tokens_are_missing_wherever_they_occur():
    config = Tokens(vocab_size=50, embed_dim=4, token_dropout_rate=0.5)
    module = config.build(jnp.float32)
    tokens = jnp.tile(jnp.arange(50), (2, 1))
    variables = {'params': {'table': {'table': jnp.ones((50, 4))}}}
    apply = jax.jit(functools.partial(module.apply, train=True))
    found = apply(variables, tokens, rngs={'dropout': jax.random.key(1)})
    missing = np.asarray(found == 0).all(axis=-1)
    assert 10 < missing[0].sum() < 40
    np.testing.assert_array_equal(missing[0], missing[1])


def test_numbers_enter_as_they_are_or_through_a_matrix():
    series = jnp.array([[[1.0, 2.0], [3.0, 4.0]]])
    plain = Numbers(input_dim=2).build(jnp.float32)
    np.testing.assert_array_equal(plain.apply({}, series, False), series)
    with pytest.raises(ConfigError, match='input_dim is 3, but the input has 2'):
        Numbers(input_dim=3).build(jnp.float32).apply({}, series, False)


def test_the_dense_network_reads_every_position_with_weights_of_its_own():
    config = DenseConfig(
        inputs=Numbers(input_dim=1), max_length=4, hidden_dims=(), num_outputs=2, per='sequence'
    )
    _, variables = built(config)
    kernel = np.asarray(variables['params']['head']['kernel'])
    assert kernel.shape == (4, 1, 2)
    x = jnp.array([[[1.0], [-2.0], [5.0]]])
    found = run(config, variables, x, segments=jnp.array([[1, 1, 0]]))
    np.testing.assert_allclose(found.outputs[0], kernel[0, 0] - 2 * kernel[1, 0], rtol=1e-5)
    with pytest.raises(ConfigError, match='5 positions'):
        run(config, variables, jnp.ones((1, 5, 1)))


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: LabelerConfig(pooling='first'), 'pooling is'),
        (lambda: LabelerConfig(num_outputs=0), 'num_outputs is 0'),
        (lambda: LabelerConfig(per='word'), 'per is'),
        (lambda: LabelerConfig().build(), 'num_outputs is open'),
        (lambda: Spelling(network='lstm', features=5), 'features is 5'),
        (lambda: Tokens(token_dropout_rate=1.0), 'token_dropout_rate'),
        (lambda: Tokens().build(jnp.float32), 'vocab_size is open'),
    ],
)
def test_what_cannot_be_is_said_in_words(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_overrides_reach_into_encoder_layers_and_cell():
    overrides = ['--model.encoder.layers.num-layers', '3', '--model.encoder.layers.cell.hidden-dim']
    model = load_config('bilstm_imdb', [*overrides, '32']).model
    assert model.encoder.layers.num_layers == 3
    assert model.encoder.layers.cells == (LSTM(hidden_dim=32),) * 3


@pytest.mark.parametrize(
    'config',
    [
        LabelerConfig(encoder=simple_encoder(), num_outputs=3, pooling='attention'),
        LabelerConfig(
            encoder=dataclasses.replace(simple_encoder(), inputs=spelling_of('lstm')),
            num_outputs=3,
            per='step',
        ),
        LabelerConfig(
            encoder=dataclasses.replace(simple_encoder(), inputs=spelling_of('convolution')),
            num_outputs=2,
        ),
        DenseConfig(inputs=Numbers(input_dim=3, embed_dim=2), max_length=7, num_outputs=2),
        dataclasses.replace(DenseConfig.tiny(), hidden_dims=(5, 6)),
    ],
    ids=['attention', 'lstm', 'convolution', 'numbers', 'dense'],
)
def test_the_formula_counts_the_products_of_the_traced_program(config):
    module, length = config.build(), 7
    variables = jax.eval_shape(module.init, jax.random.key(0), *config.example_inputs())
    inputs = jax.eval_shape(lambda: config.example_inputs(2, length))
    traced = traced_flops(lambda v, x: module.apply(v, *x), meta.unbox(variables), inputs)
    assert config.flops(2, length).forward == traced
