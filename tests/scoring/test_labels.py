"""Accuracy, F1 and angular error, counted by hand."""

import numpy as np
import pytest

from seqzoo.errors import UserError
from seqzoo.scoring.labels import confusion, label_scores, mean_angular_error

#            cats are 4, dogs 3, fish 1, and no bird is there, though one answer says so
WANTED = np.array([0, 0, 0, 0, 1, 1, 1, 2])
FOUND = np.array([0, 0, 0, 1, 1, 1, 0, 3])
NAMES = ('cat', 'dog', 'fish', 'bird')


def test_scores_are_those_counted_by_hand():
    scores = label_scores(WANTED, FOUND, NAMES, majority=1)
    assert scores.accuracy == pytest.approx(100 * 5 / 8)
    assert scores.majority_accuracy == pytest.approx(100 * 3 / 8)
    cat, dog = scores.classes['cat'], scores.classes['dog']
    assert (cat.precision, cat.recall, cat.f1) == pytest.approx((75, 75, 75))
    assert (dog.precision, dog.recall) == pytest.approx((200 / 3, 200 / 3))
    assert scores.classes['bird'].precision == scores.classes['fish'].recall == 0
    assert [scores.classes[name].count for name in NAMES] == [4, 3, 1, 0]
    assert scores.macro_f1 == pytest.approx((75 + 200 / 3 + 0 + 0) / 4)
    assert scores.as_metrics()['margin'] == pytest.approx(100 * 2 / 8)


def test_a_class_that_does_not_occur_leaves_macro_f1_alone():
    with_fifth = label_scores(WANTED, FOUND, (*NAMES, 'none'), majority=0)
    assert with_fifth.macro_f1 == label_scores(WANTED, FOUND, NAMES, majority=0).macro_f1


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    rng = np.random.default_rng(0)
    wanted, found = rng.integers(0, 4, (2, 500))
    for score in label_scores(wanted, found, NAMES, majority=0).classes.values():
        harmonic = 2 * score.precision * score.recall / (score.precision + score.recall)
        assert score.f1 == pytest.approx(harmonic)


def test_confusion_has_truth_in_rows():
    matrix = confusion(WANTED, FOUND, 4)
    assert matrix.tolist() == [[3, 1, 0, 0], [1, 2, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]


def test_nothing_to_score_is_said_in_words():
    with pytest.raises(UserError, match='nothing to score'):
        label_scores(np.zeros(0), np.zeros(0), NAMES, majority=0)


def test_angles_are_compared_on_the_circle():
    wanted = np.radians([359.0, 0.0, 90.0])
    found = np.radians([1.0, 180.0, 90.0])
    assert mean_angular_error(wanted, found) == pytest.approx((2 + 180 + 0) / 3)
    assert mean_angular_error(wanted + 2 * np.pi, found) == pytest.approx((2 + 180 + 0) / 3)
