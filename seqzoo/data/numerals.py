"""The embedded corpus: English number words and their German translation, 0 to 999,999.

It needs no download, yet holds what translation needs: German writes the units before the tens, so
that attention has something to cross, and 'three hundred and forty-two' ->
'dreihundertzweiundvierzig' can be checked by eye.
"""

import functools
from typing import Literal

import numpy as np

from seqzoo.data.batching import permutation
from seqzoo.data.text_files import ParallelText
from seqzoo.errors import UserError

LIMIT = 1_000_000
LANGUAGES = ('en', 'de')


@functools.cache
def _below_thousand(language: str) -> tuple[str, ...]:
    # num2words takes about 60 microseconds a number: everything above 999 is composed from these.
    from num2words import num2words

    return tuple(num2words(number, lang=language) for number in range(1000))


@functools.lru_cache(maxsize=1)
def _shuffled(seed: int) -> np.ndarray:
    """1,000 to 999,999 in the order that decides over the splits."""
    order = permutation(LIMIT - 1000, seed, 0, 0) + 1000
    order.flags.writeable = False
    return order


def english(number: int) -> str:
    """The English words of a number from 0 to 999,999, as `num2words` writes them."""
    small = _below_thousand('en')
    thousands, rest = divmod(number, 1000)
    if thousands == 0:
        return small[rest]
    if rest == 0:
        return f'{small[thousands]} thousand'
    return f'{small[thousands]} thousand{" and" if rest < 100 else ","} {small[rest]}'


def german(number: int) -> str:
    """The German words of a number from 0 to 999,999, as `num2words` writes them."""
    small = _below_thousand('de')
    thousands, rest = divmod(number, 1000)
    if thousands == 0:
        return small[rest]
    head = 'ein' if thousands == 1 else small[thousands]
    return f'{head}tausend{small[rest] if rest else ""}'


def numbers(
    split: Literal['train', 'dev', 'test'],
    *,
    train_size: int = 40_000,
    held_out: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """`[examples]` int64: the numbers of a split; the three splits share none.

    Dev and test are drawn evenly from 1,000 to 999,999. Train holds every number below 1,000, and
    of the others that are not held out every fourth is a four-digit number or a round thousand,
    which an even draw would hardly contain.

    Raises:
        UserError: an unknown split, or sizes that 1,000,000 numbers cannot give.
    """
    if train_size < 1000 or held_out < 1 or train_size + 2 * held_out > LIMIT:
        raise UserError(
            f'numerals cannot give {train_size} training and twice {held_out} held-out numbers: '
            'choose at least 1000, at least 1, and at most 1000000 together'
        )
    shuffled = _shuffled(seed)
    if split == 'dev':
        return shuffled[:held_out]
    if split == 'test':
        return shuffled[held_out : 2 * held_out]
    if split != 'train':
        raise UserError(f"numerals has the splits 'train', 'dev' and 'test', not {split!r}")
    rest = shuffled[2 * held_out :]
    rare = (rest < 10_000) | (rest % 1000 == 0)
    # Rare numbers first up to a quarter of the places, then the remaining numbers in their shuffled
    # order.
    places = train_size - 1000
    chosen = rest[rare][: places // 4]
    common = rest[~rare][: places - len(chosen)]
    more = rest[rare][len(chosen) : places - len(common)]
    return np.concatenate([np.arange(1000), chosen, common, more])


def numerals(
    split: Literal['train', 'dev', 'test'],
    source_language: str = 'en',
    target_language: str = 'de',
    *,
    train_size: int = 40_000,
    held_out: int = 1000,
    seed: int = 0,
) -> ParallelText:
    """Number words in two languages, line by line.

    Args:
        split: 'train', 'dev' or 'test'; see `numbers`.
        source_language: 'en' or 'de'.
        target_language: the other one.
        train_size: examples of the training split.
        held_out: examples of the dev and of the test split.
        seed: of the division into splits.

    Raises:
        UserError: another language or split, or sizes that cannot be met.
    """
    if {source_language, target_language} != set(LANGUAGES):
        raise UserError(
            f"numerals translates between 'en' and 'de', not from {source_language!r} to "
            f'{target_language!r}'
        )
    drawn = numbers(split, train_size=train_size, held_out=held_out, seed=seed).tolist()
    sides = {'en': [english(n) for n in drawn], 'de': [german(n) for n in drawn]}
    return ParallelText(
        source=sides[source_language],
        target=sides[target_language],
        name=f'numerals {split}',
        blank=0,
    )
