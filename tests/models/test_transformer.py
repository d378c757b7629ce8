"""The Transformer: its published sizes, its decoding methods, its options, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from seqzoo.errors import UserError
from seqzoo.models.base import Seq2Seq
from seqzoo.models.transformer import TransformerConfig

TINY = TransformerConfig.tiny()
SOURCE, TARGET = TINY.example_inputs(batch=2, length=6)
SEGMENTS = jnp.array([[1] * 6, [1] * 4 + [0] * 2])


def parameters(config):
    ids = jnp.zeros((1, 4), jnp.int32)
    return meta.unbox(jax.eval_shape(config.build().init, jax.random.key(0), ids, ids))['params']


def count(**options):
    return sum(x.size for x in jax.tree.leaves(parameters(TransformerConfig(**options))))


def initialized(config):
    model = config.build()
    return model, meta.unbox(jax.jit(model.init)(jax.random.key(0), SOURCE, TARGET))


@pytest.fixture(scope='module')
def tiny():
    return initialized(TINY)


def logits_of(model, variables, source, target, **packing):
    @jax.jit
    def run(variables, source, target, packing):
        features = model.apply(variables, source, target, **packing).features
        return model.apply(variables, features, method='unembed')

    return run(variables, source, target, packing)


@pytest.mark.parametrize(
    ('options', 'parameters'),
    [
        ({}, 63_045_632),
        ({'embed_dim': 1024, 'mlp_dim': 4096, 'num_heads': 16}, 214_171_648),
        ({'num_heads': 1, 'key_dim': 512, 'value_dim': 512}, 63_045_632),
        ({'num_heads': 32}, 63_045_632),
        ({'key_dim': 16}, 55_967_744),
        ({'key_dim': 32}, 58_327_040),
        ({'num_layers': 2}, 33_644_544),
        ({'num_layers': 4}, 48_345_088),
        ({'num_layers': 8}, 77_746_176),
        ({'embed_dim': 256}, 26_816_512),
        ({'embed_dim': 1024}, 163_815_424),
        ({'mlp_dim': 1024}, 50_450_432),
        ({'mlp_dim': 4096}, 88_236_032),
        ({'num_encoder_layers': 2, 'num_decoder_layers': 2}, 33_644_544),
    ],
)
def test_sizes_of_the_papers_table_3_are_exact(options, parameters):
    assert count(vocab_size=37_000, **options) == parameters


def test_options_cost_what_they_should():
    base = count(vocab_size=100)
    assert count(vocab_size=100, tie='decoder') == base + 100 * 512
    assert count(vocab_size=100, tie='decoder', source_vocab_size=70) == base + 70 * 512
    assert count(vocab_size=100, tie='none') == base + 2 * 100 * 512
    assert count(vocab_size=100, final_logit_bias=True) == base + 100
    assert count(vocab_size=100, attention_bias=True) == base + 18 * 4 * 512
    assert count(vocab_size=100, norm='pre') == base + 2 * 2 * 512
    assert count(vocab_size=100, positions='learned', max_length=50) == base + 2 * 50 * 512
    assert count(vocab_size=100, sinusoid_layout='concatenated') == base


def test_it_begins_at_the_scale_its_design_assumes():
    model, variables = initialized(dataclasses.replace(TINY, vocab_size=512, embed_dim=64))
    table = variables['params']['embedding']['table']
    assert table.std() == pytest.approx(64**-0.5, rel=0.05)
    kernel = variables['params']['encoder']['layer']['self_attention']['query']['kernel']
    bound = (
        6 / (64 + 64)
    ) ** 0.5  # the fans of [64, 2, 32] as one matrix, not of its last two axes
    assert np.abs(kernel).max() == pytest.approx(bound, rel=0.01)
    assert logits_of(model, variables, SOURCE, TARGET).std() == pytest.approx(1.0, abs=0.25)


def test_it_is_a_seq2seq_and_works_as_the_readme_says():
    model = TINY.build()
    assert isinstance(model, Seq2Seq)
    variables = jax.jit(model.init)(jax.random.key(0), SOURCE, TARGET)
    assert model.apply(variables, SOURCE, TARGET).features.shape == (2, 6, 16)


@pytest.mark.parametrize(
    'options',
    [{}, {'norm': 'pre', 'positions': 'learned', 'max_length': 8, 'tie': 'none'}],
    ids=['paper', 'pre-norm-learned-untied'],
)
def test_reading_at_once_or_in_pieces_gives_the_full_pass(options):
    model, variables = initialized(dataclasses.replace(TINY, **options))
    full = logits_of(model, variables, SOURCE, TARGET, source_segments=SEGMENTS)
    memory = model.apply(variables, SOURCE, source_segments=SEGMENTS, method='encode')
    extend = jax.jit(
        lambda tokens, cache: model.apply(variables, tokens, memory, cache, method='extend')
    )
    for pieces in ([6], [1] * 6, [3, 1, 2]):
        cache = model.apply(variables, memory, 8, method='init_cache')
        logits, start = [], 0
        for size in pieces:
            piece, cache = extend(TARGET[:, start : start + size], cache)
            logits.append(piece)
            start += size
        assert cache.position == 6
        np.testing.assert_allclose(jnp.concatenate(logits, 1), full, atol=1e-5)


def test_beams_with_any_parents_give_the_full_pass_of_each_hypothesis(tiny):
    model, variables = tiny
    batch, beams, steps = 2, 3, 6
    rng = np.random.default_rng(0)
    memory = model.apply(variables, SOURCE, source_segments=SEGMENTS, method='encode')
    cache = model.apply(variables, memory, steps, beams, method='init_beam_cache')
    extend = jax.jit(
        lambda tokens, parents, cache: model.apply(
            variables, tokens, parents, memory, cache, method='extend_beams'
        )
    )
    slots = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(memory)]
    hypotheses = np.zeros((batch, beams, 0), int)
    for step in range(steps):
        parents = rng.integers(0, beams, (batch, beams)) if step else np.zeros((batch, beams), int)
        tokens = rng.integers(0, 32, (batch, beams))
        logits, cache = extend(jnp.asarray(tokens), jnp.asarray(parents), cache)
        hypotheses = np.take_along_axis(hypotheses, parents[..., None], axis=1)
        hypotheses = np.concatenate([hypotheses, tokens[..., None]], axis=2)
    assert logits.shape == (batch, beams, 32)
    assert slots == [x.unsafe_buffer_pointer() for x in jax.tree.leaves(memory)]
    for beam in range(beams):
        target = jnp.asarray(hypotheses[:, beam])
        full = logits_of(model, variables, SOURCE, target, source_segments=SEGMENTS)
        np.testing.assert_allclose(logits[:, beam], full[:, -1], atol=1e-5)


def test_a_decoding_loop_writes_its_caches_in_place(tiny):
    model, variables = tiny
    steps, beams = 50, 4

    def decode(variables):
        memory = model.apply(variables, SOURCE, method='encode')
        cache = model.apply(variables, memory, steps, beams, method='init_beam_cache')
        start = jnp.zeros((2, beams), jnp.int32)

        def body(_, carry):
            tokens, cache = carry
            logits, cache = model.apply(
                variables, tokens, tokens, memory, cache, method='extend_beams'
            )
            return logits.argmax(-1).astype(jnp.int32) % beams, cache

        return jax.lax.fori_loop(0, steps, body, (start, cache))[0]

    text = jax.jit(decode).lower(variables).compile().as_text()
    loops, _, _ = text.partition('\nENTRY ')  # outside the loop, empty caches are made
    touched = [line for line in loops.splitlines() if f'= f32[2,2,{steps * beams},8]' in line]
    assert any('dynamic-update-slice' in line for line in touched)
    assert not any(' copy(' in line or ' transpose(' in line for line in touched)


@pytest.mark.parametrize('method', ['extend', 'extend_beams'])
def test_decoding_offers_its_attention_weights(tiny, method):
    model, variables = tiny
    memory = model.apply(variables, SOURCE, method='encode')
    if method == 'extend':
        arguments = (TARGET[:, :3], memory, model.apply(variables, memory, 4, method='init_cache'))
    else:
        cache = model.apply(variables, memory, 4, 3, method='init_beam_cache')
        arguments = (TARGET[:, :3], jnp.zeros((2, 3), int), memory, cache)
    _, sown = model.apply(variables, *arguments, method=method, mutable=['intermediates'])
    (weights,) = sown['intermediates']['decoder']['layer']['cross_attention']['attention_weights']
    assert weights.shape == (2, 2, 2, 3, 6)  # [layers, batch, heads, query, key]
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-5)


def test_attention_weights_come_out_when_asked_for_and_change_nothing(tiny):
    model, variables = tiny
    packing = {'source_segments': SEGMENTS, 'target_segments': SEGMENTS}
    output, sown = model.apply(variables, SOURCE, TARGET, **packing, mutable=['intermediates'])
    plain = model.apply(variables, SOURCE, TARGET, **packing)
    np.testing.assert_allclose(output.features, plain.features, atol=1e-6)
    decoder = sown['intermediates']['decoder']['layer']
    causal, cross = (
        np.asarray(decoder[name]['attention_weights'][0])
        for name in ('self_attention', 'cross_attention')
    )
    assert causal.shape == cross.shape == (2, 2, 2, 6, 6)  # [layers, batch, heads, query, key]
    assert (np.triu(causal.sum((0, 1, 2)), 1) == 0).all()
    assert (cross[:, 1, :, :4, 4:] == 0).all()  # padding of the second source


def test_vocabularies_may_differ_when_the_source_is_not_tied():
    config = dataclasses.replace(TINY, tie='decoder', source_vocab_size=50)
    model = config.build()
    source = jnp.full((2, 6), 49)
    variables = meta.unbox(model.init(jax.random.key(0), source, TARGET))
    assert variables['params']['source_embedding']['table'].shape == (50, 16)
    assert logits_of(model, variables, source, TARGET).shape == (2, 6, 32)


def test_the_logit_bias_is_added(tiny):
    model = dataclasses.replace(TINY, final_logit_bias=True).build()
    bias = jnp.arange(32.0)
    variables = {'params': {**tiny[1]['params'], 'logit_bias': bias}}
    features = jnp.ones((2, 16))
    with_bias = model.apply(variables, features, method='unembed')
    without = tiny[0].apply(tiny[1], features, method='unembed')
    np.testing.assert_allclose(with_bias - without, jnp.broadcast_to(bias, (2, 32)), atol=1e-4)


@pytest.mark.parametrize(
    'options',
    [
        {'attention_dropout_rate': 0.5, 'dropout_rate': 0.0},
        {'mlp_dropout_rate': 0.5, 'dropout_rate': 0.0},
        {'dropout_rate': 0.5},
    ],
)
def test_every_kind_of_dropout_acts_and_ignores_how_the_batch_is_split(options):
    from seqzoo.parallel import prng

    model, variables = initialized(dataclasses.replace(TINY, **options))
    source, target = TINY.example_inputs(batch=4, length=6)

    @jax.jit
    def features(rows, source, target):
        with prng.example_rows(rows):
            return model.apply(
                variables, source, target, train=True, rngs={'dropout': jax.random.key(1)}
            ).features

    whole = features(jnp.arange(4), source, target)
    parts = [features(jnp.arange(i, i + 2), source[i : i + 2], target[i : i + 2]) for i in (0, 2)]
    np.testing.assert_allclose(whole, jnp.concatenate(parts), atol=1e-5)
    assert np.abs(whole - model.apply(variables, source, target).features).max() > 0.1


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'num_heads': 7}, 'num_heads 7.*set key_dim and value_dim'),
        ({'num_layers': 0}, 'num_layers'),
        ({'key_dim': 0}, 'key_dim'),
        ({'dropout_rate': 1.0}, 'dropout_rate'),
        ({'positions': 'learned'}, 'max_length'),
        ({'source_vocab_size': 9}, "tie 'decoder'"),
        (
            {'attention_dropout_rate': 0.1, 'attention_implementation': 'cudnn'},
            'attention_dropout_rate to 0',
        ),
    ],
)
def test_impossible_settings_are_refused_with_a_remedy(options, words):
    with pytest.raises(ValueError, match=words) as error:
        dataclasses.replace(TINY, **options)
    assert isinstance(error.value, UserError)
    assert '\n' not in str(error.value)


def test_head_widths_may_be_given_where_heads_do_not_divide_the_width():
    config = dataclasses.replace(TINY, num_heads=3, key_dim=4, value_dim=6)
    kernels = parameters(config)['decoder']['layer']['cross_attention']
    assert kernels['query']['kernel'].shape == (2, 16, 3, 4)
    assert kernels['value']['kernel'].shape == (2, 16, 3, 6)
    assert kernels['output']['kernel'].shape == (2, 3, 6, 16)


def test_an_open_vocabulary_is_refused_at_build():
    with pytest.raises(UserError, match='vocab_size is open'):
        TransformerConfig().build()


def test_sentences_longer_than_learned_positions_are_refused():
    config = dataclasses.replace(TINY, positions='learned', max_length=5)
    with pytest.raises(UserError, match='max_length 5'):
        jax.eval_shape(config.build().init, jax.random.key(0), SOURCE, TARGET)
