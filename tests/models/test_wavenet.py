"""WaveNet: counts and reach of the published network, torch, conditions, generation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from seqzoo.analysis.flops import traced_flops
from seqzoo.analysis.parameters import count_parameters
from seqzoo.models.base import ConfigError
from seqzoo.models.wavenet import Condition, WaveNetConfig

SMALL = WaveNetConfig(
    vocab_size=12,
    dilations=(1, 2, 4),
    num_cycles=2,
    residual_dim=5,
    gate_dim=4,
    skip_dim=7,
    num_classes=3,
    class_dim=2,
    local_dim=3,
)
RNG = np.random.default_rng(0)
SAMPLES = RNG.integers(0, 12, size=(2, 20))
GIVEN = Condition(
    classes=jnp.array([2, 0]), local=jnp.asarray(RNG.normal(size=(2, 20, 3)), jnp.float32)
)


@functools.cache
def built():
    module = SMALL.build()
    init = functools.partial(module.init, condition=GIVEN)
    variables = meta.unbox(jax.jit(init)(jax.random.key(0), SAMPLES))
    rng = np.random.default_rng(1)
    moved = lambda p: p + 0.3 * rng.normal(size=p.shape).astype(np.float32)  # noqa: E731
    return module, jax.tree.map(moved, variables)


@functools.cache
def logits():
    module, variables = built()

    @jax.jit
    def run(samples, condition):
        features = module.apply(variables, samples, condition=condition).features
        return module.apply(variables, features, method='unembed')

    return run


def test_the_published_network_has_its_parameters_and_its_reach():
    config = WaveNetConfig()
    assert count_parameters(config) == 1_515_968
    assert config.receptive_field == 5_117
    assert WaveNetConfig(num_cycles=1, first_window=1).receptive_field == 1_024


def test_it_is_the_network_of_torch():
    torch = pytest.importorskip('torch')
    conv1d, pad = torch.nn.functional.conv1d, torch.nn.functional.pad
    params = jax.tree.map(lambda p: torch.from_numpy(np.array(p)), dict(built()[1]['params']))
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(SAMPLES), 12).float()
    x = conv1d(pad(one_hot.transpose(1, 2), (1, 0)), params['first']['kernel'].permute(2, 1, 0))
    kind = params['class_embedding']['table'][torch.from_numpy(np.array(GIVEN.classes))]
    local = torch.from_numpy(np.array(GIVEN.local))
    skip = torch.zeros(2, 20, 7)
    for cycle in range(2):
        for i, dilation in enumerate((1, 2, 4)):
            own = params['cycles']['layer'][f'layers_{i}']
            own = {k: {n: p[cycle] for n, p in v.items()} for k, v in own.items()}
            kernel, bias = own['gates']['kernel'].permute(2, 1, 0), own['gates']['bias']
            a = conv1d(pad(x, (dilation, 0)), kernel, bias, dilation=dilation).transpose(1, 2)
            a = a + (kind @ own['whole']['kernel'])[:, None] + local @ own['local']['kernel']
            z = torch.tanh(a[..., :4]) * torch.sigmoid(a[..., 4:])
            x = x + (z @ own['residual']['kernel'] + own['residual']['bias']).transpose(1, 2)
            skip = skip + z @ own['skip']['kernel'] + own['skip']['bias']
    y = torch.relu(skip) @ params['above']['kernel'] + params['above']['bias']
    wanted = torch.relu(y) @ params['output']['kernel'] + params['output']['bias']
    np.testing.assert_allclose(logits()(SAMPLES, GIVEN), wanted, atol=1e-5)


def test_a_prediction_sees_its_receptive_field_and_no_later_sample():
    assert SMALL.receptive_field == 2 * 7 + 2
    other = SAMPLES.copy()
    other[:, 2] = (other[:, 2] + 1) % 12
    moved = (logits()(other, GIVEN) != logits()(SAMPLES, GIVEN)).any(axis=(0, 2))
    assert np.flatnonzero(moved).tolist() == list(range(2, 2 + SMALL.receptive_field))


def test_conditions_reach_the_whole_sound_and_what_follows_their_place():
    plain = logits()(SAMPLES, GIVEN)
    kind = logits()(SAMPLES, Condition(classes=jnp.array([2, 1]), local=GIVEN.local))
    np.testing.assert_array_equal(kind[0], plain[0])
    assert (kind[1] != plain[1]).any(axis=-1).all()
    local = Condition(classes=GIVEN.classes, local=GIVEN.local.at[:, 5].add(1.0))
    moved = (logits()(SAMPLES, local) != plain).any(axis=(0, 2))
    assert np.flatnonzero(moved)[0] == 5


def test_a_conditioned_sound_is_generated_sample_by_sample():
    module, variables = built()
    samples = jnp.asarray(SAMPLES)
    prompt = jnp.array([4, 1])  # the rows go on from places of their own

    @jax.jit
    def generate():
        call = functools.partial(module.apply, variables)
        cache = call(2, 20, GIVEN, method='init_cache')
        _, cache = call(samples[:, :4], prompt, cache, method='extend')

        def step(carry, _):
            cache, place = carry
            token = jnp.take_along_axis(samples, place[:, None], axis=1)
            logits, cache = call(token, jnp.ones(2, jnp.int32), cache, method='extend')
            return (cache, place + 1), logits[:, 0]

        return jax.lax.scan(step, (cache, prompt), None, length=16)[1]

    found, full = generate(), logits()(SAMPLES, GIVEN)
    for row, start in enumerate((4, 1)):
        np.testing.assert_allclose(found[:, row], full[row, start : start + 16], atol=1e-5)


def test_the_formula_for_operations_is_what_is_traced():
    config = WaveNetConfig.tiny()
    module, inputs = config.build(), config.example_inputs(2, 9)
    shapes = meta.unbox(jax.eval_shape(module.init, jax.random.key(0), *inputs))

    def forward(variables, samples):
        features = module.apply(variables, samples).features
        return module.apply(variables, features, method='unembed')

    assert traced_flops(forward, shapes, *inputs) == config.flops(2, 9).forward


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match='window is 1'):
        WaveNetConfig(window=1)
    with pytest.raises(ConfigError, match='num_classes is open'):
        WaveNetConfig(class_dim=4).build()
    module, variables = built()
    with pytest.raises(ConfigError, match=r'this network needs condition\.local'):
        module.apply(variables, SAMPLES, condition=Condition(classes=GIVEN.classes))
