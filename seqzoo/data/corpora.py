"""Where parallel text comes from, as configuration: text files, a TFDS data set, or the embedded
numerals.

A configuration names the data set; `--data-dir` says where it lies.
"""

import abc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from seqzoo.data.numerals import numerals
from seqzoo.data.text_files import ParallelText, TextLayout, read_parallel
from seqzoo.errors import UserError

if TYPE_CHECKING:
    from seqzoo.data.download import ProgressCallback


@dataclass(frozen=True, kw_only=True)
class Corpus(abc.ABC):
    """A source of line pairs with the splits 'train', 'dev' and 'test'."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The data set in a word."""

    @abc.abstractmethod
    def pairs(
        self, split: str, source_language: str, target_language: str, data_dir: Path | None
    ) -> ParallelText:
        """The pairs of a split, in order, to be read any number of times.

        Raises:
            UserError: the data is missing or damaged.
        """

    def prepare(
        self, data_dir: Path | None, progress: 'ProgressCallback | None' = None
    ) -> list[str]:
        """Downloads what can be downloaded; returns what was done, in sentences."""
        del data_dir, progress
        return []


@dataclass(frozen=True, kw_only=True)
class TextFiles(TextLayout, Corpus):
    """Two line-aligned files a split, `STEM.LANGUAGE`, plain or `.gz`, below the data directory."""

    @property
    def name(self) -> str:
        return self.folder or 'text files'

    def pairs(
        self, split: str, source_language: str, target_language: str, data_dir: Path | None
    ) -> ParallelText:
        if data_dir is None:
            raise UserError(
                f'{self.name}: say where the text lies, with --data-dir or SEQZOO_DATA_DIR.'
            )
        return read_parallel(data_dir, split, source_language, target_language, layout=self)


@dataclass(frozen=True, kw_only=True)
class Numerals(Corpus):
    """English number words and the same numbers in German, 0 to 999,999; needs no file.

    Attributes:
        train_size: how many of them are trained on.
    """

    train_size: int = 40_000

    @property
    def name(self) -> str:
        return 'numerals'

    def pairs(
        self, split: str, source_language: str, target_language: str, data_dir: Path | None
    ) -> ParallelText:
        del data_dir
        return numerals(split, source_language, target_language, train_size=self.train_size)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Wmt14(Corpus):
    """WMT 2014 by the addresses and checksums that TFDS lists, read back through TFDS without
    TensorFlow.

    Attributes:
        pair: as TFDS names it.
        dev, test: which of the data set's splits are which.
    """

    pair: Literal['de-en', 'fr-en'] = 'de-en'
    dev: str = 'validation'
    test: str = 'test'

    @property
    def name(self) -> str:
        return f'wmt14_translate/{self.pair}'

    def pairs(
        self, split: str, source_language: str, target_language: str, data_dir: Path | None
    ) -> ParallelText:
        from seqzoo.data.records import open_tfds_parallel

        if data_dir is None:
            raise UserError(
                f'{self.name}: say where the data lies, with --data-dir or SEQZOO_DATA_DIR.'
            )
        name = {'dev': self.dev, 'test': self.test}.get(split, split)
        records = open_tfds_parallel(self.name, name, source_language, target_language, data_dir)
        sides = (_Side(records, 0), _Side(records, 1))
        return ParallelText(source=sides[0], target=sides[1], name=f'{self.name} {name}', blank=0)

    def prepare(
        self, data_dir: Path | None, progress: 'ProgressCallback | None' = None
    ) -> list[str]:
        from seqzoo.data.wmt import prepare_wmt14

        if data_dir is None:
            raise UserError(f'{self.name}: say where the data may go, with --data-dir.')
        return [str(prepare_wmt14(self.pair, data_dir, progress=progress))]

    def download_bytes(self) -> int:
        """How much is fetched, as the publisher lists it."""
        from seqzoo.data.wmt import wmt14_corpora

        archives = {file for corpus in wmt14_corpora(self.pair) for file in corpus.archives}
        return sum(file.size or 0 for file in archives)


@dataclass(frozen=True)
class _Side:
    """One side of a sequence of pairs, read anew by each iteration."""

    records: Any
    side: int

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[str]:
        return (pair[self.side] for pair in self.records)
