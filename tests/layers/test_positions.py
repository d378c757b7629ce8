"""Positions: the paper's table, its other layout, and counting within packed segments."""

import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from seqzoo.layers.positions import LearnedPositions, positions_in_segments, sinusoids


@pytest.mark.parametrize('dim', [2, 7, 32])
def test_the_table_is_the_papers(dim):
    table = np.asarray(sinusoids(jnp.arange(60), dim))
    for p in (0, 1, 17, 59):
        for column in range(dim):
            angle = p / 10000 ** (2 * (column // 2) / dim)
            wave = math.sin(angle) if column % 2 == 0 else math.cos(angle)
            assert table[p, column] == pytest.approx(wave, abs=1e-5)


def test_lower_columns_have_higher_frequencies():
    table = np.asarray(sinusoids(jnp.arange(60), 32))
    turns = (np.diff(np.sign(np.diff(table[:, ::2], axis=0)), axis=0) != 0).sum(0)
    assert (np.diff(turns) <= 0).all()
    assert turns[0] > turns[4] > turns[8]


@pytest.mark.parametrize('dim', [7, 32])
def test_the_concatenated_layout_holds_the_same_columns(dim):
    paper = sinusoids(jnp.arange(20), dim)
    other = sinusoids(jnp.arange(20), dim, 'concatenated')
    np.testing.assert_array_equal(other, jnp.concatenate([paper[:, ::2], paper[:, 1::2]], axis=1))


@hypothesis.given(st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_positions_restart_with_each_segment(lengths):
    lengths = [*lengths, 25 - sum(lengths)]  # always 25 positions: compiles once
    segments = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    expected = np.concatenate([np.arange(n) for n in lengths])
    np.testing.assert_array_equal(positions_in_segments(jnp.asarray(segments)[None])[0], expected)


def test_learned_positions_are_rows_of_a_table():
    module = LearnedPositions(6, 4)
    variables = module.init(jax.random.key(0), jnp.arange(6))
    table = variables['params']['table'].value
    np.testing.assert_array_equal(
        module.apply(variables, jnp.array([[5, 2]])), table[jnp.array([[5, 2]])]
    )
