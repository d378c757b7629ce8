"""GPT against the models of `transformers` with copied weights: logits and greedy continuations."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from seqzoo.models.gpt import GPTConfig
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.sequence_search import causal_search

if os.environ.get('SEQZOO_REQUIRE_PARITY') == '1':
    import torch
    import transformers
else:
    torch = pytest.importorskip('torch', reason='torch is not installed: make install-parity')
    transformers = pytest.importorskip('transformers', reason='transformers is not installed')

VOCAB, HEADS, WIDTH, LAYERS, LENGTH, ROOM = 37, 3, 8, 2, 7, 6
DIM = HEADS * WIDTH
PROMPTS = [4, 7, 2]  # lengths


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision('highest'):
        yield


def array(parameter):
    return parameter.detach().numpy()


def norm(module):
    return {'layer_norm': {'scale': array(module.weight), 'bias': array(module.bias)}}


def heads(kernel, bias):
    """`[embed, embed]` kernels as ours."""
    return {'kernel': kernel.reshape(DIM, HEADS, WIDTH), 'bias': bias.reshape(HEADS, WIDTH)}


def affine(kernel, bias):
    return {'kernel': kernel, 'bias': array(bias)}


def conv1d_layer(layer):
    """A layer of GPT-1 or GPT-2, whose kernels multiply from the right as ours do."""
    kernels = np.split(array(layer.attn.c_attn.weight), 3, axis=1)
    biases = np.split(array(layer.attn.c_attn.bias), 3)
    names = ('query', 'key', 'value')
    attention = {n: heads(k, b) for n, k, b in zip(names, kernels, biases, strict=True)}
    out, mlp = layer.attn.c_proj, layer.mlp
    attention['output'] = affine(array(out.weight).reshape(HEADS, WIDTH, DIM), out.bias)
    return {
        'self_attention': attention,
        'self_attention_residual': norm(layer.ln_1),
        'feed_forward': {
            'up': affine(array(mlp.c_fc.weight), mlp.c_fc.bias),
            'down': affine(array(mlp.c_proj.weight), mlp.c_proj.bias),
        },
        'feed_forward_residual': norm(layer.ln_2),
    }


def neox_layer(layer):
    """Queries, keys and values of one head follow each other."""
    joint = layer.attention.query_key_value
    kernel = array(joint.weight).reshape(HEADS, 3, WIDTH, DIM)
    bias = array(joint.bias).reshape(HEADS, 3, WIDTH)
    attention = {
        name: {'kernel': kernel[:, i].transpose(2, 0, 1), 'bias': bias[:, i]}
        for i, name in enumerate(('query', 'key', 'value'))
    }
    out, mlp = layer.attention.dense, layer.mlp
    attention['output'] = affine(array(out.weight).T.reshape(HEADS, WIDTH, DIM), out.bias)
    return {
        'self_attention': attention,
        'self_attention_residual': norm(layer.input_layernorm),
        'feed_forward': {
            'up': affine(array(mlp.dense_h_to_4h.weight).T, mlp.dense_h_to_4h.bias),
            'down': affine(array(mlp.dense_4h_to_h.weight).T, mlp.dense_4h_to_h.bias),
        },
        'feed_forward_residual': norm(layer.post_attention_layernorm),
    }


def stacked(layers):
    return {'layer': jax.tree.map(lambda *x: np.stack(x), *layers)}


def gpt2():
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=VOCAB, n_positions=16, n_embd=DIM, n_layer=LAYERS, n_head=HEADS,
            n_inner=40, bos_token_id=0, eos_token_id=None,
        )
    )  # fmt: skip
    inner = randomized(theirs).transformer
    params = {
        'embedding': {'table': array(inner.wte.weight)},
        'positions': {'table': array(inner.wpe.weight)},
        'decoder': stacked([conv1d_layer(layer) for layer in inner.h]),
        'decoder_norm': norm(inner.ln_f)['layer_norm'],
    }
    return theirs, params, {'max_length': 16, 'mlp_dim': 40}


def gpt1():
    theirs = transformers.OpenAIGPTLMHeadModel(
        transformers.OpenAIGPTConfig(
            vocab_size=VOCAB, n_positions=16, n_embd=DIM, n_layer=LAYERS, n_head=HEADS
        )
    )
    inner = randomized(theirs).transformer
    params = {
        'embedding': {'table': array(inner.tokens_embed.weight)},
        'positions': {'table': array(inner.positions_embed.weight)},
        'decoder': stacked([conv1d_layer(layer) for layer in inner.h]),
    }
    return theirs, params, {'max_length': 16, 'norm': 'post'}


def neox():
    theirs = transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(
            vocab_size=VOCAB, max_position_embeddings=16, hidden_size=DIM, rotary_pct=0.5,
            num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=52,
            hidden_act='gelu', bos_token_id=0, eos_token_id=None, tie_word_embeddings=False,
        )
    )  # fmt: skip
    inner = randomized(theirs).gpt_neox
    assert inner.rotary_emb.inv_freq.shape == (2,)  # of four columns
    params = {
        'embedding': {'table': array(inner.embed_in.weight)},
        'decoder': stacked([neox_layer(layer) for layer in inner.layers]),
        'decoder_norm': norm(inner.final_layer_norm)['layer_norm'],
        'output': {'kernel': array(theirs.lm_head.weight).T},
    }
    options = {
        'positions': 'rotary', 'rotary_share': 0.5, 'parallel_residual': True, 'tie': False,
        'mlp_activation': 'gelu', 'mlp_dim': 52,
    }  # fmt: skip
    return theirs, params, options


def randomized(model):
    """Equal layers, biases of zero and scales of one would hide a mix-up."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize('made', [gpt2, gpt1, neox])
def test_logits_and_greedy_continuations_equal_transformers(made):
    theirs, params, options = made()
    config = GPTConfig(
        vocab_size=VOCAB, num_layers=LAYERS, embed_dim=DIM, num_heads=HEADS, **options
    )
    model = config.build()
    tokens = np.random.default_rng(0).integers(0, VOCAB, (3, LENGTH))
    shapes = meta.unbox(jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(tokens)))
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, shapes['params'])

    decoding = Decoding(method='greedy', extra_length=ROOM, stop_at_end=False)
    search = causal_search(model, decoding, VOCAB, None)
    segments = (np.arange(LENGTH) < np.array(PROMPTS)[:, None]).astype(np.int32)

    @jax.jit
    def run(params):
        variables = {'params': params}
        output: Any = model.apply(variables, tokens)
        batch = {'tokens': tokens, 'segments': segments, 'rows': jnp.arange(3)}
        logits = model.apply(variables, output.features, method='unembed')
        return logits, search(variables, batch).tokens[:, 0]

    logits, found = run(params)
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(tokens)).logits.numpy()
        np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-4)
        # Each prompt by itself: what the others are padded with must not matter.
        for row, length in enumerate(PROMPTS):
            whole = tokens[row, :length].tolist()
            for _ in range(ROOM):
                whole.append(int(theirs(torch.tensor([whole])).logits[0, -1].argmax()))
            assert found[row].tolist() == whole[length:]
