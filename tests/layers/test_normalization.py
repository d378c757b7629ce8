"""Layer normalisation and its gradients against its definition in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.layers.normalization import layer_norm

RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 3.0, (3, 5, 16))
SCALE, BIAS, G = RNG.normal(1.0, 0.3, 16), RNG.normal(0.0, 0.3, 16), RNG.normal(size=X.shape)


def reference(x, scale, bias):
    deviation = x - x.mean(-1, keepdims=True)
    return deviation / np.sqrt((deviation**2).mean(-1, keepdims=True) + 1e-6) * scale + bias


def slope(function, at, direction):
    return (function(at + 1e-6 * direction) - function(at - 1e-6 * direction)) / 2e-6


def test_it_is_the_definition():
    y = layer_norm(*(jnp.asarray(a, jnp.float32) for a in (X, SCALE, BIAS)), 1e-6)
    np.testing.assert_allclose(y, reference(X, SCALE, BIAS), atol=1e-5)


@pytest.mark.parametrize('argument', [0, 1, 2])
def test_its_gradients_are_those_of_the_definition(argument):
    arrays = [X, SCALE, BIAS]
    direction = RNG.normal(size=arrays[argument].shape)

    def loss(moved):
        return (reference(*[moved if i == argument else a for i, a in enumerate(arrays)]) * G).sum()

    def ours(*args):
        return (layer_norm(*args, 1e-6) * G).sum()

    gradient = jax.grad(ours, argument)(*(jnp.asarray(a, jnp.float32) for a in arrays))
    assert (np.asarray(gradient) * direction).sum() == pytest.approx(
        slope(loss, arrays[argument], direction), rel=1e-4
    )


def test_a_constant_row_becomes_the_bias():
    y = layer_norm(jnp.full((1, 8), 100.0), jnp.ones(8), jnp.full(8, 0.5), 1e-6)
    np.testing.assert_allclose(y, 0.5, atol=1e-2)


def test_statistics_are_float32_and_the_result_has_the_dtype_of_the_input():
    x = jnp.asarray(X, jnp.bfloat16)
    y = layer_norm(x, jnp.asarray(SCALE, jnp.float32), jnp.asarray(BIAS, jnp.float32), 1e-6)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        y.astype(jnp.float32), reference(np.asarray(x, np.float64), SCALE, BIAS), atol=2e-2
    )
