"""Marks around one text or two, and what is cut."""

import numpy as np
import pytest

from seqzoo.data.framing import framed
from seqzoo.data.vocabularies import Characters, build_vocabulary
from seqzoo.data.wordpiece import SPECIALS, WordPiece
from seqzoo.errors import UserError

PIECES = WordPiece([*SPECIALS, *'abcdefgh'], lowercase=True)


def text(length, first=5):
    return np.arange(first, first + length, dtype=np.int32)


def test_wordpiece_has_marks_and_types():
    one = framed(PIECES, [text(2)], 10)
    assert PIECES.pieces(one.tokens) == ['[CLS]', 'a', 'b', '[SEP]']
    assert one.token_types.tolist() == [0] * 4
    two = framed(PIECES, [text(2), text(3, 9)], 10)
    assert PIECES.pieces(two.tokens) == ['[CLS]', 'a', 'b', '[SEP]', 'e', 'f', 'g', '[SEP]']
    assert two.token_types.tolist() == [0] * 4 + [1] * 4
    empty = framed(PIECES, [text(0)], 10)
    assert PIECES.pieces(empty.tokens) == ['[CLS]', '[SEP]']


def test_other_vocabularies_stand_between_what_closes_lines():
    characters = build_vocabulary(['abc'], Characters())
    end = characters.line_end
    row = framed(characters, [characters.encode('ab'), characters.encode('c')], 10).tokens
    assert row.tolist() == [end, *characters.encode('ab'), end, *characters.encode('c'), end]


@pytest.mark.parametrize(
    ('lengths', 'wanted'),
    [((9, 2), (5, 2)), ((2, 9), (2, 5)), ((9, 9), (4, 3)), ((4, 3), (4, 3)), ((9, 3), (4, 3))],
)
def test_the_longer_text_is_cut_at_its_end(lengths, wanted):
    row = framed(PIECES, [text(n) for n in lengths], 10)
    assert len(row.tokens) == 10
    types = row.token_types
    assert (np.sum(types == 0) - 2, np.sum(types == 1) - 1) == wanted
    assert row.tokens[1:3].tolist() == [5, 6]
    assert len(framed(PIECES, [text(20)], 10).tokens) == 10


def test_a_row_without_room_is_refused():
    with pytest.raises(UserError, match='at least 5'):
        framed(PIECES, [text(2), text(2)], 4)
