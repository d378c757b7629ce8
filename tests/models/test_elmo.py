"""ELMo: the paper's size, and its equations against torch's convolutions and projected LSTMs."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from seqzoo.analysis.flops import traced_flops
from seqzoo.errors import ConfigError
from seqzoo.layers.inputs import Tokens
from seqzoo.layers.recurrent import RecurrentConfig, RecurrentLayer
from seqzoo.layers.recurrent_cells import LSTM
from seqzoo.layers.spelling import ByteSpelling, WithBytes
from seqzoo.models.elmo import BiLMConfig, BiLMPretrainingConfig, ElmoConfig, ScalarMix
from seqzoo.models.labeler import LabelerConfig

BYTES, KEY, WORDS = 50, jax.random.key(0), jax.ShapeDtypeStruct((1, 2, 50), jnp.int32)
WIDE, ABOVE = LSTM(hidden_dim=500), RecurrentConfig(cell=LSTM(hidden_dim=4))


def count(config):
    shapes = jax.eval_shape(config.build().init, jax.random.key(0), *config.example_inputs(1, 2))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_the_papers_size_is_exact():
    config = BiLMConfig(words=ByteSpelling(max_bytes=BYTES))
    assert config.words.filters_dim == 2048
    assert count(config) == 93_600_864
    whole = BiLMPretrainingConfig(bilm=config, vocab_size=793_471)
    assert count(whole) - count(config) == 407_050_623
    mix = count(ElmoConfig(bilm=config, inputs=None, layers=None)) - count(config)
    assert mix == 3 + 1  # one weight for each layer, and gamma


CLIP = 0.4  # low enough that it acts


@pytest.fixture(scope='module')
def network():
    """A biLM of odd sizes, moved off its first values, and three words of a sentence and one."""
    cell = LSTM(hidden_dim=7, projection_dim=5)
    layers = RecurrentConfig(cell=cell, num_layers=2, residual_from=1)
    words = ByteSpelling(
        num_bytes=17, max_bytes=9, byte_dim=3, filters=((1, 2), (2, 3), (5, 4)), embed_dim=5
    )
    config = BiLMConfig(words=words, layers=layers)
    inputs = jnp.asarray(np.random.default_rng(0).integers(1, 17, (2, 4, 9)), jnp.int32)
    return config, numbers(config.build(), inputs), inputs


def numbers(module, inputs):
    """Variables of the shapes that a module has, drawn without compiling how it starts them."""
    rng = np.random.default_rng(2)
    shapes = meta.unbox(jax.eval_shape(module.init, jax.random.key(0), inputs))
    return jax.tree.map(lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype), shapes)


def spelled(torch, params, inputs):
    """Words by torch: convolutions, the largest of each, highway layers, the projection."""
    x = torch.tensor(np.asarray(params['signs']['table']))[torch.tensor(np.asarray(inputs))]
    x = x.reshape(-1, *x.shape[2:]).transpose(1, 2)
    found = []
    for width in (1, 2, 5):
        own = params[f'filters_{width}']
        conv = torch.nn.Conv1d(3, own['bias'].shape[0], width)
        with torch.no_grad():
            conv.weight.copy_(torch.tensor(np.asarray(own['kernel'])).permute(2, 1, 0))
            conv.bias.copy_(torch.tensor(np.asarray(own['bias'])))
        found.append(torch.relu(conv(x).amax(dim=2)))
    y = torch.cat(found, dim=1)
    for layer in (params['highway_0'], params['highway_1']):
        kernel, bias = (torch.tensor(np.asarray(layer[name])) for name in ('kernel', 'bias'))
        transform = torch.relu(y @ kernel[:, 0] + bias[0])
        gate = torch.sigmoid(y @ kernel[:, 1] + bias[1])
        y = gate * transform + (1 - gate) * y
    kernel, bias = (torch.tensor(np.asarray(params['projection'][n])) for n in ('kernel', 'bias'))
    return (y @ kernel + bias).reshape(*inputs.shape[:2], -1)


def projected_lstm(torch, params):
    """`torch.nn.LSTM` with `proj_size`; gates i, f, g, o in both."""
    lstm = torch.nn.LSTM(5, 7, proj_size=5, batch_first=True)
    copied = {
        'weight_ih_l0': params['input_kernel'].reshape(5, -1).T,
        'weight_hh_l0': params['recurrent_kernel'].reshape(5, -1).T,
        'bias_ih_l0': params['input_bias'].reshape(-1),
        'bias_hh_l0': np.zeros(28, np.float32),
        'weight_hr_l0': params['projection_kernel'].T,
    }
    lstm.load_state_dict({k: torch.tensor(np.array(v)) for k, v in copied.items()})
    return lstm


def test_every_layer_is_that_of_torch(network):
    torch = pytest.importorskip('torch')
    config, variables, inputs = network
    params = variables['params']
    with torch.no_grad():
        x = spelled(torch, params['words'], inputs)
        wanted = [[x, x]]
        for i in range(2):
            row = []
            for side, way in enumerate(('forward', 'backward')):
                below = wanted[-1][side]
                turned = below.flip(1) if way == 'backward' else below
                y = projected_lstm(torch, params[way][f'layer_{i}'])(turned)[0]
                y = y.flip(1) if way == 'backward' else y
                row.append(y + below if i else y)
            wanted.append(row)
    found = jax.jit(
        lambda v, x: config.build().apply(v, x, method='every_layer'),
    )(variables, inputs)
    assert len(found) == 3
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, np.concatenate(theirs, axis=-1), rtol=1e-4, atol=1e-5)


def test_the_mix_is_the_weighted_mean_of_the_layers_times_gamma():
    layers = np.random.default_rng(1).normal(size=(3, 2, 4, 6)).astype(np.float32)
    v = np.array([0.5, -1.0, 2.0], np.float32)
    variables = {'params': {'weights': v, 'gamma': np.float32(1.5)}}
    s = np.exp(v) / np.exp(v).sum()
    plain = ScalarMix(False, jnp.dtype('float32')).apply(variables, tuple(layers))
    np.testing.assert_allclose(plain, 1.5 * np.einsum('j,jbld->bld', s, layers), rtol=1e-5)
    mean, deviation = layers.mean(-1, keepdims=True), layers.std(-1, keepdims=True)
    normal = ScalarMix(True, jnp.dtype('float32')).apply(variables, tuple(layers))
    wanted = 1.5 * np.einsum('j,jbld->bld', s, (layers - mean) / deviation)
    np.testing.assert_allclose(normal, wanted, rtol=1e-4, atol=1e-5)


def test_cells_and_projections_stay_within_their_bounds():
    """By the equations in NumPy, with bounds that act; the clipped cell is what is handed on."""
    cell = LSTM(hidden_dim=3, projection_dim=2, cell_clip=CLIP, projection_clip=0.05)
    layer, x = RecurrentLayer(cell, jnp.dtype('float32')), jnp.ones((1, 5, 2)) * 2
    variables = numbers(layer, x)
    found = jax.jit(layer.apply)(variables, x)
    p = {name: np.asarray(value, np.float64) for name, value in variables['params'].items()}
    h, c, clipped = np.zeros(2), np.zeros(3), [0, 0]
    for step in range(5):
        gates = np.einsum('i,igh->gh', x[0, step], p['input_kernel']) + p['input_bias']
        gates = gates + np.einsum('i,igh->gh', h, p['recurrent_kernel'])
        i, f, o = (1 / (1 + np.exp(-gates[n])) for n in (0, 1, 3))
        free = f * c + i * np.tanh(gates[2])
        c = np.clip(free, -CLIP, CLIP)
        out = (o * np.tanh(c)) @ p['projection_kernel']
        h = np.clip(out, -0.05, 0.05)
        clipped = [clipped[0] + np.sum(free != c), clipped[1] + np.sum(out != h)]
        np.testing.assert_allclose(found.features[0, step], h, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.carry['c'][0], c, rtol=1e-5)
    assert min(clipped) > 0

    # Along a direction, by differences; what is clipped has no part in it.
    @jax.jit
    def total(variables):
        return jnp.sum(jnp.sin(5 * layer.apply(variables, x / 8).features))

    direction = jax.tree.map(lambda v: 0.3 * jnp.cos(7 * v), variables)
    gradient = jax.jit(jax.grad(total))(variables)
    wanted = sum(map(jnp.vdot, *map(jax.tree.leaves, (gradient, direction))))
    ends = [jax.tree.map(lambda v, d, e=e: v + e * d, variables, direction) for e in (1e-2, -1e-2)]
    found = (total(ends[0]) - total(ends[1])) / 2e-2
    assert abs(wanted) > 1e-2
    np.testing.assert_allclose(found, wanted, rtol=2e-2)
    with pytest.raises(ConfigError, match='projection_clip'):
        LSTM(hidden_dim=3, projection_clip=3.0)
    with pytest.raises(ConfigError, match='cell_clip'):
        LSTM(hidden_dim=3, cell_clip=0.0)


def test_a_frozen_bilm_gets_no_gradient_and_drops_nothing(network):
    bilm, variables, words = network
    config = ElmoConfig(
        bilm=bilm, elmo_dropout_rate=0.0, inputs=Tokens(vocab_size=9, embed_dim=2), layers=None
    )
    model, inputs = config.build(), WithBytes(jnp.zeros((2, 4), jnp.int32), words)
    params = numbers(model, inputs)['params']
    params['bilm'] = variables['params']  # as another run leaves them

    @jax.jit
    @jax.grad
    def gradients(params):
        features = model.apply(
            {'params': params}, inputs, train=True, rngs={'dropout': jax.random.key(0)}
        ).features
        return jnp.sum(jnp.sin(features))

    found = gradients(params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(found['bilm']))
    assert np.all(np.abs(found['mix']['weights']) > 0)
    assert np.abs(found['mix']['gamma']) > 0


def test_what_pretraining_leaves_fits_below_a_labeler():
    small = BiLMConfig.tiny()
    lower = BiLMPretrainingConfig(bilm=small, vocab_size=13)
    upper = LabelerConfig(encoder=ElmoConfig.tiny(), num_outputs=2, pooling='max')
    assert upper.backbone == ('encoder', 'bilm')
    found = []
    for config in (lower, upper):
        shapes = jax.eval_shape(config.build().init, KEY, *config.example_inputs())['params']
        part = config
        for name in config.backbone:
            shapes, part = shapes[name], getattr(part, name)
        assert part == small
        found.append(jax.tree.map(lambda x: x.shape, meta.unbox(shapes)))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    'config',
    [BiLMPretrainingConfig.tiny(), replace(ElmoConfig.tiny(), layers=ABOVE)],
    ids=['bilm', 'elmo'],
)
def test_the_formula_counts_the_products_of_the_traced_program(config):
    module, length = config.build(), 7
    variables = jax.eval_shape(module.init, KEY, *config.example_inputs())
    inputs = jax.eval_shape(lambda: config.example_inputs(2, length))

    def forward(module, inputs):
        features = module(inputs).features
        return module.unembed(features) if hasattr(module, 'unembed') else features

    run = functools.partial(module.apply, method=forward)
    traced = traced_flops(run, meta.unbox(variables), *inputs)
    assert config.flops(2, length).forward == traced


@pytest.mark.parametrize(
    ('field', 'make'),
    [
        ('directions', lambda: BiLMConfig(layers=RecurrentConfig(cell=WIDE, directions='summed'))),
        ('make all equal', lambda: BiLMConfig(layers=RecurrentConfig(cell=WIDE, num_layers=2))),
        ('max_bytes', lambda: ByteSpelling(max_bytes=6)),
        ('filters', lambda: ByteSpelling(filters=())),
        ('elmo_dropout_rate', lambda: ElmoConfig(elmo_dropout_rate=1.0)),
        ('max_bytes is open', lambda: jax.eval_shape(BiLMConfig().build().init, KEY, WORDS)),
        ('vocab_size is open', lambda: BiLMPretrainingConfig().build()),
    ],
)
def test_impossible_hyperparameters_are_refused_by_name(field, make):
    with pytest.raises(ConfigError, match=field):
        make()
