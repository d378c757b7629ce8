"""ConvS2S: the paper's stack, torch, how it starts, and what attention sees."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from seqzoo.analysis.attention import attention_weights
from seqzoo.analysis.flops import traced_flops
from seqzoo.analysis.parameters import count_parameters
from seqzoo.models.base import ConfigError
from seqzoo.models.conv_seq2seq import ConvS2SConfig

TINY = ConvS2SConfig(
    vocab_size=32,
    embed_dim=8,
    widths=(8, 12),
    windows=(3, 1),
    decoder_windows=(3, 2),
    max_length=16,
)
SOURCE, TARGET = TINY.example_inputs(2, 6)
LENGTHS = (6, 4)
SEGMENTS = (jnp.arange(6) < jnp.array(LENGTHS)[:, None]).astype(jnp.int32)


@functools.cache
def built():
    module = TINY.build()
    variables = meta.unbox(jax.jit(module.init)(jax.random.key(0), SOURCE, TARGET))
    rng = np.random.default_rng(0)
    moved = lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32)  # noqa: E731
    return module, jax.tree.map(moved, variables)


def layer_count(width, before, window):
    """A window with its lengths and biases, and the matrix of the residual."""
    own = 2 * width * (window * before + 2)
    return own + (0 if width == before else width * (before + 2))


def test_the_english_german_stack_is_the_papers():
    vocab, embed = 40_000, 512
    widths, windows = [512] * 10 + [768] * 3 + [2048] * 2, [3] * 13 + [1] * 2
    before = [512, *widths[:-1]]
    layers = sum(map(layer_count, widths, before, windows))
    ends = 512 * (embed + 2) + embed * (2048 + 2)
    attention = sum(embed * (width + 2) + width * (embed + 2) for width in widths)
    tables = 2 * (vocab + 1024) * embed
    softmax = vocab * (embed + 2)
    wanted = 2 * (layers + ends) + attention + tables + softmax
    assert count_parameters(ConvS2SConfig(vocab_size=vocab)) == wanted == 154_464_896


def in_torch(torch, params, source, target, lengths):
    """The network for one sentence each, from the paper, in torch."""
    half, functional = math.sqrt(0.5), torch.nn.functional

    def normed(own):
        kernel = own['kernel']
        return own['scale'] * kernel / kernel.pow(2).sum((0, 1)).sqrt()

    def matrix(x, own):
        return x @ normed(own['matrix'])[0] + own['matrix']['bias']

    def gated(x, own, causal):
        kernel = normed(own['convolution'])
        reach = len(kernel) - 1
        padding = (reach, 0) if causal else (reach // 2, reach // 2)
        z = functional.pad(x.T[None], padding)
        y = functional.conv1d(z, kernel.permute(2, 1, 0), own['convolution']['bias'])
        y = functional.glu(y, dim=1)[0].T
        return y, matrix(x, own['residual']) if 'residual' in own else x

    outputs = []
    for words, read, n in zip(source, target, lengths, strict=True):
        embedded = params['source_embedding']['table'][words[:n]]
        embedded = embedded + params['source_positions']['table'][:n]
        x = matrix(embedded, params['encoder_input'])
        for i in range(2):
            y, residual = gated(x, params[f'encoder_{i}'], causal=False)
            x = (y + residual) * half
        keys = matrix(x, params['encoder_output'])
        values = (keys + embedded) * half
        own = params['target_embedding']['table'][read]
        own = own + params['target_positions']['table'][: len(read)]
        x = matrix(own, params['decoder_input'])
        for i in range(2):
            layer = params[f'decoder_{i}']
            h, residual = gated(x, layer['convolution'], causal=True)
            d = (matrix(h, layer['cross_attention']['query']) + own) * half
            c = torch.softmax(d @ keys.T, dim=-1) @ values * n * math.sqrt(1 / n)
            x = (matrix(c, layer['cross_attention']['output']) + h) * half
            x = (x + residual) * half
        x = matrix(x, params['decoder_output'])
        output = params['output']
        kernel = output['scale'] * output['kernel'] / output['kernel'].norm(dim=0)
        outputs.append(x @ kernel + params['logit_bias'])
    return torch.stack(outputs)


def test_it_is_the_network_of_torch_with_its_gradients():
    torch = pytest.importorskip('torch')
    module, variables = built()

    @jax.jit
    def ours(params):
        def loss(params):
            call = functools.partial(module.apply, {'params': params})
            features = call(SOURCE, TARGET, source_segments=SEGMENTS).features
            logits = call(features, method='unembed')
            return jnp.mean(jax.nn.log_softmax(logits) ** 2), logits

        return jax.grad(loss, has_aux=True)(params)

    gradients, logits = ours(variables['params'])
    params = jax.tree.map(
        lambda p: torch.from_numpy(np.array(p)).requires_grad_(), dict(variables['params'])
    )
    source, target = (torch.from_numpy(np.array(x, np.int64)) for x in (SOURCE, TARGET))
    theirs = in_torch(torch, params, source, target, LENGTHS)
    np.testing.assert_allclose(logits, theirs.detach(), atol=1e-5)
    torch.log_softmax(theirs, dim=-1).pow(2).mean().backward()
    # What is above the encoder; the encoder's own gradients are scaled.
    for name in ('decoder_1', 'decoder_input', 'output', 'target_embedding'):
        for path, own in jax.tree_util.tree_leaves_with_path(gradients[name]):
            other = functools.reduce(lambda tree, key: tree[key.key], path, params[name])
            np.testing.assert_allclose(own, other.grad, atol=1e-5, err_msg=f'{name}{path}')
    own = gradients['encoder_0']['convolution']['kernel']
    other = params['encoder_0']['convolution']['kernel'].grad
    np.testing.assert_allclose(own, other / 4, atol=1e-5)  # by twice its reading layers


def test_it_starts_with_the_papers_deviations():
    config = ConvS2SConfig(
        vocab_size=500, embed_dim=64, widths=(96,), windows=(3,), dropout_rate=0.5
    )
    inputs = config.example_inputs()
    params = meta.unbox(jax.jit(config.build().init)(jax.random.key(0), *inputs))['params']
    kernel = params['encoder_0']['convolution']['kernel']
    assert np.std(kernel) == pytest.approx(math.sqrt(4 * 0.5 / (3 * 96)), rel=0.02)
    into = params['encoder_input']['matrix']['kernel']
    assert np.std(into) == pytest.approx(math.sqrt(0.5 / 64), rel=0.03)
    query = params['decoder_0']['cross_attention']['query']['matrix']['kernel']
    assert np.std(query) == pytest.approx(math.sqrt(1 / 96), rel=0.03)
    for table in ('source_embedding', 'target_positions'):
        assert np.std(params[table]['table']) == pytest.approx(0.1, rel=0.03)


def test_every_decoder_layer_shows_where_it_looks():
    module, variables = built()
    weights = attention_weights(
        module, variables['params'], SOURCE, TARGET, source_segments=SEGMENTS
    )
    assert weights.encoder is None
    assert weights.decoder is None
    assert weights.cross is not None
    assert weights.cross.shape == (2, 2, 1, 6, 6)
    np.testing.assert_allclose(weights.cross.sum(axis=-1), 1, atol=1e-6)
    assert (weights.cross[:, 1, :, :, 4:] == 0).all()


def test_a_step_costs_the_same_at_any_place():
    module, variables = built()
    memory = module.apply(variables, SOURCE, method='encode')
    short, long = (module.apply(variables, memory, n, method='init_cache') for n in (8, 4096))
    assert jax.tree.map(jnp.shape, short) == jax.tree.map(jnp.shape, long)
    assert [x.shape[1:] for x in short.histories] == [(2, 8), (1, 8)]


@pytest.mark.slow
def test_a_padded_vocabulary_changes_no_number_and_no_count():
    padded = dataclasses.replace(TINY, vocab_size=30, vocab_multiple=8)
    exact = dataclasses.replace(padded, vocab_multiple=1)
    found = []
    for config in (padded, exact):
        module = config.build()

        @jax.jit
        def run(module=module):
            source, target = (x % 30 for x in (SOURCE, TARGET))
            variables = meta.unbox(module.init(jax.random.key(0), source, target))
            features = module.apply(variables, source, target).features
            logits = module.apply(variables, features, method='unembed')
            return logits, variables['params']['output']['scale'].shape

        found.append(run())
    assert count_parameters(padded) == count_parameters(exact)
    assert [shape[0] for _, shape in found] == [32, 30]
    assert np.isfinite(found[0][0]).all()
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-6)


def test_the_formula_for_operations_is_what_is_traced():
    module = TINY.build()

    def forward(variables, source, target):
        features = module.apply(variables, source, target).features
        return module.apply(variables, features, method='unembed')

    assert traced_flops(forward, built()[1], SOURCE, TARGET) == TINY.flops(2, 6).forward


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match='widths has 2 layers and windows 1'):
        ConvS2SConfig(widths=(8, 8), windows=(3,))
    with pytest.raises(ConfigError, match='choose odd ones'):
        ConvS2SConfig(widths=(8,), windows=(2,))
    module, variables = built()
    long = jnp.zeros((1, 17), jnp.int32)
    with pytest.raises(ConfigError, match='learned up to max_length 16'):
        module.apply(variables, long, long)
