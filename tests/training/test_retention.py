"""Which checkpoints survive, against the rule said another way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqzoo.errors import UserError
from seqzoo.training.retention import Retention

SCORES = st.dictionaries(
    st.integers(0, 1000),
    st.one_of(st.just({}), st.integers(-3, 3).map(lambda score: {'bleu': float(score)})),
    max_size=12,
)


@given(SCORES, st.integers(1, 4), st.integers(0, 3), st.sampled_from(['min', 'max']))
def test_no_step_that_is_deleted_is_newer_or_better_than_one_that_survives(
    scores, keep, keep_best, mode
):
    kept = Retention(keep, keep_best, 'bleu', mode).kept(scores)
    assert kept <= scores.keys()
    assert min(keep, len(scores)) <= len(kept) <= keep + keep_best
    for step in scores.keys() - kept:
        newer = [other for other in scores if other > step]
        assert len(newer) >= keep
        if own := scores[step]:
            sign = {'min': -1, 'max': 1}[mode]
            at_least_as_good = [
                other
                for other in kept
                if scores[other] and sign * scores[other]['bleu'] >= sign * own['bleu']
            ]
            assert len(at_least_as_good) >= keep_best


def test_the_best_is_the_newest_of_equals():
    scores = {1: {'bleu': 2.0}, 5: {'bleu': 2.0}, 7: {'bleu': 1.0}, 9: {}}
    assert Retention(1, 1, 'bleu', 'max').best(scores) == 5
    assert Retention(1, 1, 'bleu', 'min').best(scores) == 7
    assert Retention(1, 1, 'loss', 'min').best(scores) is None


def test_without_a_metric_age_alone_decides():
    scores = {1: {'bleu': 2.0, '': 9.0}, 5: {'bleu': 1.0}}
    assert Retention(1, 1, None, 'max').kept(scores) == {5}
    assert Retention(1, 1, None, 'max').best(scores) is None


def test_keeping_nothing_is_refused():
    with pytest.raises(UserError, match='keep must be at least 1, not 0'):
        Retention(0, 1, None, 'max')
