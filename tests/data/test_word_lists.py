"""Numbers for words that are labelled: unknown ones, rare ones, and their spelling."""

import numpy as np
import pytest

from seqzoo.data.word_lists import TextConfig, WordList, WordListConfig, encode_characters
from seqzoo.errors import UserError

SENTENCES = [['The', 'cat', 'the', 'dog'], ['the', 'cat', 'sat'], ['A', 'cat']]


def test_frequent_words_come_first_and_rare_ones_are_unknown():
    words = WordList.learn(SENTENCES, WordListConfig(lowercase=True, min_count=2))
    assert words.entries == ('<unk>', 'cat', 'the')
    assert words.encode(['The', 'dog', 'CAT']).tolist() == [2, 0, 1]
    few = WordList.learn(SENTENCES, WordListConfig(vocab_size=3))
    assert few.entries == ('<unk>', 'cat', 'the')
    assert few.encode(['The']).tolist() == [0]


def test_text_is_cut_into_words_without_mark_up():
    text = "It's <br /><br />a well-made film!  5/10"
    assert TextConfig().words(text) == ["It's", 'a', 'well-made', 'film', '5', '10']
    assert TextConfig(signs=True).words('so bad!') == ['so', 'bad', '!']
    assert TextConfig(max_words=2).words(text) == ['5', '10']
    assert TextConfig(max_words=2, keep='first').words(text) == ["It's", 'a']
    with pytest.raises(UserError, match='max_words is 0'):
        TextConfig(max_words=0)


def test_spelling_keeps_both_ends_of_a_long_word():
    characters = WordList(['<unk>', *'abcdefgh'])
    found = encode_characters(['ab', 'abcdefgh', 'xa'], characters, 5)
    assert found.tolist() == [[2, 3, 0, 0, 0], [2, 3, 7, 8, 9], [1, 2, 0, 0, 0]]
    assert found.dtype == np.int32
