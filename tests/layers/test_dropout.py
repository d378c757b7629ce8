"""Dropout: statistics of the hash, any split of the batch, a backward pass without a mask."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from seqzoo.layers.dropout import Dropout, dropout, keep_mask
from seqzoo.parallel import prng

KEY = jax.random.key(3)


def bits(key: jax.Array, shape: tuple[int, ...], rate: float = 0.5) -> np.ndarray:
    return np.asarray(keep_mask(prng.row_keys(key, shape[0]), shape, rate), np.float64)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """In standard deviations of what independent samples show."""
    a, b = a.ravel() - a.mean(), b.ravel() - b.mean()
    return abs((a * b).mean() / (a.std() * b.std())) * np.sqrt(a.size)


@pytest.mark.parametrize('rate', [0.01, 0.1, 0.5, 0.9])
def test_the_share_of_kept_elements_is_one_minus_the_rate(rate):
    mask = bits(KEY, (64, 4096), rate)
    sigma = np.sqrt(rate * (1 - rate))
    assert abs(mask.mean() - (1 - rate)) < 4 * sigma / np.sqrt(mask.size)
    # Every row and every column too, not only on average.
    assert np.abs(mask.mean(1) - (1 - rate)).max() < 5 * sigma / np.sqrt(mask.shape[1])
    assert np.abs(mask.mean(0) - (1 - rate)).max() < 5.5 * sigma / np.sqrt(mask.shape[0])


@pytest.mark.parametrize('lag', [1, 2, 3, 4, 8, 16, 64, 256, 512, 1024, 2048])
def test_elements_of_a_row_are_uncorrelated(lag):
    mask = bits(KEY, (64, 4096))
    assert correlation(mask[:, lag:], mask[:, :-lag]) < 4.5


def test_rows_layers_and_steps_are_uncorrelated():
    masks = [
        bits(prng.step_key(KEY, step, layer), (64, 2048)) for step in range(3) for layer in range(3)
    ]
    for i, mask in enumerate(masks):
        assert correlation(mask[1:], mask[:-1]) < 4.5
        for other in masks[:i]:
            assert correlation(mask, other) < 4.5
            assert correlation(mask[:, 1:], other[:, :-1]) < 4.5


def test_runs_are_as_long_as_those_of_a_fair_coin():
    mask = bits(KEY, (16, 8192)).astype(int)
    patterns = sum(mask[:, i : i - 8 or None] << i for i in range(8))
    counts = np.bincount(patterns.ravel(), minlength=256)
    expected = patterns.size / 256
    # Windows overlap, so the spread is wider than chi-square's sqrt(2 * 255).
    assert ((counts - expected) ** 2 / expected).sum() < 255 + 12 * np.sqrt(2 * 255)


@hypothesis.given(split=st.integers(1, 7), seed=st.integers(0, 2**32 - 1))
@hypothesis.settings(max_examples=10)
def test_a_batch_in_parts_gets_the_masks_of_the_whole(split, seed):
    x = jnp.ones((8, 3, 5))
    key = jax.random.key(seed)
    whole = dropout(x, 0.5, key)
    parts = []
    for rows in (jnp.arange(split), jnp.arange(split, 8)):
        with prng.example_rows(rows):
            parts.append(dropout(x[: len(rows)], 0.5, key))
    np.testing.assert_array_equal(whole, jnp.concatenate(parts))


def test_the_flat_position_in_the_row_decides_whatever_the_shape():
    flat = bits(KEY, (4, 30))
    np.testing.assert_array_equal(flat.reshape(4, 5, 6), bits(KEY, (4, 5, 6)))


def test_what_is_kept_is_scaled_and_the_gradient_has_the_same_mask():
    x = jax.random.normal(KEY, (4, 64)) + 10.0
    y, vjp = jax.vjp(lambda x: dropout(x, 0.25, KEY), x)
    kept = np.asarray(y) != 0
    np.testing.assert_allclose(np.asarray(y)[kept], np.asarray(x)[kept] / 0.75, rtol=1e-6)
    (gradient,) = vjp(jnp.ones_like(x))
    np.testing.assert_allclose(gradient, kept / 0.75, rtol=1e-6)


def test_the_backward_pass_stores_keys_but_no_mask():
    _, vjp = jax.vjp(lambda x: dropout(x, 0.25, KEY), jnp.ones((4, 1000)))
    assert sum(leaf.size for leaf in jax.tree.leaves(vjp)) <= 4 * 4


def test_it_is_the_identity_without_training_or_rate():
    x = jnp.ones((2, 3))
    assert Dropout(0.5).apply({}, x, False) is x
    assert Dropout(0.0).apply({}, x, True) is x  # needs no random stream either
    assert dropout(x, 0.0, KEY) is x


def test_a_rate_outside_its_range_is_refused():
    with pytest.raises(ValueError, match='rate'):
        dropout(jnp.ones((2, 2)), 1.0, KEY)


def test_old_style_keys_and_bfloat16_work():
    x = jnp.ones((4, 16), jnp.bfloat16)
    y = dropout(x, 0.5, jax.random.PRNGKey(3))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, dropout(x, 0.5, KEY))
