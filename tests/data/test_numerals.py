import numpy as np
import pytest
from num2words import num2words

from seqzoo.data.numerals import english, german, numbers, numerals
from seqzoo.errors import UserError

EDGES = [
    0,
    1,
    99,
    100,
    101,
    999,
    1000,
    1001,
    1100,
    1101,
    2000,
    21000,
    100000,
    101000,
    101101,
    110011,
    201001,
    999999,
]


def test_composed_words_equal_num2words():
    sample = EDGES + np.random.default_rng(0).integers(0, 1_000_000, 500).tolist()
    assert [english(n) for n in sample] == [num2words(n, lang='en') for n in sample]
    assert [german(n) for n in sample] == [num2words(n, lang='de') for n in sample]


def test_splits_share_no_number_and_repeat_none():
    train, dev, test = (numbers(split) for split in ('train', 'dev', 'test'))
    together = np.concatenate([train, dev, test])
    assert (len(train), len(dev), len(test)) == (40_000, 1000, 1000)
    assert len(np.unique(together)) == len(together)
    assert together.min() == 0
    assert together.max() < 1_000_000


def test_training_holds_all_numbers_below_a_thousand_and_the_rest_none():
    train = numbers('train')
    assert set(range(1000)) <= set(train.tolist())
    assert min(numbers('dev').min(), numbers('test').min()) >= 1000


def test_all_numbers_can_be_used():
    train = numbers('train', train_size=998_000)
    assert len(np.unique(train)) == 998_000


def test_the_split_is_a_function_of_the_seed():
    np.testing.assert_array_equal(numbers('test', seed=3), numbers('test', seed=3))
    assert not np.array_equal(numbers('test', seed=3), numbers('test', seed=4))
    # Stated, so that another version of NumPy cannot change which numbers are unseen.
    assert numbers('test')[:4].tolist() == [595942, 382660, 213425, 229713]


def test_both_directions_hold_the_same_pairs():
    forward = numerals('dev')
    backward = numerals('dev', 'de', 'en')
    assert [(b, a) for a, b in forward] == list(backward)
    assert len(forward) == 1000


def test_what_the_corpus_cannot_give_is_refused():
    with pytest.raises(UserError, match="'fr'"):
        numerals('train', 'en', 'fr')
    with pytest.raises(UserError, match='dev'):
        numerals('valid')
    with pytest.raises(UserError, match='1000000'):
        numerals('train', train_size=999_000)
