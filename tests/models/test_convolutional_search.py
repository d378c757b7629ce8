"""Convolutional encoder-decoders under the shared beam search: scores are those of full passes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from seqzoo.models.bytenet import ByteNetConfig
from seqzoo.models.conv_seq2seq import ConvS2SConfig
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.sequence_search import SpecialTokens, seq2seq_search

BOS, EOS = 1, 2


@pytest.mark.parametrize('config', [ConvS2SConfig.tiny(), ByteNetConfig.tiny()])
def test_a_beam_has_the_scores_of_full_passes(config):
    module, (source, target) = config.build(), config.example_inputs(2, 6)
    segments = jnp.ones_like(source).at[1, 4:].set(0)
    variables = meta.unbox(jax.jit(module.init)(jax.random.key(0), source, target))
    decoding = Decoding(method='beam', beams=3, n_best=3, extra_length=3)
    special = SpecialTokens(BOS, EOS, 0, config.vocab_size)
    search = jax.jit(seq2seq_search(module, decoding, special, source_length=6))
    batch = {'source': source, 'source_segments': segments, 'rows': jnp.arange(2)}
    found = jax.device_get(search(variables, batch))
    assert found.tokens.shape == (2, 3, 9)
    assert len({tuple(tokens) for tokens in found.tokens[0].tolist()}) == 3

    @jax.jit
    def rescored(source, segments, tokens):
        call = functools.partial(module.apply, variables)
        read = jnp.concatenate([jnp.full((3, 1), BOS), tokens[:, :-1]], axis=1)
        rows = [jnp.broadcast_to(x, (3, 6)) for x in (source, segments)]
        features = call(rows[0], read, source_segments=rows[1]).features
        log_probs = jax.nn.log_softmax(call(features, method='unembed'))
        return jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]

    for row in range(2):
        gains = np.asarray(rescored(source[row], segments[row], found.tokens[row]))
        inside = np.arange(9) < found.lengths[row][:, None]
        np.testing.assert_allclose(
            (gains * inside).sum(axis=1), found.log_probs[row], rtol=1e-5, atol=1e-5
        )
