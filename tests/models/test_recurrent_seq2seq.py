"""Recurrent encoder-decoders: the papers' sizes, their equations in NumPy, decoding, refusals."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from seqzoo.analysis.attention import collect
from seqzoo.analysis.flops import traced_flops
from seqzoo.configuration import load_config
from seqzoo.errors import ConfigError, UserError
from seqzoo.layers import recurrent_decoders
from seqzoo.layers.recurrent_attention import Attention
from seqzoo.layers.recurrent_cells import GRU, LSTM, Elman
from seqzoo.layers.time_scan import multiply
from seqzoo.models.base import Seq2Seq
from seqzoo.models.decoder_flops import cross_attention_flops
from seqzoo.models.recurrent_seq2seq import RecurrentSeq2SeqConfig
from seqzoo.parallel.storage import true_count
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.sequence_search import SpecialTokens, seq2seq_search

HIDDEN, EMBED, VOCAB, BATCH, SOURCE, TARGET = 6, 4, 11, 3, 5, 4
SHAPE = (BATCH, TARGET)
SMALL = {'vocab_size': VOCAB, 'embed_dim': EMBED, 'init_scale': None}
SUTSKEVER = RecurrentSeq2SeqConfig(**SMALL, cell=LSTM(hidden_dim=HIDDEN), num_layers=2)
BAHDANAU = RecurrentSeq2SeqConfig(
    **SMALL,
    cell=GRU(hidden_dim=HIDDEN, reset='before'),
    num_layers=1,
    bidirectional_layers=1,
    reverse_source=False,
    initial_state='projected',
    attention='additive',
    attention_state='previous',
    attention_dim=5,
    maxout_dim=3,
)
LUONG = dataclasses.replace(SUTSKEVER, attention='general', input_feeding=True)
GNMT = RecurrentSeq2SeqConfig(
    **SMALL,
    cell=LSTM(hidden_dim=HIDDEN),
    num_layers=3,
    bidirectional_layers=1,
    reverse_source=False,
    residual_from=2,
    initial_state='zeros',
    attention='additive',
    attention_state='previous',
    output_bias=True,
)
LENGTHS = [5, 3, 4]
SEGMENTS = jnp.array([[1] * n + [0] * (SOURCE - n) for n in LENGTHS])
TOKENS = np.random.default_rng(0).integers(1, VOCAB, (BATCH, SOURCE + TARGET))
INPUTS = (jnp.asarray(TOKENS[:, :SOURCE]), jnp.asarray(TOKENS[:, SOURCE:]))


def shaken(init):
    """Parameters none of which is zero."""
    shapes, rng = meta.unbox(jax.eval_shape(init)), np.random.default_rng(1)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape, scale=0.5), jnp.float32), shapes
    )


@functools.cache
def example(config):
    """The module and parameters."""
    model = config.build()
    return model, shaken(functools.partial(model.init, jax.random.key(0), *INPUTS))


def forced(module):
    """`[batch, length, vocab]`, to be run as a method of the model."""
    return module.unembed(module(*INPUTS, source_segments=SEGMENTS).features)


# ------------------------------------------------------------------------------ published sizes


@pytest.mark.parametrize(
    ('config', 'parameters'),
    [
        ('seq2seq_lstm_wmt14_enfr', 384_000_000),
        ('rnnsearch_wmt14_enfr', 80_401_000),
        ('luong_wmt14_ende', 222_001_000),
        ('gnmt_wmt14_ende', 280_858_880),
    ],
)
def test_sizes_of_the_papers_are_exact(config, parameters):
    model = load_config(config).nominal_model()
    ids = jnp.zeros((1, 4), jnp.int32)
    shapes = meta.unbox(jax.eval_shape(model.build().init, jax.random.key(0), ids, ids))['params']
    assert sum(x.size for x in jax.tree.leaves(shapes)) == parameters
    if config.startswith('seq2seq'):
        recurrent = shapes['encoder'], shapes['decoder']
        assert sum(x.size for x in jax.tree.leaves(recurrent)) == 64_000_000


def test_options_cost_what_they_should():
    def count(**options):
        config = dataclasses.replace(SUTSKEVER, embed_dim=HIDDEN, **options)
        shapes = jax.eval_shape(config.build().init, jax.random.key(0), *INPUTS)['params']
        return true_count(shapes)

    table = VOCAB * HIDDEN
    assert count(tie='decoder') == count() - table
    assert count(tie='all') == count() - 2 * table
    assert count(source_vocab_size=20) == count() + 9 * HIDDEN
    assert count(output_bias=True) == count() + VOCAB
    assert count(vocab_multiple=8) == count()
    assert count(initial_state='projected') == count() + 2 * HIDDEN**2
    assert count(attention='dot') == count() + 2 * HIDDEN**2
    assert count(attention='general') == count(attention='dot') + HIDDEN**2
    assert count(attention='dot', input_feeding=True) == count(attention='dot') + 4 * HIDDEN**2


# --------------------------------------------------------- the papers' equations, step by step


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def gates(p, x, h):
    """One row `[hidden]` a gate, x W + h U + b."""
    total = np.einsum('i,igh->gh', x, p['input_kernel'])
    return total + np.einsum('i,igh->gh', h, p['recurrent_kernel']) + p['input_bias']


def lstm(p, x, state):
    i, f, g, o = gates(p, x, state[0])
    c = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru(p, x, state):
    (h,) = state
    r, z, _ = sigmoid(gates(p, x, h))
    n = np.tanh(gates(p, x, r * h)[2])
    return ((1 - z) * n + z * h,)


def layer(step, p, xs, width, backward=False):
    """All states in the order of `xs`, and the last one that was computed."""
    state, found = (np.zeros(HIDDEN),) * width, []
    for x in xs[::-1] if backward else xs:
        state = step(p, x, state)
        found.append(state)
    return [s[0] for s in (found[::-1] if backward else found)], state


def parameters(config):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), example(config)[1]['params'])


def rows(p):
    """Each source and target as embedded words, without padding."""
    for source, target, length in zip(*map(np.asarray, INPUTS), LENGTHS, strict=True):
        yield (
            p['source_embedding']['table'][source[:length]],
            p['target_embedding']['table'][target],
        )


def logits_and_weights(config):
    """What the model gives for each row, weights without padding."""
    model, variables = example(config)

    @jax.jit
    def both(variables):
        return model.apply(variables, method=forced, mutable=['intermediates'])

    logits, sown = both(variables)
    cross = collect(sown['intermediates']).cross
    assert cross is not None
    assert cross.shape == (1, BATCH, 1, TARGET, SOURCE)
    for row, length in enumerate(LENGTHS):
        assert (cross[0, row, 0, :, length:] == 0).all()
        yield logits[row], cross[0, row, 0, :, :length]


def compare(config, results):
    for (logits, weights), (found, seen) in zip(results, logits_and_weights(config), strict=True):
        np.testing.assert_allclose(found, logits, atol=1e-5)
        np.testing.assert_allclose(seen, weights, atol=1e-5)


def additive(a, h, memory):
    hidden = np.tanh(h @ a['query_kernel'] + memory @ a['memory_kernel'])
    return hidden @ a['score_vector']


def test_bahdanaus_network_is_that_of_the_papers_appendix():
    p = parameters(BAHDANAU)
    decoder = p['decoder']

    def one(xs, ys):
        both = p['encoder']['layer_0']
        there, _ = layer(gru, both['forward'], xs, 1)
        back, (first,) = layer(gru, both['backward'], xs, 1, backward=True)
        memory = np.concatenate([there, back], axis=1)
        s, result, weights = np.tanh(first @ p['initial_0']['kernel']), [], []
        for y in ys:
            weights.append(softmax(additive(decoder['cross_attention'], s, memory)))
            c = weights[-1] @ memory
            pieces = np.einsum('i,imp->mp', np.concatenate([s, y, c]), decoder['maxout']['kernel'])
            result.append(pieces.max(axis=1) @ p['output']['kernel'])
            (s,) = gru(decoder['layer_0'], np.concatenate([y, c]), (s,))
        return np.array(result), np.array(weights)

    compare(BAHDANAU, [one(xs, ys) for xs, ys in rows(p)])


def luong_weights(config, a, h, memory, t):
    if config.attention == 'additive':
        scores = additive(a, h, memory)
    else:
        scores = memory @ (a['memory_kernel'] @ h if config.attention == 'general' else h)
    window = config.attention_window
    if config.attention_span == 'global':
        return softmax(scores)
    centre = min(t, len(memory) - 1)
    if config.attention_span == 'local-p':
        centre = len(memory) * sigmoid(np.tanh(h @ a['place_kernel']) @ a['place_vector'])
    distance = np.arange(len(memory)) - centre
    inside = np.abs(distance) <= window
    weights = np.zeros(len(memory))
    weights[inside] = softmax(scores[inside])
    if config.attention_span == 'local-p':
        weights *= np.exp(-(distance**2) / (2 * (window / 2) ** 2))
    return weights


@pytest.mark.parametrize(
    'options',
    [
        {'attention': 'dot'},
        {'attention': 'general'},
        {'attention': 'additive'},
        {'attention_span': 'local-m', 'attention_window': 1},
        {'attention_span': 'local-p', 'attention_window': 2},
        {'attention_span': 'local-p', 'attention_window': 2, 'input_feeding': False},
    ],
    ids=['dot', 'general', 'concat', 'local-m', 'local-p', 'without-feeding'],
)
def test_luongs_network_is_that_of_the_paper(options):
    config = dataclasses.replace(LUONG, **options)
    p = parameters(config)
    decoder = p['decoder']
    cells = decoder if config.input_feeding else decoder['stack']

    def one(xs, ys):
        states = []
        for name in ('layer_0', 'layer_1'):  # the source is read from its end
            xs, last = layer(lstm, p['encoder'][name], xs, 2, backward=True)
            states.append(last)
        memory, fed, result, weights = np.array(xs), np.zeros(HIDDEN), [], []
        for t, x in enumerate(ys):
            x = np.concatenate([x, fed]) if config.input_feeding else x
            for i in range(2):
                states[i] = lstm(cells[f'layer_{i}'], x, states[i])
                x = states[i][0]
            a = luong_weights(config, decoder.get('cross_attention'), x, memory, t)
            both = np.concatenate([a @ memory, x])
            fed = np.tanh(both @ decoder['attentional_kernel'])
            weights.append(a)
            result.append(fed @ p['output']['kernel'])
        return np.array(result), np.array(weights)

    compare(config, [one(xs, ys) for xs, ys in rows(p)])


def test_gnmts_network_is_that_of_the_paper():
    p = parameters(GNMT)
    decoder, encoder = p['decoder'], p['encoder']

    def one(xs, ys):
        there, _ = layer(lstm, encoder['layer_0']['forward'], xs, 2)
        back, _ = layer(lstm, encoder['layer_0']['backward'], xs, 2, backward=True)
        second, _ = layer(lstm, encoder['layer_1'], np.concatenate([there, back], axis=1), 2)
        third, _ = layer(lstm, encoder['layer_2'], second, 2)
        memory = np.array(second) + third
        states, result, weights = [(np.zeros(HIDDEN),) * 2] * 3, [], []
        for x in ys:
            a = softmax(additive(decoder['cross_attention'], states[0][0], memory))
            for i in range(3):
                states[i] = lstm(decoder[f'layer_{i}'], np.concatenate([x, a @ memory]), states[i])
                x = states[i][0] + (x if i == 2 else 0)
            weights.append(a)
            result.append(x @ p['output']['kernel'] + p['logit_bias'])
        return np.array(result), np.array(weights)

    compare(GNMT, [one(xs, ys) for xs, ys in rows(p)])


def test_a_source_read_from_its_end_is_a_reversed_source():
    model, variables = example(SUTSKEVER)
    forwards = dataclasses.replace(SUTSKEVER, reverse_source=False).build()
    source = np.array(INPUTS[0])
    for row, length in zip(source, LENGTHS, strict=True):
        row[:length] = row[:length][::-1]
    turned = forwards.apply(
        variables, jnp.asarray(source), INPUTS[1], source_segments=SEGMENTS
    ).features
    found = model.apply(variables, *INPUTS, source_segments=SEGMENTS).features
    np.testing.assert_allclose(found, turned, atol=1e-6)


# ----------------------------------------------------------------------- gradients and decoding


def plain_scan(cell, terms, carry, control):
    """`time_scan` as jax differentiates it."""

    def body(state, now):
        inputs, keep = now

        def product(name, value):
            return multiply(value, terms.kernels[name]) + inputs.get(name, 0.0)

        free = {name: x for name, x in inputs.items() if name not in terms.kernels}
        new = cell.step(terms.vectors, free, state, product)
        new = {name: jnp.where(keep[:, None], x, state[name]) for name, x in new.items()}
        return new, jnp.where(keep[:, None], new['h'], 0.0)

    last, outputs = jax.lax.scan(body, carry, (terms.inputs, control.keep))
    return outputs, last


@pytest.mark.parametrize(
    ('kind', 'config'),
    [
        (recurrent_decoders.FeedingDecoder, LUONG),
        (recurrent_decoders.ContextDecoder, BAHDANAU),
    ],
    ids=['feeding', 'context'],
)
def test_gradients_of_steps_that_attend_are_those_of_autodiff(kind, config, monkeypatch):
    local = {'attention_span': 'local-p', 'attention_window': 2, 'dropout_rate': 0.2}
    config = dataclasses.replace(config, **local)
    decoder, rng = kind(config.decoder()), np.random.default_rng(2)
    width = (BATCH, SOURCE, config.encoder().output_dims[-1])
    memory, x = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in (width, (*SHAPE, EMBED)))
    padded = jnp.ones(SHAPE, bool).at[1, 2:].set(False)

    def features(module, x, memory):
        states = [cell.initial_carry(BATCH) for cell in config.decoder().layers.cells]
        states = jax.tree.map(lambda leaf: leaf + 0.3, tuple(states))
        fed = jnp.full((BATCH, HIDDEN), 0.3) if config.input_feeding else None
        state = recurrent_decoders.DecoderState(states, fed)
        source = module.project(memory, SEGMENTS > 0)
        more = {'position': jnp.zeros((), int), 'mask': padded, 'train': True}
        return module(x, source, state, **more)

    def loss(params, x, memory):
        rngs = {'dropout': jax.random.key(2)}
        found, last = decoder.apply(params, x, memory, method=features, rngs=rngs)
        rest = sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(last))
        return jnp.sum(jnp.sin(3 * found) * padded[..., None]) + rest

    keys = {'params': jax.random.key(0), 'dropout': jax.random.key(1)}
    params = shaken(functools.partial(decoder.init, keys, x, memory, method=features))

    @jax.jit
    def both(*arguments):
        ours = jax.grad(loss, (0, 1, 2))(*arguments)
        monkeypatch.setattr(recurrent_decoders, 'time_scan', plain_scan)
        return ours, jax.grad(loss, (0, 1, 2))(*arguments)

    for a, b in zip(*map(jax.tree.leaves, both(params, x, memory)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


def test_dropout_stands_between_layers_that_step_together(monkeypatch):
    monkeypatch.setattr(recurrent_decoders, 'dropout', lambda x, rate, key: 0 * x)
    model, variables = example(dataclasses.replace(LUONG, dropout_rate=0.1))

    @jax.jit
    @jax.grad
    def gradient(variables):
        output = model.apply(variables, *INPUTS, train=True, rngs={'dropout': jax.random.key(0)})
        return jnp.sum(output.features)

    found = gradient(variables)['params']['decoder']
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(found['layer_0']))
    assert (found['layer_1']['recurrent_kernel'] != 0).any()


@pytest.mark.parametrize(
    'config',
    [
        dataclasses.replace(SUTSKEVER, cell=Elman(hidden_dim=HIDDEN)),
        dataclasses.replace(LUONG, attention_span='local-m', attention_window=1),
        dataclasses.replace(LUONG, attention='dot', input_feeding=False, attention_span='local-m'),
        BAHDANAU,
        GNMT,
    ],
    ids=['plain', 'luong', 'without-feeding', 'bahdanau', 'gnmt'],
)
def test_reading_in_pieces_gives_the_full_pass(config):
    model, variables = example(config)
    assert isinstance(model, Seq2Seq)

    @jax.jit
    def pieces(variables):
        memory = model.apply(variables, INPUTS[0], source_segments=SEGMENTS, method='encode')
        cache = model.apply(variables, memory, TARGET, method='init_cache')
        found = []
        for start, stop in ((0, 1), (1, 3), (3, 4)):
            logits, cache = model.apply(
                variables, INPUTS[1][:, start:stop], memory, cache, method='extend'
            )
            found.append(logits)
        return jnp.concatenate(found, axis=1), model.apply(variables, method=forced)

    found, full = pieces(variables)
    np.testing.assert_allclose(found, full, atol=1e-5)


@pytest.mark.parametrize(
    'config',
    [
        SUTSKEVER,
        LUONG,
        dataclasses.replace(LUONG, attention_span='local-m', attention_window=1),
        dataclasses.replace(
            LUONG, input_feeding=False, attention_span='local-m', attention_window=1
        ),
        dataclasses.replace(LUONG, attention_span='local-p', attention_window=1),
        BAHDANAU,
        dataclasses.replace(BAHDANAU, attention_span='local-m', attention_window=1),
        GNMT,
    ],
    ids=[
        *('plain', 'luong', 'local-m', 'local-m-without-feeding', 'local-p'),
        *('bahdanau', 'bahdanau-local-m', 'gnmt'),
    ],
)
def test_padding_before_and_within_a_target_changes_nothing(config):
    model, variables = example(config)
    real = np.array([[1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1], [0, 1, 0, 1, 1, 0, 1]], bool)
    padded = np.full(real.shape, 7)
    padded[real] = np.asarray(INPUTS[1]).reshape(-1)
    found = model.apply(
        variables,
        INPUTS[0],
        jnp.asarray(padded),
        source_segments=SEGMENTS,
        target_segments=jnp.asarray(real, jnp.int32),
    ).features
    alone = model.apply(variables, *INPUTS, source_segments=SEGMENTS).features
    np.testing.assert_allclose(np.asarray(found)[real].reshape(alone.shape), alone, atol=1e-6)


def test_beam_search_scores_what_the_full_pass_scores():
    model, variables = example(LUONG)
    search = seq2seq_search(
        model,
        Decoding(method='beam', beams=3, n_best=3, length_penalty=0.0, extra_length=1),
        SpecialTokens(bos=2, eos=3, pad=0, vocab_size=VOCAB),
        SOURCE,
    )
    batch = {'source': INPUTS[0], 'source_segments': SEGMENTS, 'rows': jnp.arange(BATCH)}
    found = jax.jit(search)(variables, batch)
    for beam in range(3):
        tokens = found.tokens[:, beam]
        read = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=2)
        features = model.apply(variables, INPUTS[0], read, source_segments=SEGMENTS).features
        scores = jax.nn.log_softmax(model.apply(variables, features, method='unembed'))
        each = np.take_along_axis(scores, tokens[..., None], axis=-1)[..., 0]
        real = np.arange(tokens.shape[1]) < found.lengths[:, beam, None]
        np.testing.assert_allclose((each * real).sum(1), found.log_probs[:, beam], atol=1e-4)
    assert (np.diff(found.scores, axis=1) <= 0).all()


@pytest.mark.parametrize(
    'config',
    [
        SUTSKEVER,
        dataclasses.replace(LUONG, attention_span='local-p'),
        dataclasses.replace(LUONG, attention='additive', input_feeding=False),
        BAHDANAU,
        GNMT,
    ],
    ids=['plain', 'luong', 'without-feeding', 'bahdanau', 'gnmt'],
)
def test_the_formula_equals_the_matrix_products_in_the_traced_model(config):
    model, variables = example(config)

    def forward(module):
        return module.unembed(module(*config.example_inputs(2, 7)).features)

    traced = traced_flops(functools.partial(model.apply, method=forward), variables)
    assert traced == config.flops(2, 7).forward
    with pytest.raises(ConfigError, match='vocab_size'):
        dataclasses.replace(config, vocab_size=None).flops(1, 1)


def test_an_attention_by_hand():
    attention = Attention(score='additive', query_dim=3, memory_dim=4, dim=5, span='local-p')
    flops = cross_attention_flops(attention, batch=2, query_length=7, key_length=6)
    assert flops.attention_projections == 2 * 12 * 4 * 5 + 2 * 14 * 3 * 5 + 2 * 14 * 3 * 3
    assert flops.attention_scores == 2 * 2 * 7 * 6 * (5 + 4)
    assert flops.forward == flops.attention_projections + flops.attention_scores


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ('config', 'options', 'words'),
    [
        (SUTSKEVER, {'num_layers': 0}, 'num_layers'),
        (SUTSKEVER, {'dropout_rate': 1.0}, 'dropout_rate'),
        (SUTSKEVER, {'input_feeding': True}, "choose 'additive'"),
        (SUTSKEVER, {'bidirectional_layers': 1}, 'reverse_source to False'),
        (SUTSKEVER, {'bidirectional_layers': 3, 'reverse_source': False}, 'choose 0 to 2'),
        (SUTSKEVER, {'tie': 'all'}, 'make them equal'),
        (SUTSKEVER, {'tie': 'all', 'source_vocab_size': 3}, "tie 'decoder'"),
        (LUONG, {'attention_state': 'previous'}, 'choose one of them'),
        (LUONG, {'attention_dim': 4}, 'leave it out'),
        (LUONG, {'maxout_dim': 4}, "attention_state 'previous'"),
        (LUONG, {'residual_from': 0}, 'begin at 1'),
        (LUONG, {'cell': GRU(hidden_dim=HIDDEN)}, "cell.reset to 'before'"),
        (LUONG, {'cell': LSTM(hidden_dim=HIDDEN, layer_norm=True)}, 'without layer_norm'),
        (BAHDANAU, {'attention': 'dot', 'attention_dim': None}, "take 'general'"),
    ],
)
def test_impossible_settings_are_refused_with_a_remedy(config, options, words):
    with pytest.raises(ConfigError, match=words) as error:
        dataclasses.replace(config, **options)
    assert '\n' not in str(error.value)


def test_an_open_vocabulary_is_refused_at_build():
    with pytest.raises(UserError, match='vocab_size is open'):
        RecurrentSeq2SeqConfig().build()


def test_packed_rows_are_refused():
    with pytest.raises(UserError, match=r'RecurrentSeq2Seq cannot keep them apart; leave --batch'):
        load_config('recurrent_tiny_multi30k_ende', {'batch.packing': True})
