"""Convolutions over time: torch, reach by perturbation, histories, segments."""

import functools

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from hypothesis import strategies as st

from seqzoo.layers.convolution import (
    Rows,
    SequenceConvolution,
    gated_tanh,
    glu,
    history,
    rows_of,
)

FLOAT = jnp.dtype('float32')


@functools.cache
def built(channels, **options):
    """A convolution into 4 channels with its parameters moved off their start."""
    module = SequenceConvolution(4, dtype=FLOAT, **options)
    variables = meta.unbox(module.init(jax.random.key(0), jnp.zeros((1, 2, channels))))
    rng = np.random.default_rng(1)
    return module, jax.tree.map(
        lambda p: p + 0.3 * rng.normal(size=p.shape).astype(np.float32), variables
    )


def signal(batch, length, channels, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, length, channels)).astype(np.float32)


def by_definition(variables, x, dilation, offset, segments):
    """A loop over places and taps, in float64."""
    kernel, bias = (np.float64(variables['params'][name]) for name in ('kernel', 'bias'))
    y = np.zeros((*x.shape[:2], kernel.shape[2])) + bias
    for row in range(x.shape[0]):
        for t in range(x.shape[1]):
            for w in range(len(kernel)):
                s = t + dilation * (w - offset)
                if 0 <= s < x.shape[1] and segments[row, s] == segments[row, t] > 0:
                    y[row, t] += x[row, s] @ kernel[w]
    return y


@pytest.mark.parametrize('causal', [True, False])
@pytest.mark.parametrize('weight_norm', [True, False])
def test_it_is_torchs_convolution_with_its_gradients(causal, weight_norm):
    torch = pytest.importorskip('torch')
    x = signal(2, 9, 3)
    module, variables = built(3, window=3, dilation=2, causal=causal, weight_norm=weight_norm)
    params = variables['params']
    other = torch.nn.Conv1d(3, 4, 3, dilation=2)
    if weight_norm:
        other = torch.nn.utils.parametrizations.weight_norm(other)
    with torch.no_grad():
        kernel = torch.from_numpy(np.array(params['kernel']).transpose(2, 1, 0))
        if weight_norm:
            weights = other.parametrizations.weight
            weights.original1.copy_(kernel)
            weights.original0.copy_(torch.from_numpy(np.array(params['scale']))[:, None, None])
        else:
            other.weight.copy_(kernel)
        other.bias.copy_(torch.from_numpy(np.array(params['bias'])))
    around = (4, 0) if causal else (2, 2)
    theirs = other(torch.nn.functional.pad(torch.from_numpy(x).transpose(1, 2), around))
    (theirs**2).sum().backward()

    def loss(params):
        y, _ = module.apply({'params': params}, x)
        return jnp.sum(y**2), y

    gradients, y = jax.grad(loss, has_aux=True)(params)
    np.testing.assert_allclose(y, theirs.detach().transpose(1, 2), atol=1e-5)
    if weight_norm:
        found = weights.original1.grad
        np.testing.assert_allclose(
            gradients['scale'], weights.original0.grad[:, 0, 0], rtol=1e-4, atol=1e-4
        )
    else:
        found = other.weight.grad
    np.testing.assert_allclose(
        gradients['kernel'], found.numpy().transpose(2, 1, 0), rtol=1e-4, atol=1e-4
    )


@hypothesis.given(
    window=st.integers(1, 4), dilation=st.integers(1, 3), causal=st.booleans(), seed=st.integers(0)
)
@hypothesis.settings(max_examples=6)
def test_it_sees_its_own_segment_and_nothing_else(window, dilation, causal, seed):
    module, variables = built(2, window=window, dilation=dilation, causal=causal)
    rng = np.random.default_rng(seed)
    ends = np.sort(rng.integers(0, 8, size=(3, 3)), axis=1)
    segments = 1 + (np.arange(7)[None, :, None] >= ends[:, None, :2]).sum(axis=2)
    segments[np.arange(7) >= ends[:, 2:]] = 0
    x = signal(3, 7, 2, seed % 1000)
    offset = window - 1
    if not causal:
        offset = dilation * (window - 1) // 2 / dilation
    hypothesis.assume(offset == int(offset))  # an even window reaches one place further ahead
    y, _ = module.apply(variables, x, rows_of(jnp.asarray(segments)))
    wanted = by_definition(variables, x, dilation, int(offset), segments)
    real = segments > 0
    np.testing.assert_allclose(np.asarray(y)[real], wanted[real], atol=1e-5)


@hypothesis.given(window=st.integers(1, 5), dilation=st.integers(1, 4), place=st.integers(0, 14))
@hypothesis.settings(max_examples=8)
def test_a_place_reaches_exactly_its_taps(window, dilation, place):
    module, variables = built(2, window=window, dilation=dilation)
    x = signal(1, 15, 2)
    other = x.copy()
    other[0, place] += 1
    moved = module.apply(variables, other)[0] != module.apply(variables, x)[0]
    reached = [place + dilation * w for w in range(window) if place + dilation * w < 15]
    assert np.flatnonzero(moved.any(axis=-1)[0]).tolist() == reached


@hypothesis.given(
    window=st.integers(1, 4),
    dilation=st.integers(1, 3),
    pieces=st.lists(st.sampled_from([1, 2, 5]), min_size=1, max_size=4),
)
@hypothesis.settings(max_examples=6)
def test_pieces_after_each_other_equal_the_whole(window, dilation, pieces):
    module, variables = built(2, window=window, dilation=dilation)
    x, start, found = signal(2, sum(pieces), 2), 0, []
    state = history(2, window, dilation, 2, FLOAT)
    for size in pieces:
        y, state = module.apply(variables, x[:, start : start + size], None, state)
        found.append(y)
        start += size
    whole, _ = module.apply(variables, x)
    np.testing.assert_allclose(np.concatenate(found, axis=1), whole, atol=1e-5)


def test_rows_read_pieces_of_unlike_lengths():
    module, variables = built(2, window=3, dilation=2)
    x, lengths = signal(3, 6, 2), np.array([6, 2, 0])
    rows = Rows(jnp.asarray(np.arange(6) < lengths[:, None], jnp.int32))
    _, state = module.apply(variables, x, rows, history(3, 3, 2, 2, FLOAT))
    for row, n in enumerate(lengths):
        own = np.concatenate([np.zeros((4, 2)), x[row, :n]])[-4:]
        np.testing.assert_array_equal(state[row], own)
    # A row that reads nothing in a single step keeps its history.
    one = Rows(jnp.array([[1], [0], [1]]))
    _, later = module.apply(variables, x[:, :1], one, state)
    np.testing.assert_array_equal(later[1], state[1])
    np.testing.assert_array_equal(later[0], np.concatenate([state[0, 1:], x[0, :1]]))


def test_a_packed_row_goes_on_from_its_history_in_its_first_segment_only():
    module, variables = built(2, window=3)
    before, x = signal(1, 2, 2, seed=3), signal(1, 5, 2)
    segments = jnp.array([[1, 1, 1, 2, 2]])
    y, _ = module.apply(variables, x, rows_of(segments), before)
    first, _ = module.apply(variables, x[:, :3], None, before)
    second, _ = module.apply(variables, x[:, 3:])
    np.testing.assert_allclose(y, np.concatenate([first, second], axis=1), atol=1e-5)


@pytest.mark.parametrize('resumed', [False, True])
def test_booleans_are_one_segment_and_spare_the_windows(resumed):
    module, variables = built(2, window=3, dilation=2)
    x, real = signal(3, 6, 2), np.arange(6) < np.array([[6], [2], [0]])
    before = signal(3, 4, 2, seed=3) if resumed else None

    def run(segments):
        return module.apply(variables, x, rows_of(segments), before)

    found, wanted = run(jnp.asarray(real)), run(jnp.asarray(real, jnp.int32))
    np.testing.assert_allclose(found[0][real], wanted[0][real], atol=1e-6)
    chex.assert_trees_all_equal(found[1], wanted[1])
    assert 'conv_general_dilated' in str(jax.make_jaxpr(run)(jnp.asarray(real)))
    assert 'conv_general_dilated' not in str(jax.make_jaxpr(run)(jnp.asarray(real, jnp.int32)))


def test_gates_halve_the_channels():
    x = signal(1, 2, 6)
    gate = 1 / (1 + np.exp(-x[..., 3:]))
    np.testing.assert_allclose(glu(x), x[..., :3] * gate, atol=1e-6)
    np.testing.assert_allclose(gated_tanh(x), np.tanh(x[..., :3]) * gate, atol=1e-6)
