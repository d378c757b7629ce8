"""Two problems that ask for nothing but memory, drawn by rule: the sum of two marked numbers, and a
word to be repeated after a pause.

Every split is a function of (seed, split) alone, and what a model without memory reaches is known
in closed form.

    adding (Hochreiter and Schmidhuber 1997; marks anywhere: Bai, Kolter, Koltun 2018)
        x_t = (u_t, m_t), u_t uniform on [0, 1], m_t = 1 at two places and 0 elsewhere
        target: the sum of both marked u.  Always 1: mean square error 2 / 12 = 1/6

    copy memory (Hochreiter and Schmidhuber 1997; Arjovsky, Shah, Bengio 2016; as laid out by Bai,
    Kolter, Koltun 2018), with pause T
        read    s_1 ... s_10  0 ... 0 (T - 1 times)  9 ... 9 (11 times)      s_i from 1 ... 8
        say     0 ... 0 (T + 10 times)               s_1 ... s_10
        Blanks where they belong and a guess for the rest: 10 ln 8 / (T + 20) nats a step
"""

import abc
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from seqzoo.errors import UserError

_SPLITS = ('train', 'dev', 'test')


@dataclass(frozen=True, kw_only=True)
class MemoryProblem(abc.ABC):
    """What both have in common.

    Attributes:
        length: steps of an adding problem; steps of the pause of a copy problem.
        train_size, dev_size, test_size: examples in each split.
        seed: of all splits; each is drawn by itself.
    """

    length: int = 100
    train_size: int = 50_000
    dev_size: int = 1_000
    test_size: int = 1_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.length < 2:
            raise UserError(f'corpus.length is {self.length}; give at least 2.')
        if min(self.train_size, self.dev_size, self.test_size) < 1:
            raise UserError('corpus: every split needs at least one example.')

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The data in a word."""

    @property
    @abc.abstractmethod
    def baseline(self) -> float:
        """The loss of a model without memory."""

    @abc.abstractmethod
    def draw(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """What to read, `[examples, steps, ...]`, and what to say, of all examples of a split.

        Raises:
            UserError: there is no such split.
        """

    def prepare(self, data_dir: Path | None, progress: Any = None) -> list[str]:
        """There is nothing to fetch."""
        del data_dir, progress
        return []

    def _draw(self, split: str) -> tuple[np.random.Generator, int]:
        """The generator of a split and its number of examples."""
        if split not in _SPLITS:
            raise UserError(f'there is no split {split!r}; there are {", ".join(_SPLITS)}.')
        number = _SPLITS.index(split)
        size = (self.train_size, self.dev_size, self.test_size)[number]
        return np.random.Generator(np.random.PCG64([self.seed, number])), size


@dataclass(frozen=True, kw_only=True)
class Adding(MemoryProblem):
    """Two numbers among many, to be added."""

    @property
    def name(self) -> str:
        return f'adding {self.length}'

    @property
    def baseline(self) -> float:
        """Mean square error of always saying 1."""
        return 1 / 6

    def draw(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """`[examples, length, 2]` numbers and marks, and `[examples]` sums, float32."""
        generator, size = self._draw(split)
        values = generator.random((size, self.length), np.float32)
        first = generator.integers(0, self.length, size)
        second = generator.integers(0, self.length - 1, size)
        second += second >= first  # any place but the first one's
        marks, rows = np.zeros_like(values), np.arange(size)
        marks[rows, first] = marks[rows, second] = 1
        return np.stack([values, marks], axis=-1), values[rows, first] + values[rows, second]


@dataclass(frozen=True, kw_only=True)
class CopyMemory(MemoryProblem):
    """A word of ten symbols, to be repeated after a pause."""

    train_size: int = 10_000

    # The alphabet: the blank 0, eight symbols to remember, and 9, which asks for them.
    symbols: ClassVar[int] = 10
    mark: ClassVar[int] = 9
    word: ClassVar[int] = 10  # symbols to remember

    @property
    def name(self) -> str:
        return f'copy memory {self.length}'

    @property
    def steps(self) -> int:
        """Of an example: `length + 20`."""
        return self.length + 2 * self.word

    @property
    def baseline(self) -> float:
        """Nats a step of a model that knows when to speak, but not what to say."""
        return self.word * math.log(self.mark - 1) / self.steps

    def draw(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """What to read and what to say, `[examples, steps]` int32 each."""
        generator, size = self._draw(split)
        words = generator.integers(1, self.mark, (size, self.word), np.int32)
        read, say = np.zeros((2, size, self.steps), np.int32)
        read[:, : self.word] = say[:, -self.word :] = words
        read[:, -self.word - 1 :] = self.mark
        return read, say
