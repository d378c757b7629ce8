"""Labelled data as configuration: what a split of it holds, and where its files lie.

A configuration names the data set; `--data-dir` says where it lies. What is no file split of the
publisher is split here, by groups that must not be torn apart and a seed.
"""

import abc
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from seqzoo.data.batching import permutation
from seqzoo.data.public_files import PublicFile, see_to
from seqzoo.data.text_files import find_text_file
from seqzoo.errors import UserError

if TYPE_CHECKING:
    from seqzoo.data.download import ProgressCallback


@dataclass(frozen=True)
class Labelled:
    """Sequences with a class each.

    Attributes:
        inputs: texts, or arrays `[length, features]`.
        labels: `[examples]` int32 numbers of classes.
    """

    inputs: Sequence[Any]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.inputs)

    def chosen(self, examples: np.ndarray) -> 'Labelled':
        """Some of the examples, by their numbers."""
        return Labelled([self.inputs[i] for i in examples], self.labels[examples])


@dataclass(frozen=True)
class Tagged:
    """Sequences with a class at each position.

    Attributes:
        inputs: the tokens of each sequence.
        tags: `[length]` int32 numbers of classes, of each.
        counts: `[length]` bool, of each: which positions are scored.
    """

    inputs: Sequence[Sequence[str]]
    tags: Sequence[np.ndarray]
    counts: Sequence[np.ndarray]

    def __len__(self) -> int:
        return len(self.inputs)

    def chosen(self, examples: np.ndarray) -> 'Tagged':
        """Some of the sequences, by their numbers."""
        inputs, tags, counts = ([column[i] for i in examples] for column in vars(self).values())
        return Tagged(inputs, tags, counts)


@dataclass(frozen=True, kw_only=True)
class DataSet(abc.ABC):
    """A published data set.

    Attributes:
        folder: below the data directory; '' is the directory itself.
    """

    folder: str = ''
    published: ClassVar[Mapping[str, PublicFile]] = {}

    @property
    def name(self) -> str:
        """The data set in a word."""
        return self.folder or type(self).__name__.lower()

    @property
    @abc.abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; their numbers are their places."""

    @property
    def files(self) -> Mapping[str, PublicFile]:
        """Those of the published files that this configuration reads."""
        return self.published

    def prepare(
        self, data_dir: Path | None, progress: 'ProgressCallback | None' = None
    ) -> list[str]:
        """Fetches what is missing and public, and checks what is there; says what was done.

        Raises:
            UserError: a file is not the published one, or is missing and cannot be fetched.
        """
        folder = self._folder(data_dir) if self.files else Path()
        return [see_to(folder, name, file, progress) for name, file in self.files.items()]

    def _folder(self, data_dir: Path | None) -> Path:
        if data_dir is None:
            raise UserError(
                f'{self.name}: say where the data lies, with --data-dir or SEQZOO_DATA_DIR.'
            )
        return data_dir / self.folder

    def _find(self, data_dir: Path | None, name: str, split: str) -> Path:
        """A file of the data set, plain or packed."""
        folder = self._folder(data_dir)
        try:
            return find_text_file(folder, name, split)
        except UserError as error:
            if name not in self.files:
                raise
            raise UserError(f'{error}, or let `seqzoo data prepare` see to it') from error

    def _refuse_split(self, split: str, known: Sequence[str] = ('train', 'dev', 'test')) -> None:
        if split not in known:
            raise UserError(f'{self.name} has no split {split!r}; it has {", ".join(known)}.')


@dataclass(frozen=True, kw_only=True)
class LabelledData(DataSet):
    """A data set whose sequences have a class each.

    Attributes:
        pairs: a sequence is two texts.
    """

    @property
    def pairs(self) -> bool:
        return False

    @abc.abstractmethod
    def read(self, split: str, data_dir: Path | None) -> Labelled:
        """The examples of a split.

        Raises:
            UserError: a file is missing or damaged, or there is no such split.
        """


@dataclass(frozen=True, kw_only=True)
class TaggedData(DataSet):
    """A data set whose sequences have a class at each position.

    Attributes:
        separator: stands between two tokens in a line of text, and between two tags.
    """

    separator: ClassVar[str] = ' '

    @abc.abstractmethod
    def read(self, split: str, data_dir: Path | None) -> Tagged:
        """The sequences of a split.

        Raises:
            UserError: a file is missing or damaged, or there is no such split.
        """

    def cut(self, line: str) -> list[str]:
        """A line of text in tokens."""
        return line.split() if self.separator else [c for c in line if not c.isspace()]


def folds(groups: Sequence[Hashable], parts: int, *, seed: int) -> np.ndarray:
    """Spreads examples over parts, those of one group together.

    Args:
        groups: what each example belongs to: the same movie, the same text, the same chain.
        parts: how many.
        seed: which group comes into which part.

    Returns:
        `[examples]` int64, the part of each, 0 to `parts - 1`; parts have as many groups each, but
        for one.
    """
    numbers: dict[Hashable, int] = {}
    group = np.array([numbers.setdefault(g, len(numbers)) for g in groups], np.int64)
    part = np.empty(len(numbers), np.int64)
    part[permutation(len(numbers), seed)] = np.arange(len(numbers)) % parts
    return part[group]


def split_by_folds(found: np.ndarray, split: str, parts: int, fold: int) -> np.ndarray:
    """Numbers of the examples of a split in cross-validation.

    Args:
        found: `[examples]` from `folds`.
        split: `'test'` is part `fold`, `'dev'` the part behind it, `'train'` the others.
        parts: how many parts there are.
        fold: which of them is tested on.
    """
    dev = (fold + 1) % parts
    if split == 'train':
        return np.flatnonzero((found != fold) & (found != dev))
    return np.flatnonzero(found == (fold if split == 'test' else dev))
