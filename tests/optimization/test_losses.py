"""Cross-entropy against sums written out in NumPy, its hand-written gradient against autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqzoo.optimization.losses import smoothed_cross_entropy


def written_out(logits: np.ndarray, targets: np.ndarray, smoothing: float) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    vocab = logits.shape[-1]
    wanted = np.full(logits.shape, smoothing / vocab)
    np.put_along_axis(wanted, targets[..., None], 1 - smoothing + smoothing / vocab, -1)
    return -(wanted * log_probs).sum(-1)


@pytest.fixture
def example():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(3, 5, 11)).astype(np.float32) * 3
    return logits, generator.integers(0, 11, size=(3, 5)).astype(np.int32)


@pytest.mark.parametrize('smoothing', [0.0, 0.1, 0.5])
def test_the_loss_is_the_cross_entropy_with_the_smoothed_distribution(example, smoothing):
    loss, nll = smoothed_cross_entropy(*map(jnp.asarray, example), smoothing)
    np.testing.assert_allclose(loss, written_out(*example, smoothing), rtol=2e-5)
    np.testing.assert_allclose(nll, written_out(*example, 0.0), rtol=2e-5)


@given(st.integers(2, 9), st.floats(0, 0.9), st.integers(0, 2**31))
def test_the_gradient_is_that_of_autodiff(vocab, smoothing, seed):
    generator = np.random.default_rng(seed)
    logits = jnp.asarray(generator.normal(size=(4, vocab)), jnp.float32)
    targets = jnp.asarray(generator.integers(0, vocab, size=4), jnp.int32)
    weights = jnp.asarray(generator.random(4), jnp.float32)

    def plain(z):
        log_probs = jax.nn.log_softmax(z)
        wanted = (1 - smoothing) * jax.nn.one_hot(targets, vocab) + smoothing / vocab
        return -(weights * (wanted * log_probs).sum(-1)).sum()

    def ours(z):
        return (weights * smoothed_cross_entropy(z, targets, smoothing)[0]).sum()

    np.testing.assert_allclose(jax.grad(ours)(logits), jax.grad(plain)(logits), atol=2e-6)


def test_the_reported_likelihood_carries_no_gradient(example):
    logits, targets = map(jnp.asarray, example)
    grad = jax.grad(lambda z: smoothed_cross_entropy(z, targets, 0.1)[1].sum())(logits)
    assert not np.any(grad)


def test_large_logits_stay_finite():
    logits = jnp.asarray([[1e4, -1e4, 0.0]], jnp.float32)
    loss, nll = smoothed_cross_entropy(logits, jnp.asarray([1]), 0.1)
    assert np.isfinite(loss).all()
    np.testing.assert_allclose(nll, [2e4])
