import collections

import pytest

from seqzoo.data.listops import OPERATORS, ListOps, evaluate
from seqzoo.errors import UserError

SMALL = ListOps(train_size=300, dev_size=200, test_size=200)


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('[ max 2 9 [ min 4 7 ] 0 ]', 9),
        ('[ med 1 2 8 9 ]', 5),
        ('[ med 7 [ sm 9 9 ] 3 ]', 7),
        ('[ sm 5 6 7 ]', 8),
        ('[ min [ max 3 4 ] [ max 8 9 ] ]', 4),
    ],
)
def test_expressions_have_the_values_of_the_paper(text, value):
    assert evaluate(text) == value


@pytest.mark.parametrize('text', ['', '[ max 1 2', '1 2 ]', '[ ]', '[ max ]', '[ 1 2 ]', 'max'])
def test_what_is_no_expression_is_refused(text):
    with pytest.raises(UserError, match='no expression'):
        evaluate(text)


def test_labels_are_the_values_of_the_expressions():
    found = SMALL.read('train', None)
    assert [evaluate(text) for text in found.inputs] == found.labels.tolist()
    assert len(found) == 300


def test_lengths_arguments_and_depths_are_in_their_ranges():
    config = ListOps(min_length=30, max_length=60, max_arguments=4, max_depth=3, train_size=200)
    for text in config.read('train', None).inputs:
        tokens = text.split()
        assert 30 <= len(tokens) <= 60
        arguments = collections.defaultdict(int)
        depth = deepest = 0
        for token in tokens:
            if token == ']':
                depth -= 1
            elif token == '[':
                arguments[depth] += 1
                depth += 1
                arguments[depth] = 0
                deepest = max(deepest, depth)
            elif token not in OPERATORS:
                arguments[depth] += 1
            assert arguments[depth] <= 4 or depth == 0
        assert 1 <= deepest <= 3


def test_splits_differ_and_every_class_and_operator_occurs():
    splits = {name: SMALL.read(name, None) for name in ('train', 'dev', 'test')}
    assert not set(splits['train'].inputs) & set(splits['test'].inputs)
    assert SMALL.read('dev', None).inputs == splits['dev'].inputs
    assert set(splits['train'].labels.tolist()) == set(range(10))
    words = set(' '.join(splits['train'].inputs).split())
    assert words == {*OPERATORS, '[', ']', *'0123456789'}


def test_lengths_that_cannot_come_up_are_said():
    config = ListOps(min_length=500, max_length=510, max_depth=1, train_size=1)
    with pytest.raises(UserError, match='widen the range'):
        config.read('train', None)
    with pytest.raises(UserError, match='shorter first'):
        ListOps(min_length=50, max_length=40)
