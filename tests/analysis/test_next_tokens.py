"""The next tokens of a language model as text, as JSON and as a picture."""

from types import SimpleNamespace

import pytest
from PIL import Image

from seqzoo.analysis.next_tokens import (
    MOST_PANELS,
    as_object,
    as_table,
    next_token_bars,
    next_tokens_of,
    visible,
)
from seqzoo.errors import UserError
from seqzoo.tasks.continuation import NextTokens
from seqzoo.tasks.translation import Translation

TEA = NextTokens('I love to drink', ('▁tea', ' ', '\n'), (0.5, 0.25, 0.125))


def test_a_table_has_a_blank_then_tokens_with_percent_in_order():
    assert as_table(TEA).split('\n') == [
        'I love to drink ____',
        '  ␣tea   50.00 %',
        '  ␣      25.00 %',
        '  ↵      12.50 %',
    ]
    assert as_table(NextTokens('', ('a',), (1.0,))).startswith('____\n')
    assert [visible(token) for token in ('a b', '\t')] == ['a␣b', '⇥']
    assert visible('\x1b[2J\r\x00é') == r'\x1b[2J\r\x00é'


def test_an_object_keeps_tokens_and_probabilities_as_they_are():
    assert as_object(TEA) == {
        'prompt': 'I love to drink',
        'next_tokens': [
            {'token': '▁tea', 'probability': 0.5},
            {'token': ' ', 'probability': 0.25},
            {'token': '\n', 'probability': 0.125},
        ],
    }


def test_a_picture_has_a_panel_for_each_prompt(tmp_path):
    path = tmp_path / 'pictures' / 'next.png'
    figure = next_token_bars([TEA, NextTokens('$x$ and', ('a', 'b', 'c'), (0.9, 0.1, 0.0))], path)
    first, second = figure.axes
    assert [bar.get_width() for bar in first.patches] == [50, 25, 12.5]
    assert [label.get_text() for label in second.get_yticklabels()] == ['a', 'b', 'c']
    assert second.get_title(loc='left') == '$x$ and ____'
    # The most probable stands on top.
    assert first.get_ylim()[0] > first.get_ylim()[1]
    with Image.open(path) as image:
        assert image.size[0] > 400


def test_too_many_panels_and_other_tasks_are_refused(tmp_path):
    for tables in ([], [TEA] * (MOST_PANELS + 1)):
        with pytest.raises(UserError, match=f'1 to {MOST_PANELS} prompts'):
            next_token_bars(tables)
    run = SimpleNamespace(path=tmp_path, experiment=SimpleNamespace(task=Translation()))
    with pytest.raises(UserError, match='--show-probabilities is for language models'):
        next_tokens_of(run, ['a'], 3)
