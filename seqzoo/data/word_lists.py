"""Lists of words for labels, not for writing: what a text is made of, and a number for each word.

Number 0 is `<unk>`, every word that is not in the list; the others come by their frequency in the
training data. There is no mark for padding or for an end: nothing is generated.
"""

import collections
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from seqzoo.data.vocabularies import END_OF_LINE, UNKNOWN, WORD_OR_SIGN, by_frequency
from seqzoo.errors import UserError

# As Peters et al. 2018 number them, plus 1, for 0 is no word; 257 is the beginning of a sentence.
_LINE_END, _WORD_BEGIN, _WORD_END, _FILLING = 258, 259, 260, 261
_MARKUP = re.compile(r'<[^<>]{1,20}>')
_WORD = re.compile(r"\w+(?:['’-]\w+)*")


@dataclass(frozen=True, kw_only=True)
class WordListConfig:
    """Which words get a number of their own.

    Attributes:
        vocab_size: numbers at most, that of `<unk>` included: the most frequent words; `None`: all.
        min_count: words that occur less often in the training data are unknown, there too.
        lowercase: words that differ in case are one.
    """

    vocab_size: int | None = None
    min_count: int = 1
    lowercase: bool = False

    def __post_init__(self) -> None:
        if self.vocab_size is not None and self.vocab_size < 2:
            raise UserError(f'words.vocab_size is {self.vocab_size}; choose at least 2')
        if self.min_count < 1:
            raise UserError(f'words.min_count is {self.min_count}; choose at least 1')


@dataclass(frozen=True, kw_only=True)
class TextConfig(WordListConfig):
    """How a text becomes words.

    Attributes:
        signs: punctuation marks are words too; otherwise they are left out. Mark-up such as `<br
            />` is left out in any case.
        max_words: a longer text is cut to so many; `None`: never.
        keep: which of its words are kept then.
    """

    lowercase: bool = True
    signs: bool = False
    max_words: int | None = None
    keep: Literal['first', 'last'] = 'last'

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_words is not None and self.max_words < 1:
            raise UserError(f'words.max_words is {self.max_words}; choose at least 1, or none')
        if self.keep not in ('first', 'last'):
            raise UserError(f"words.keep is {self.keep!r}; choose 'first' or 'last'")

    def words(self, text: str) -> list[str]:
        """The words of a text, those that are kept; their case is left alone."""
        found = (WORD_OR_SIGN if self.signs else _WORD).findall(without_markup(text))
        if self.max_words is None or len(found) <= self.max_words:
            return found
        return found[-self.max_words :] if self.keep == 'last' else found[: self.max_words]


def without_markup(text: str) -> str:
    """A text with a space for each `<br />` and its like."""
    return _MARKUP.sub(' ', text)


class WordList:
    """Words and their numbers.

    Attributes:
        entries: words by number; the first one is `<unk>`.
        lowercase: whether case is left alone.
    """

    def __init__(self, entries: Sequence[str], *, lowercase: bool = False) -> None:
        self.entries, self.lowercase = tuple(entries), lowercase
        self._numbers = {word: number for number, word in enumerate(self.entries)}

    @classmethod
    def learn(cls, sequences: Iterable[Sequence[str]], config: WordListConfig) -> 'WordList':
        """The list of the words of the training data."""
        counts: collections.Counter[str] = collections.Counter()
        for words in sequences:
            counts.update(map(str.lower, words) if config.lowercase else words)
        counts.pop(UNKNOWN, None)
        frequent = [word for word in by_frequency(counts) if counts[word] >= config.min_count]
        kept = frequent if config.vocab_size is None else frequent[: config.vocab_size - 1]
        return cls([UNKNOWN, *kept], lowercase=config.lowercase)

    def __len__(self) -> int:
        return len(self.entries)

    def encode(self, words: Sequence[str]) -> np.ndarray:
        """`[length]` int32 numbers."""
        known = self._numbers.get
        spelled = (word.lower() for word in words) if self.lowercase else words
        return np.fromiter((known(word, 0) for word in spelled), np.int32, len(words))


def encode_characters(words: Sequence[str], characters: WordList, width: int) -> np.ndarray:
    """The spelling of words: `[length, width]` int32 numbers, 0 behind the end of a word.

    Of a longer word the beginning and the end are kept. The numbers are those of the list plus 1.

    Args:
        words: a sequence of them.
        characters: the characters of the training data.
        width: characters of a word at most.
    """
    found = np.zeros((len(words), width), np.int32)
    for row, word in zip(found, words, strict=True):
        head = width // 2
        kept = word if len(word) <= width else word[:head] + word[head - width :]
        row[: len(kept)] = characters.encode(kept) + 1
    return found


def encode_bytes(words: Sequence[str], width: int) -> np.ndarray:
    """The spelling of words in UTF-8: `[length, width]` int16, for `layers.spelling`.

    A word is the mark of its beginning, its bytes plus 1, the mark of its end, and filling up to
    `width`; of a longer one the beginning is kept. `<eos>`, the end of a line, is one sign.
    """
    found = np.full((len(words), width), _FILLING, np.int16)
    found[:, 0] = _WORD_BEGIN
    for row, word in zip(found, words, strict=True):
        signs = np.frombuffer(word.encode('utf-8')[: width - 2], np.uint8).astype(np.int16) + 1
        if word == END_OF_LINE:
            signs = np.array([_LINE_END], np.int16)
        row[1 : 1 + len(signs)] = signs
        row[1 + len(signs)] = _WORD_END
    return found
