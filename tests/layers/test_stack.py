"""Stacks: one set of parameters, however it is run, and layers that can be taken out of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.core import meta

from seqzoo.layers.dropout import Dropout
from seqzoo.layers.linear import Linear
from seqzoo.layers.stack import Stack


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, context):
        update = jnp.tanh(Linear((4,), ('embed',), ('embed',), True, jnp.float32)(x)) + context
        self.sow('intermediates', 'update', update)
        return x + Dropout(0.5)(update, True)


STACK = Stack(Layer(), num_layers=3)
X, CONTEXT = jnp.linspace(-1.0, 1.0, 8).reshape(2, 4), jnp.float32(0.3)
RNGS = {'dropout': jax.random.key(1)}


@pytest.fixture(scope='module')
def variables():
    return STACK.init({'params': jax.random.key(0), **RNGS}, X, CONTEXT)


def test_parameters_have_a_named_axis_of_layers_and_differ_along_it(variables):
    kernel = variables['params']['layer']['Linear_0']['kernel']
    assert kernel.names == ('layers', 'embed', 'embed')
    assert kernel.value.shape == (3, 4, 4)
    assert np.abs(kernel.value[0] - kernel.value[1]).max() > 0.1


@pytest.mark.parametrize('scan', [True, False])
@pytest.mark.parametrize('remat', ['none', 'full', 'dots'])
def test_every_way_to_run_gives_the_same_gradients_and_dropout(variables, scan, remat):
    def loss(params, stack):
        return jnp.square(stack.apply({'params': params}, X, CONTEXT, rngs=RNGS)).sum()

    params = meta.unbox(variables['params'])
    other = dataclasses.replace(STACK, scan=scan, remat=remat)
    expected, gradients = (
        jax.jit(jax.grad(loss), static_argnums=1)(params, s) for s in (STACK, other)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradients, expected)


def test_layers_draw_different_dropout(variables):
    _, sown = STACK.apply(variables, 0 * X, CONTEXT, rngs=RNGS, mutable=['intermediates'])
    assert sown['intermediates']['layer']['update'][0].shape == (3, 2, 4)
    still = jax.tree.map(jnp.zeros_like, meta.unbox(variables))  # every update is the context
    total = STACK.apply(still, jnp.zeros((64, 4)), CONTEXT, rngs=RNGS) / 0.6
    counts = np.bincount(np.asarray(jnp.round(total), int).ravel(), minlength=4)
    # Three independent coins: 1 3 3 1. Equal masks in all layers would give only 0 and 3.
    np.testing.assert_allclose(counts / counts.sum(), [1 / 8, 3 / 8, 3 / 8, 1 / 8], atol=0.1)


def test_bound_layers_hold_their_own_slice_in_the_wanted_dtype(variables):
    stacked = meta.unbox(variables)['params']['layer']['Linear_0']['kernel']
    layers = STACK.bind(variables).unstack(jnp.dtype('bfloat16'))
    for i, params in enumerate(layers):
        kernel = params['Linear_0']['kernel']
        assert kernel.dtype == jnp.bfloat16
        np.testing.assert_array_equal(kernel, stacked[i].astype(jnp.bfloat16))
