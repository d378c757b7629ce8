"""Memory problems are what their rules say, and the same whenever they are drawn."""

import numpy as np
import pytest

from seqzoo.data.memory_problems import Adding, CopyMemory
from seqzoo.errors import UserError


def test_the_target_of_the_adding_problem_is_the_sum_of_both_marked_numbers():
    inputs, sums = Adding(length=7, dev_size=2000).draw('dev')
    assert inputs.shape == (2000, 7, 2)
    values, marks = inputs[..., 0], inputs[..., 1]
    assert set(np.unique(marks)) == {0, 1}
    np.testing.assert_array_equal(marks.sum(axis=1), 2)
    np.testing.assert_allclose(np.sum(values * marks, axis=1), sums, rtol=1e-6)
    # Every pair of places is marked, and each number has its chance.
    pairs = {tuple(np.flatnonzero(row)) for row in marks}
    assert len(pairs) == 7 * 6 // 2
    np.testing.assert_allclose(marks.mean(axis=0), 2 / 7, atol=0.04)
    assert 0 <= values.min() < 0.01 < 0.99 < values.max() <= 1


def test_always_one_has_the_baseline_of_the_adding_problem():
    problem = Adding(length=5, test_size=100_000)
    _, sums = problem.draw('test')
    np.testing.assert_allclose(np.mean((sums - 1) ** 2), problem.baseline, rtol=0.02)
    assert problem.baseline == 1 / 6


def test_a_copy_is_asked_for_after_the_pause():
    problem = CopyMemory(length=4, dev_size=3)
    read, say = problem.draw('dev')
    assert read.shape == say.shape == (3, problem.steps) == (3, 24)
    for row in range(3):
        word = read[row, :10]
        assert ((word >= 1) & (word <= 8)).all()
        np.testing.assert_array_equal(read[row], [*word, 0, 0, 0, *[9] * 11])
        np.testing.assert_array_equal(say[row], [*[0] * 14, *word])


def test_guessing_the_word_has_the_baseline_of_the_copy_problem():
    assert CopyMemory(length=1000).baseline == pytest.approx(10 * np.log(8) / 1020)
    problem = CopyMemory(length=50, train_size=4000)
    _, say = problem.draw('train')
    # Sure of the blanks, each of the eight symbols equally likely elsewhere.
    probability = np.where(say == 0, 1.0, 1 / 8)
    assert -np.log(probability).mean() == pytest.approx(problem.baseline)
    np.testing.assert_allclose(np.bincount(say[:, -10:].ravel())[1:] / 40_000, 1 / 8, atol=0.01)


@pytest.mark.parametrize('kind', [Adding, CopyMemory])
def test_splits_are_functions_of_the_seed_and_differ(kind):
    def inputs(split, **changes):
        return kind(length=6, train_size=50, dev_size=50, test_size=50, **changes).draw(split)[0]

    np.testing.assert_array_equal(inputs('dev'), inputs('dev'))
    others = [inputs('train'), inputs('test'), inputs('dev', seed=1)]
    assert all((inputs('dev') != other).any() for other in others)
    # How many examples another split has changes nothing.
    np.testing.assert_array_equal(kind(length=6, dev_size=50).draw('dev')[0], inputs('dev'))


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(UserError, match=r'length is 1'):
        Adding(length=1)
    with pytest.raises(UserError, match='at least one example'):
        CopyMemory(test_size=0)
    with pytest.raises(UserError, match="no split 'valid'"):
        Adding(length=5).draw('valid')
