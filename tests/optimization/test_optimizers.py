"""Optimizers against updates written out, and weight decay where it belongs."""

import re

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqzoo.errors import ConfigError
from seqzoo.optimization.optimizers import SGD, Adadelta, Adafactor, Adagrad, Adam, RMSProp


def run(optimizer, gradients, params, rate=0.1):
    transformation = optimizer.build()
    state = transformation.init(params)
    for gradient in gradients:
        updates, state = transformation.update(gradient, state, params)
        params = {k: params[k] - rate * updates[k] for k in params}
    return params


def test_adam_is_the_papers_with_bias_correction():
    generator = np.random.default_rng(0)
    start = generator.normal(size=4)
    gradients = generator.normal(size=(5, 4))
    m = v = np.zeros(4)
    wanted = start.copy()
    for n, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.98 * v + 0.02 * g * g
        wanted -= 0.1 * (m / (1 - 0.9**n)) / (np.sqrt(v / (1 - 0.98**n)) + 1e-9)
    updates = [{'kernel': jnp.asarray(g)} for g in gradients]
    found = run(Adam(), updates, {'kernel': jnp.asarray(start)})
    np.testing.assert_allclose(found['kernel'], wanted, rtol=1e-5)


def test_adam_equals_torch():
    torch = pytest.importorskip('torch')
    generator = np.random.default_rng(1)
    start, gradients = generator.normal(size=6), generator.normal(size=(4, 6))
    parameter = torch.nn.Parameter(torch.tensor(start))
    theirs = torch.optim.Adam([parameter], lr=0.1, betas=(0.9, 0.98), eps=1e-9)
    for g in gradients:
        parameter.grad = torch.tensor(g)
        theirs.step()
    updates = [{'kernel': jnp.asarray(g)} for g in gradients]
    found = run(Adam(), updates, {'kernel': jnp.asarray(start)})
    np.testing.assert_allclose(found['kernel'], parameter.detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ('ours', 'theirs', 'more'),
    [
        (RMSProp(decay_rate=0.9, epsilon=0.1), 'RMSprop', {'alpha': 0.9, 'eps': 0.1}),
        (Adagrad(initial=0.3), 'Adagrad', {'initial_accumulator_value': 0.3, 'eps': 0}),
        (SGD(weight_decay=0.2, clip_norm=1.5), 'SGD', {'weight_decay': 0.2}),
    ],
)
def test_the_optimizers_of_recurrent_papers_equal_torch(ours, theirs, more):
    torch = pytest.importorskip('torch')
    generator = np.random.default_rng(2)
    start, gradients = generator.normal(size=6), generator.normal(size=(4, 6))
    parameter = torch.nn.Parameter(torch.tensor(start))
    optimizer = getattr(torch.optim, theirs)([parameter], lr=0.1, **more)
    for g in gradients:
        parameter.grad = torch.tensor(g)
        if ours.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_([parameter], ours.clip_norm)
        optimizer.step()
    updates = [{'kernel': jnp.asarray(g)} for g in gradients]
    found = run(ours, updates, {'kernel': jnp.asarray(start)})
    np.testing.assert_allclose(found['kernel'], parameter.detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize('optimizer', [Adam(weight_decay=0.5), SGD(weight_decay=0.5)])
def test_weight_decay_leaves_biases_and_scales_alone(optimizer):
    names = ('kernel', 'table', 'bias', 'scale', 'input_bias', 'logit_bias', 'cell_norm_scale')
    params = {name: jnp.ones((2, 3)) for name in names}
    nothing = {name: jnp.zeros((2, 3)) for name in params}
    found = run(optimizer, [nothing], params)
    for name in names:
        expected = 0.95 if name in ('kernel', 'table') else 1.0
        np.testing.assert_allclose(found[name], expected, err_msg=name)


def test_clipping_is_by_the_global_norm():
    gradient = {'a': jnp.full(2, 3.0), 'b': jnp.full(2, 4.0)}
    found = run(SGD(clip_norm=1.0), [gradient], {k: jnp.zeros(2) for k in gradient}, rate=1.0)
    np.testing.assert_allclose(optax.global_norm(found), 1.0, rtol=1e-6)
    np.testing.assert_allclose(found['a'] / found['b'], 0.75, rtol=1e-6)


def test_clipping_by_value_moves_each_element():
    gradient = {'a': jnp.array([-9.0, 0.5, 7.0])}
    found = run(SGD(clip_value=2.0), [gradient], {'a': jnp.zeros(3)}, rate=1.0)
    np.testing.assert_allclose(found['a'], [2.0, -0.5, -2.0])


@pytest.mark.parametrize('optimizer', [SGD(momentum=0.9, nesterov=True), Adafactor(), Adadelta()])
def test_the_others_go_downhill(optimizer):
    params = {'kernel': jnp.full((4, 4), 3.0)}
    for _ in range(3):
        params = run(optimizer, [{'kernel': params['kernel']}] * 5, params)
    assert np.abs(params['kernel']).max() < 3.0


@pytest.mark.parametrize(
    ('build', 'said'),
    [
        (lambda: Adam(beta1=2.0), 'beta1 is 2.0'),
        (lambda: Adam(beta2=1.0), 'beta2 is 1.0'),
        (lambda: Adam(epsilon=-1e-9), 'epsilon is -1e-09'),
        (lambda: Adam(clip_norm=0.0), 'clip_norm is 0.0'),
        (lambda: SGD(clip_value=float('nan')), 'clip_value is nan'),
        (lambda: SGD(momentum=1.5), 'momentum is 1.5'),
        (lambda: SGD(weight_decay=-0.1), 'weight_decay is -0.1'),
        (lambda: Adam(beta1='0.9'), "beta1 is '0.9': it must be a number"),
    ],
)
def test_an_optimizer_that_cannot_be_is_refused(build, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        build()
