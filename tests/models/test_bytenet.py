"""ByteNet: torch, dynamic unfolding, reach, and state that goes on."""

import dataclasses
import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from hypothesis import strategies as st

from seqzoo.analysis.flops import traced_flops
from seqzoo.layers.dilated_blocks import DilatedConfig
from seqzoo.models.base import ConfigError
from seqzoo.models.bytenet import ByteNetConfig, ByteNetLMConfig

LAYERS = DilatedConfig(hidden_dim=6, dilations=(1, 3), num_sets=2)
LM = ByteNetLMConfig(
    vocab_size=32, layers=dataclasses.replace(LAYERS, unit='multiplicative'), dropout_rate=0.0
)
PAIR = ByteNetConfig(vocab_size=32, encoder=LAYERS, decoder=LAYERS)


@functools.cache
def built(config):
    module, inputs = config.build(), config.example_inputs(2, 10)
    variables = meta.unbox(jax.jit(module.init)(jax.random.key(0), *inputs))
    rng = np.random.default_rng(0)
    moved = lambda p: p + 0.2 * rng.normal(size=p.shape).astype(np.float32)  # noqa: E731
    return module, jax.tree.map(moved, variables)


@functools.partial(jax.jit, static_argnums=0)
def logits_of(config, variables, *inputs, **segments):
    module = config.build()
    features = module.apply(variables, *inputs, **segments).features
    return module.apply(variables, features, method='unembed')


class InTorch:
    """The network of one sentence, written from the paper's figures."""

    def __init__(self, torch, variables):
        self.torch, params = torch, dict(variables['params'])
        self.params = jax.tree.map(lambda p: torch.from_numpy(np.array(p)), params)

    def norm(self, x, own):
        shape = (x.shape[-1],)
        return self.torch.nn.functional.layer_norm(x, shape, own['scale'], own['bias'], 1e-6)

    def block(self, x, own, layers, dilation, causal):
        torch = self.torch
        h = torch.relu(self.norm(x, own['norm_in'])) @ own['in']['kernel'] + own['in']['bias']
        h = self.norm(h, own['norm_hidden'])
        h = h if layers.unit == 'multiplicative' else torch.relu(h)
        kernel = own['convolution']['kernel'].permute(2, 1, 0)
        reach = dilation * (layers.window - 1)
        around = (reach, 0) if causal else (reach // 2, reach // 2)
        padded = torch.nn.functional.pad(h.T[None], around)
        z = torch.nn.functional.conv1d(
            padded, kernel, own['convolution']['bias'], dilation=dilation
        )[0].T
        if layers.unit == 'multiplicative':
            one, two, three, update = z.chunk(4, dim=-1)
            u = torch.tanh(two.sigmoid() * h + three.sigmoid() * torch.tanh(update))
            z = one.sigmoid() * u
        else:
            z = torch.relu(self.norm(z, own['norm_out']))
        return x + z @ own['out']['kernel'] + own['out']['bias']

    def stack(self, x, side, layers, causal):
        for number in range(layers.num_sets):
            for i, dilation in enumerate(layers.dilations):
                own = self.params[side]['layer'][f'blocks_{i}']
                own = {k: {n: p[number] for n, p in v.items()} for k, v in own.items()}
                x = self.block(x, own, layers, dilation, causal)
        return x

    def top(self, x):
        own = self.params['top']
        x = self.torch.relu(self.norm(x, own['norm'])) @ own['matrix']['kernel']
        x = self.torch.relu(x + own['matrix']['bias'])
        return x @ self.params['output']['kernel'] + self.params['logit_bias']


def test_the_language_model_is_the_network_of_torch():
    torch = pytest.importorskip('torch')
    (tokens,) = LM.example_inputs(2, 32)
    other = InTorch(torch, built(LM)[1])
    x = other.params['embedding']['table'][torch.from_numpy(np.array(tokens[1], np.int64))]
    wanted = other.top(other.stack(x, 'decoder', LM.layers, causal=True))
    np.testing.assert_allclose(logits_of(LM, built(LM)[1], tokens)[1], wanted, atol=1e-5)


def test_the_encoder_decoder_is_the_network_of_torch():
    torch = pytest.importorskip('torch')
    source, target = PAIR.example_inputs(1, 10)
    other = InTorch(torch, built(PAIR)[1])
    ids = [torch.from_numpy(np.array(x[0], np.int64)) for x in (source[:, :5], target)]
    x = torch.zeros(6, 12)  # 1.2 times 5
    x[:5] = other.params['source_embedding']['table'][ids[0]]
    columns = other.norm(
        other.stack(x, 'encoder', PAIR.encoder, causal=False), other.params['encoder_norm']
    )
    below = torch.zeros(10, 12)  # the target goes on behind the last column
    below[:6] = columns
    own = other.params['target_embedding']['table'][ids[1]]
    join = other.params['join']
    x = torch.cat([own, below], dim=-1) @ join['kernel'] + join['bias']
    wanted = other.top(other.stack(x, 'decoder', PAIR.decoder, causal=True))
    found = logits_of(PAIR, built(PAIR)[1], source[:, :5], target)
    np.testing.assert_allclose(found[0], wanted, atol=1e-5)


def test_a_source_has_its_own_places_whatever_it_is_padded_to():
    source, _ = PAIR.example_inputs(2, 10)
    segments = (jnp.arange(10) < jnp.array([10, 5])[:, None]).astype(jnp.int32)
    module, variables = built(PAIR)
    memory = module.apply(variables, source, source_segments=segments, method='encode')
    assert memory.shape == (2, 12, 12)
    assert (memory[1, 6:] == 0).all()
    alone = module.apply(variables, source[1:, :5], method='encode')
    np.testing.assert_allclose(memory[1, :6], alone[0], atol=1e-5)


@pytest.mark.parametrize(('factor', 'extra', 'length', 'places'), [
    (1.2, 0.0, 5, 6), (1.2, 0.0, 4, 4), (1.0, 0.0, 7, 7), (1.1, 10.0, 30, 43), (1.5, 0.0, 3, 4),
])  # fmt: skip
def test_the_places_of_a_source(factor, extra, length, places):
    config = ByteNetConfig(unfold_factor=factor, unfold_extra=extra)
    assert config.unfolded(length) == places


@hypothesis.given(place=st.integers(0, 12))
@hypothesis.settings(max_examples=6)
def test_a_logit_sees_the_receptive_field_and_nothing_later(place):
    tokens = np.ones((2, 32), np.int32)
    tokens[1, place] = 2
    logits = logits_of(LM, built(LM)[1], tokens)
    moved = np.flatnonzero((logits[0] != logits[1]).any(axis=1))
    assert moved.min() == place
    assert moved.max() == place + LM.layers.receptive_field - 1 == place + 16


def test_the_papers_character_model_sees_373_characters():
    assert ByteNetLMConfig().layers.receptive_field == 1 + 2 * 31 * 6 == 373


def test_the_formula_for_operations_is_what_is_traced():
    for config in (LM, PAIR):
        inputs = config.example_inputs(2, 10)
        traced = traced_flops(
            lambda variables, *inputs, config=config: logits_of(config, variables, *inputs),
            built(config)[1],
            *inputs,
        )
        assert traced == config.flops(2, 10).forward


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match='the source needs its own places'):
        ByteNetConfig(unfold_factor=0.8)
    with pytest.raises(ConfigError, match='make them equal'):
        ByteNetConfig(encoder=DilatedConfig(hidden_dim=4))
    with pytest.raises(ConfigError, match='choose relu or multiplicative'):
        DilatedConfig(unit='gated')  # type: ignore[arg-type]
