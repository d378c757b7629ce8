"""Shares of experts against a count by hand."""

import jax
import numpy as np
import pytest
from flax.core import meta

from seqzoo.analysis.experts import expert_shares
from seqzoo.errors import UserError
from seqzoo.layers.mixture import MixtureConfig
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import Elman
from seqzoo.models.recurrent_lm import RecurrentLMConfig

CONFIG = RecurrentLMConfig(
    vocab_size=8,
    embed_dim=4,
    layers=RecurrentConfig(cell=Elman(hidden_dim=4), num_layers=2),
    mixture=MixtureConfig(num_experts=3, top_k=1, mlp_dim=2),
)


def test_shares_count_every_token_of_batches_of_any_size():
    model, (tokens,) = CONFIG.build(), CONFIG.example_inputs(3, 8)
    variables = meta.unbox(jax.jit(model.init)(jax.random.key(0), tokens))
    # Embeddings pass through unchanged by time: then a token's expert is its own.
    params = variables['params']
    layer = params['stack']['layer_0']
    layer['input_kernel'] = np.eye(4, dtype=np.float32)[:, None]
    layer['recurrent_kernel'] = np.zeros((4, 1, 4), np.float32)
    gate = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    params['mixture']['gate_kernel'] = gate
    chosen = np.argmax(np.tanh(params['embedding']['table']) @ gate, axis=-1)
    batches = [tokens[:2], tokens[2:, :3]]
    read = np.concatenate([np.asarray(batch).ravel() for batch in batches])
    expected = np.bincount(chosen[read], minlength=3) / read.size
    np.testing.assert_allclose(expert_shares(model, variables, batches), expected, rtol=1e-6)
    with pytest.raises(UserError, match='no text'):
        expert_shares(model, variables, [])


def test_a_model_without_a_mixture_is_refused():
    config = RecurrentLMConfig.tiny()
    model, (tokens,) = config.build(), config.example_inputs()
    variables = jax.jit(model.init)(jax.random.key(0), tokens)
    with pytest.raises(UserError, match='0 mixtures'):
        expert_shares(model, meta.unbox(variables), [tokens])
