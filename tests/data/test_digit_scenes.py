"""Scenes of digits: every caption is right, and nobody has seen those of the test split."""

import re

import numpy as np
import pytest

from seqzoo.data.digit_scenes import DIGITS, DigitScenes
from seqzoo.data.mnist import Mnist
from seqzoo.errors import UserError


@pytest.fixture
def stamps(monkeypatch):
    """In place of handwriting: the digit d is a full square of the shade 10 d + 10."""

    def images(self, split, data_dir):
        labels = np.tile(np.arange(10, dtype=np.int32), 3)
        return np.broadcast_to(
            (10 * labels + 10).astype(np.uint8)[:, None, None], (30, 28, 28)
        ), labels

    monkeypatch.setattr(Mnist, 'images', images)


def described(image):
    """The right caption, found again from the shades."""
    shades = [s for s in np.unique(image) if s]
    places = {s: np.argwhere(image == s) for s in shades}
    name = lambda s: f'{"an" if s == 90 else "a"} {DIGITS[s // 10 - 1]}'  # noqa: E731
    if len(shades) == 1 and len(places[shades[0]]) == 14 * 14:
        return name(shades[0])
    if len(shades) == 1:  # a digit twice: cut where there is no ink, or in the middle
        rows, columns = np.ptp(places[shades[0]], axis=0)
        return f'{name(shades[0])} {"above" if rows > columns else "left of"} {name(shades[0])}'
    (y1, x1), (y2, x2) = (places[s].min(axis=0) for s in shades)
    below = abs(y2 - y1) >= 14
    first = (y1 < y2) if below else (x1 < x2)
    one, two = (shades[0], shades[1]) if first else (shades[1], shades[0])
    return f'{name(one)} {"above" if below else "left of"} {name(two)}'


def test_every_caption_says_what_is_there(stamps):
    scenes = DigitScenes(train_size=400).read('train', None)
    assert [described(image) for image in scenes.images] == list(scenes.captions)
    assert {len(caption.split()) for caption in scenes.captions} == {2, 5, 6}


def test_captions_of_other_splits_are_never_seen_in_training(stamps):
    corpus = DigitScenes(train_size=3000, dev_size=300, test_size=300)
    train, dev, test = (set(corpus.read(s, None).captions) for s in ('train', 'dev', 'test'))
    assert len(train) == 160 + 10
    assert (len(dev), len(test)) == (20, 20)
    assert not train & dev
    assert not train & test
    assert not dev & test


def test_scenes_depend_on_seed_and_split_alone(stamps):
    one, same = (DigitScenes(test_size=20).read('test', None) for _ in range(2))
    np.testing.assert_array_equal(one.images, same.images)
    assert one.captions == same.captions
    other = DigitScenes(test_size=20, seed=1).read('test', None)
    assert other.captions != one.captions


def test_an_unknown_split_and_impossible_sizes_are_refused(stamps):
    with pytest.raises(UserError, match='train, dev and test'):
        DigitScenes().read('validation', None)
    with pytest.raises(UserError, match='held_out is 90'):
        DigitScenes(held_out=90)


def test_a_digit_that_is_missing_is_named(monkeypatch):
    images = np.zeros((30, 28, 28), np.uint8), np.arange(30, dtype=np.int32) % 8
    monkeypatch.setattr(Mnist, 'images', lambda *_: images)
    with pytest.raises(UserError, match='no eight among the 30 images of test'):
        DigitScenes().read('test', None)


def test_real_digits_make_scenes(data_dir):
    scenes = DigitScenes(dev_size=20).read('dev', data_dir)
    assert scenes.images.shape == (20, 32, 32)
    assert scenes.images.max() > 200
    for caption in scenes.captions:
        assert re.fullmatch(r'an? \w+ (left of|above) an? \w+', caption)
