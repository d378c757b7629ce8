"""Pictures with captions, composed from handwritten digits: 'a seven left of a three'.

A scene is 32 by 32 pixels with one digit or two, each half the size of MNIST's; its caption says
which they are and how they stand, in the order in which one reads: from left to right, from above.
So there is one right caption for every scene. Pairs of digits are divided between the splits:
nobody has seen the caption of a scene of 'dev' or 'test' before, and the digits in them are of the
same split of MNIST.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from seqzoo.data.batching import permutation
from seqzoo.data.mnist import Mnist
from seqzoo.errors import UserError

if TYPE_CHECKING:
    from seqzoo.data.download import ProgressCallback

DIGITS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
RELATIONS = ('left of', 'above')
SIZE = 32  # pixels, either side
_DIGIT = 14
_SINGLE = 0.1  # share of scenes with one digit, in training only


@dataclass(frozen=True)
class Scenes:
    """Pictures and what is on them.

    Attributes:
        images: `[scenes, 32, 32]` uint8, 255 is ink.
        captions: one for each.
    """

    images: np.ndarray
    captions: Sequence[str]

    def __len__(self) -> int:
        return len(self.captions)


@dataclass(frozen=True, kw_only=True)
class DigitScenes:
    """Scenes as configuration.

    Attributes:
        digits: where the handwritten digits come from.
        train_size, dev_size, test_size: scenes of each split.
        held_out: of the 200 pairs of digits and relations, how many are kept for 'dev', and as many
            for 'test'.
        seed: of what is drawn.
    """

    digits: Mnist = field(default_factory=Mnist)
    train_size: int = 30_000
    dev_size: int = 500
    test_size: int = 1000
    held_out: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ('train_size', 'dev_size', 'test_size', 'held_out'):
            if getattr(self, name) < 1:
                raise UserError(f'corpus.{name} is {getattr(self, name)}; choose at least 1')
        if self.held_out > 80:
            raise UserError(
                f'corpus.held_out is {self.held_out}; of 200 pairs at most 80 can be kept for each '
                'of dev and test'
            )

    @property
    def name(self) -> str:
        """The data set in a word."""
        return 'digit scenes'

    def prepare(
        self, data_dir: Path | None, progress: 'ProgressCallback | None' = None
    ) -> list[str]:
        """Fetches the digits."""
        return self.digits.prepare(data_dir, progress)

    def pairs(self, split: str) -> np.ndarray:
        """`[pairs, 3]`: first digit, second digit and relation of the scenes of a split."""
        order = permutation(200, self.seed, 1)
        parts = np.split(order, [self.held_out, 2 * self.held_out])
        names = ('dev', 'test', 'train')
        if split not in names:
            raise UserError(f'{self.name} has the splits train, dev and test, not {split!r}')
        chosen = parts[names.index(split)]
        return np.stack([chosen // 20, chosen // 2 % 10, chosen % 2], axis=1)

    def read(self, split: str, data_dir: Path | None) -> Scenes:
        """Composes the scenes of a split.

        Raises:
            UserError: the digits are missing, or there is no such split.
        """
        pairs = self.pairs(split)
        images, labels = self.digits.images(split, data_dir)
        # Four pixels become one.
        small = images.reshape(len(images), _DIGIT, 2, _DIGIT, 2).mean(axis=(2, 4))
        by_digit = [np.flatnonzero(labels == digit) for digit in range(10)]
        if missing := [name for name, own in zip(DIGITS, by_digit, strict=True) if not len(own)]:
            raise UserError(
                f'{self.name}: there is no {missing[0]} among the {len(images)} images of {split}; '
                f'fetch the files of {self.digits.name} again, or set another dev_size of digits'
            )
        count = getattr(self, f'{split}_size')
        rng = np.random.default_rng([self.seed, ('train', 'dev', 'test').index(split)])
        scenes, captions = np.zeros((count, SIZE, SIZE), np.uint8), []
        for scene in scenes:
            first, second, relation = pairs[rng.integers(len(pairs))]
            single = split == 'train' and rng.random() < _SINGLE
            places = _one_place(rng) if single else _two_places(rng, relation)
            for digit, (y, x) in zip((first, second), places, strict=False):  # one or two
                ink = small[rng.choice(by_digit[digit])]
                scene[y : y + _DIGIT, x : x + _DIGIT] = ink
            words = [_named(first)]
            if not single:
                words += [RELATIONS[relation], _named(second)]
            captions.append(' '.join(words))
        return Scenes(scenes, captions)


def _named(digit: int) -> str:
    return f'{"an" if DIGITS[digit] == "eight" else "a"} {DIGITS[digit]}'


def _one_place(rng: np.random.Generator) -> list[tuple[int, int]]:
    y, x = rng.integers(0, SIZE - _DIGIT + 1, size=2)
    return [(int(y), int(x))]


def _two_places(rng: np.random.Generator, relation: int) -> list[tuple[int, int]]:
    """Upper left corners of two digits that do not touch and stand more in a line than not."""
    slack = SIZE - 2 * _DIGIT
    first = int(rng.integers(0, slack + 1))
    second = int(rng.integers(first + _DIGIT, SIZE - _DIGIT + 1))
    across = rng.integers(0, SIZE - _DIGIT + 1, size=2)
    if abs(int(across[1] - across[0])) > _DIGIT // 2:
        across[1] = across[0]
    along = [(first, int(across[0])), (second, int(across[1]))]
    return along if RELATIONS[relation] == 'above' else [(x, y) for y, x in along]
