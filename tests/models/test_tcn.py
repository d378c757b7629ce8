"""Temporal convolutional networks: counts, torch, reach, histories."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from hypothesis import strategies as st

from seqzoo.analysis.flops import traced_flops
from seqzoo.analysis.parameters import count_parameters
from seqzoo.layers.inputs import Ids, Numbers
from seqzoo.models.base import ConfigError
from seqzoo.models.labeler import LabelerConfig
from seqzoo.models.tcn import TCNConfig, TCNEncoderConfig, TCNLayers


def labeler(inputs, num_outputs, per='sequence', **layers):
    encoder = TCNEncoderConfig(inputs=inputs, layers=TCNLayers(**layers))
    return LabelerConfig(encoder=encoder, num_outputs=num_outputs, per=per, pooling='last')


@pytest.mark.parametrize(
    ('config', 'count'),
    [
        (labeler(Numbers(input_dim=2), 1, window=8, num_layers=8, hidden_dim=24), 70_369),
        (labeler(Numbers(input_dim=1), 10, window=7, num_layers=8, hidden_dim=25), 66_910),
        (labeler(Ids(), 10, 'step', window=8, num_layers=8, hidden_dim=10), 12_530),
        (TCNConfig(vocab_size=10_000), 14_659_600),
    ],
    ids=['adding', 'sequential MNIST', 'copy memory', 'words of PTB'],
)
def test_the_published_networks_have_their_parameters(config, count):
    assert count_parameters(config) == count


@functools.cache
def built(config):
    module = config.build()
    variables = meta.unbox(jax.jit(module.init)(jax.random.key(0), *config.example_inputs()))
    rng = np.random.default_rng(0)
    moved = lambda p: p + 0.2 * rng.normal(size=p.shape).astype(np.float32)  # noqa: E731
    return module, jax.tree.map(moved, variables)


def test_it_is_the_network_of_torch():
    torch = pytest.importorskip('torch')
    functional = torch.nn.functional
    layers = TCNLayers(num_layers=3, hidden_dim=5, window=3)
    module, variables = built(TCNEncoderConfig(inputs=Numbers(input_dim=2), layers=layers))
    x = np.random.default_rng(1).normal(size=(2, 12, 2)).astype(np.float32)
    z = torch.from_numpy(x).transpose(1, 2)
    for i in range(3):
        own = jax.tree.map(
            lambda p: torch.from_numpy(np.array(p)),
            dict(variables['params']['stack'][f'block_{i}']),
        )
        y = z
        for j in range(2):
            weights = own[f'convolution_{j}']
            layer = torch.nn.utils.parametrizations.weight_norm(
                torch.nn.Conv1d(y.shape[1], 5, 3, dilation=2**i)
            )
            with torch.no_grad():
                layer.parametrizations.weight.original1.copy_(weights['kernel'].permute(2, 1, 0))
                layer.parametrizations.weight.original0.copy_(weights['scale'][:, None, None])
                layer.bias.copy_(weights['bias'])
            y = torch.relu(layer(functional.pad(y, (2 * 2**i, 0))))
        if 'residual' in own:
            kernel, bias = own['residual']['kernel'].T[..., None], own['residual']['bias']
            z = functional.conv1d(z, kernel, bias)
        z = torch.relu(y + z)
    found = module.apply(variables, x)
    np.testing.assert_allclose(found.features, z.detach().transpose(1, 2), atol=1e-5)
    np.testing.assert_allclose(found.pooled, z.detach()[..., -1], atol=1e-5)


@hypothesis.given(window=st.integers(2, 4), num_layers=st.integers(1, 3), place=st.integers(0, 8))
@hypothesis.settings(max_examples=3)
def test_an_output_sees_its_receptive_field_and_nothing_later(window, num_layers, place):
    layers = TCNLayers(num_layers=num_layers, hidden_dim=2, window=window)
    config = TCNEncoderConfig(inputs=Numbers(input_dim=1), layers=layers)
    x = np.ones((2, place + layers.receptive_field + 3, 1), np.float32)
    x[1, place] += 1

    @jax.jit
    def run(x):
        variables = config.build().init(jax.random.key(0), x)
        positive = jax.tree.map(jnp.abs, meta.unbox(variables))  # no ReLU closes, nothing cancels
        return config.build().apply(positive, x).features

    features = run(x)
    moved = np.flatnonzero((features[0] != features[1]).any(axis=1))
    assert moved.tolist() == list(range(place, place + layers.receptive_field))


def test_a_language_model_generates_without_looking_back_at_the_text():
    config = TCNConfig(
        vocab_size=11, embed_dim=6, layers=TCNLayers(num_layers=3, hidden_dim=6, window=3)
    )
    module, variables = built(config)
    tokens = np.random.default_rng(0).integers(0, 11, size=(2, 40))
    output = module.apply(variables, tokens)
    full = module.apply(variables, output.features, method='unembed')

    @jax.jit
    def steps(tokens):
        def step(cache, token):
            logits, cache = module.apply(
                variables, token[:, None], jnp.ones(2, jnp.int32), cache, method='extend'
            )
            return cache, logits[:, 0]

        empty = module.apply(variables, 2, 40, method='init_cache')
        return jax.lax.scan(step, empty, tokens.T)[1].swapaxes(0, 1)

    np.testing.assert_allclose(steps(jnp.asarray(tokens)), full, atol=1e-5)
    sizes = [x.shape[1] for x in jax.tree.leaves(config.initial_carry(2))]
    assert sizes == [2, 2, 4, 4, 8, 8]


def test_the_formula_for_operations_is_what_is_traced():
    encoder = labeler(Numbers(input_dim=2), 3, window=3, num_layers=3, hidden_dim=4)
    for config in (encoder, TCNConfig.tiny()):
        inputs = config.example_inputs(2, 16)
        shapes = jax.eval_shape(config.build().init, jax.random.key(0), *inputs)

        def forward(variables, *inputs, config=config):
            module = config.build()
            found = module.apply(variables, *inputs)
            is_labels = hasattr(found, 'outputs')
            return (
                found.outputs
                if is_labels
                else module.apply(variables, found.features, method='unembed')
            )

        assert traced_flops(forward, meta.unbox(shapes), *inputs) == config.flops(2, 16).forward


def test_dropout_takes_whole_channels():
    layers = TCNLayers(num_layers=1, hidden_dim=64, window=2, dropout_rate=0.5)
    module, variables = built(TCNEncoderConfig(inputs=Numbers(input_dim=64), layers=layers))
    x = np.zeros((1, 6, 64), np.float32)  # the residual brings nothing
    key = {'dropout': jax.random.key(1)}
    features = np.asarray(module.apply(variables, x, train=True, rngs=key).features[0, 2:])
    dead = (features == 0).all(axis=0)
    assert 0 < dead.sum() < 64
    assert (features[:, ~dead] != 0).all()


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match='window is 1: give at least 2'):
        TCNLayers(window=1)
    with pytest.raises(ConfigError, match='output_dim to embed_dim'):
        TCNConfig(embed_dim=100)
