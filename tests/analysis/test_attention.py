"""Attention weights, collected from what layers sow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from seqzoo.analysis.attention import (
    AttentionWeights,
    attention_weights,
    collect,
    cross_attention,
)
from seqzoo.errors import UserError
from seqzoo.models.transformer import TransformerConfig


def distributions(*shape):
    return np.random.default_rng(0).dirichlet(np.ones(shape[-1]), size=shape[:-1])


def test_sown_weights_are_sorted_by_the_modules_they_come_from():
    encoder, decoder, cross = (distributions(2, 1, 4, 3, 3 + i) for i in range(3))
    sown = {
        'encoder': {'layer': {'self_attention': {'attention_weights': (encoder,)}}},
        'decoder': {
            'layer': {
                'self_attention': {'attention_weights': (decoder,), 'other': (jnp.ones(3),)},
                'cross_attention': {'attention_weights': (cross,)},
            }
        },
    }
    weights = collect(sown)
    np.testing.assert_allclose(weights.encoder, encoder, rtol=1e-6)
    np.testing.assert_allclose(weights.decoder, decoder, rtol=1e-6)
    np.testing.assert_allclose(weights.cross, cross, rtol=1e-6)


def test_layers_that_are_not_stacked_keep_their_order_beyond_nine():
    layers = {
        f'layer_{i}': {'self_attention': {'attention_weights': (np.full((1, 1, 1, 1), i),)}}
        for i in range(12)
    }
    decoder = collect(layers).decoder
    assert decoder is not None
    assert decoder.ravel().tolist() == list(range(12))


def test_a_model_that_does_not_attend_is_refused_in_words():
    with pytest.raises(UserError, match='no attention'):
        collect({'encoder': {'hidden': (np.ones(3),)}})


def test_heads_are_cut_to_the_sentence_and_the_layer_is_chosen():
    cross = distributions(3, 2, 4, 5, 6)
    weights = AttentionWeights(cross=cross)
    chosen = weights.heads('cross', layer=1, row=1, num_queries=2, num_keys=3)
    np.testing.assert_array_equal(chosen, cross[1, 1, :, :2, :3])
    np.testing.assert_array_equal(weights.heads('cross'), cross[2, 0])


def test_means_over_heads_and_layers_remain_distributions():
    cross = distributions(3, 2, 4, 5, 6)
    weights = AttentionWeights(cross=cross)
    np.testing.assert_allclose(weights.mean('cross', row=1), cross[:, 1].mean(axis=(0, 1)))
    np.testing.assert_allclose(weights.mean('cross', layer=0), cross[0, 0].mean(axis=0))
    np.testing.assert_allclose(weights.mean('cross').sum(axis=-1), 1)


@pytest.mark.parametrize('layer', [3, -4])
def test_a_layer_that_does_not_exist_is_named_with_the_choice(layer):
    weights = AttentionWeights(encoder=distributions(3, 1, 1, 2, 2))
    with pytest.raises(UserError, match=f'no layer {layer}.*from 0 to 2'):
        weights.heads('encoder', layer=layer)


def test_missing_cross_attention_is_said():
    with pytest.raises(UserError, match='no cross attention'):
        AttentionWeights().mean('cross')


# The Transformer


@pytest.fixture(scope='module')
def transformer():
    config = TransformerConfig(
        vocab_size=32,
        num_encoder_layers=3,
        num_decoder_layers=2,
        embed_dim=16,
        mlp_dim=32,
        num_heads=4,
    )
    model = config.build()
    # Random arrays of the right shapes: compiling the initializers would take longer than the test.
    variables = jax.eval_shape(model.init, jax.random.key(0), *config.example_inputs())
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: random.normal(size=x.shape).astype(np.float32),
        nn.meta.unbox(variables)['params'],
    )
    source = jnp.array([[5, 6, 7, 8, 9, 0], [3, 4, 5, 0, 0, 0]])
    target = jnp.array([[1, 5, 6, 7], [1, 8, 9, 0]])
    segments = {
        'source_segments': jnp.array([[1] * 5 + [0], [1] * 3 + [0] * 3]),
        'target_segments': jnp.array([[1] * 4, [1] * 3 + [0]]),
    }
    return model, params, source, target, segments


def test_every_attention_of_the_transformer_comes_out(transformer):
    model, params, source, target, segments = transformer
    weights = attention_weights(model, params, source, target, **segments)
    assert weights.encoder.shape == (3, 2, 4, 6, 6)
    assert weights.decoder.shape == (2, 2, 4, 4, 4)
    assert weights.cross.shape == (2, 2, 4, 4, 6)
    for array in (weights.encoder[:, 0], weights.decoder[:, 0], weights.cross[:, 0]):
        rows = array[:, :, :4]
        np.testing.assert_allclose(rows.sum(axis=-1), 1, rtol=1e-5)
    # Padding is never attended to, and the decoder never looks ahead.
    assert np.all(weights.encoder[:, 1, :, :3, 3:] == 0)
    assert np.all(weights.cross[:, 0, :, :, 5:] == 0)
    assert np.all(np.triu(weights.decoder[:, 0], 1) == 0)


def test_cross_attention_is_the_mean_over_heads_of_a_layer_or_of_all(transformer):
    model, params, source, target, segments = transformer
    weights = attention_weights(model, params, source, target, **segments).cross
    everything = cross_attention(model, params, source, target, **segments)
    np.testing.assert_allclose(everything, weights.mean(axis=(0, 2)), rtol=1e-6)
    top = cross_attention(model, params, source, target, **segments, layer=-1)
    np.testing.assert_allclose(top, weights[-1].mean(axis=1), rtol=1e-6)
