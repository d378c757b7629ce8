"""Running text as configuration: what a language model is trained on.

A split is a file, several files one after the other, or a share of a single file. Where the files
lie below `--data-dir` a configuration says; where that is, the user.
"""

import abc
import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from seqzoo.data.public_files import PublicFile, see_to
from seqzoo.data.text_files import FileLines, Lines, find_text_file, is_blank, read_lines
from seqzoo.errors import UserError

if TYPE_CHECKING:
    from seqzoo.data.download import ProgressCallback

_T = TypeVar('_T')

_GUTENBERG_MARK = re.compile(r'\*\*\* ?(START|END) OF (?:THE|THIS) PROJECT GUTENBERG EBOOK')


# By `FOLDER/NAME` below the data directory.
PUBLIC_FILES: Mapping[str, PublicFile] = {
    'time_machine/timemachine.txt': PublicFile(
        '8424dbd9532ac81f7e5f0b6add90e6952baea29158309d7d1bf3884f4e12c516',
        'https://d2l-data.s3-accelerate.amazonaws.com/timemachine.txt',
    ),
    'tiny_shakespeare/input.txt': PublicFile(
        '86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed',
        'https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt',
    ),
    'war_and_peace/warandpeace.txt': PublicFile(
        'bf5b273d9246268f96663c43c00a1055ae2e42c2262be32f7e43b48dd123451a',
        'https://raw.githubusercontent.com/timbmg/RNNLM/4e5bddfd042beb3e1aa1f282954cc31567294c83/'
        'data/warandpeace.txt',
    ),
    'wikitext2/wiki.valid.raw': PublicFile(
        '4cd0f6876d07a413aa911261ff6d363c72d757d47f0fdd6015702014c89cb9c7'
    ),
    'ptb/ptb.train.txt': PublicFile(
        'fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf'
    ),
    'ptb/ptb.valid.txt': PublicFile(
        'c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2'
    ),
}


@dataclass(frozen=True, kw_only=True)
class PlainText(abc.ABC):
    """A source of running text with the splits 'train', 'dev' and 'test'.

    Attributes:
        folder: below the data directory; '' is the directory itself.
    """

    folder: str = ''

    @property
    def name(self) -> str:
        """The data set in a word."""
        return self.folder or 'plain text'

    @property
    @abc.abstractmethod
    def files(self) -> tuple[str, ...]:
        """The files of all splits, names within the folder, without `.gz`."""

    @abc.abstractmethod
    def lines(self, split: str, data_dir: Path | None) -> Lines:
        """The lines of a split, in order, to be read any number of times.

        The files are read through once, so that every mistake in them is met now.

        Raises:
            UserError: a file is missing, damaged or not UTF-8 (says where), or the split is empty.
        """

    def prepare(
        self, data_dir: Path | None, progress: 'ProgressCallback | None' = None
    ) -> list[str]:
        """Fetches what is missing and public, and checks what is there; says what was done.

        Raises:
            UserError: a file is not the published one, or is missing and cannot be fetched.
        """
        known = {name: PUBLIC_FILES.get(f'{self.folder}/{name}') for name in self.files}
        folder = self._folder(data_dir)
        return [
            see_to(folder, name, public, progress)
            for name, public in known.items()
            if public is not None
        ]

    def _folder(self, data_dir: Path | None) -> Path:
        if data_dir is None:
            raise UserError(
                f'{self.name}: say where the text lies, with --data-dir or SEQZOO_DATA_DIR.'
            )
        return data_dir / self.folder

    def _find(self, folder: Path, name: str, split: str) -> Path:
        try:
            return find_text_file(folder, name, split)
        except UserError as error:
            if f'{self.folder}/{name}' not in PUBLIC_FILES:
                raise
            raise UserError(f'{error}, or let `seqzoo data prepare` see to it') from error

    def _of(self, split: str, by_split: Mapping[str, _T]) -> _T:
        if split not in by_split:
            raise UserError(
                f'{self.name} has no split {split!r}; it has {", ".join(map(repr, by_split))}'
            )
        return by_split[split]


@dataclass(frozen=True, kw_only=True)
class SplitFiles(PlainText):
    """Text whose splits are files of their own.

    Attributes:
        train, dev, test: names of files, with or without `.gz` on the disk; several are read one
            after the other.
    """

    train: tuple[str, ...] = ('train.txt',)
    dev: tuple[str, ...] = ('dev.txt',)
    test: tuple[str, ...] = ('test.txt',)

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, *self.dev, *self.test)

    def lines(self, split: str, data_dir: Path | None) -> Lines:
        folder = self._folder(data_dir)
        names = self._of(split, {'train': self.train, 'dev': self.dev, 'test': self.test})
        if not names:
            raise UserError(f'{self.name} has no {split} split; task.corpus.{split} names no file')
        found = _Chain(tuple(_counted(self._find(folder, name, split)) for name in names))
        if all(map(is_blank, found)):
            raise UserError(f'{folder / names[0]}: the {split} split is empty; check the file')
        return found


@dataclass(frozen=True, kw_only=True)
class CutFile(PlainText):
    """One file, cut into training, dev and test text in this order.

    Cuts lie at the ends of lines, where the share of the characters is reached; no line is in two
    parts and none is left out.

    Attributes:
        file: its name, with or without `.gz` on the disk.
        dev_share, test_share: of the characters; what is left is trained on.
    """

    file: str = 'text.txt'
    dev_share: float = 0.05
    test_share: float = 0.05

    def __post_init__(self) -> None:
        shares = (self.dev_share, self.test_share)
        if not all(0 <= share < 1 for share in shares) or sum(shares) >= 1:
            raise UserError(
                f'corpus.dev_share is {self.dev_share} and corpus.test_share {self.test_share}; '
                'each lies from 0 to 1, and training needs a share too'
            )

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,)

    def lines(self, split: str, data_dir: Path | None) -> Lines:
        path = self._find(self._folder(data_dir), self.file, split)
        train = 1 - self.dev_share - self.test_share
        shares = {
            'train': (0.0, train),
            'dev': (train, train + self.dev_share),
            'test': (train + self.dev_share, 1.0),
        }
        found = _Range(path, *_cuts(path, self._of(split, shares), *self._body(path)))
        if all(map(is_blank, found)):
            raise UserError(
                f'{path}: its {split} part is empty (corpus.dev_share {self.dev_share:g}, '
                f'corpus.test_share {self.test_share:g}); the file must be longer, or the share '
                'larger'
            )
        return found

    def _body(self, path: Path) -> tuple[int, int | None]:
        """The lines that are text: from which one on, and before which; `None` is the end."""
        del path
        return 0, None


@dataclass(frozen=True, kw_only=True)
class GutenbergFile(CutFile):
    """A book of Project Gutenberg, cut likewise; what stands before and behind the book itself is
    left out.
    """

    def _body(self, path: Path) -> tuple[int, int | None]:
        marks: dict[str, int] = {}
        for number, line in enumerate(read_lines(path)):
            if found := _GUTENBERG_MARK.match(line):
                marks.setdefault(found[1], number)
        if not 0 <= marks.get('START', -1) < marks.get('END', -1):
            raise UserError(
                f'{path} has no lines *** START OF and *** END OF THE PROJECT GUTENBERG EBOOK '
                'around a book; give a file as Project Gutenberg has it, or take CutFile for it'
            )
        return marks['START'] + 1, marks['END']


@dataclass(frozen=True, kw_only=True)
class Together(PlainText):
    """Several texts, one after the other in each split.

    Attributes:
        parts: the texts.
    """

    parts: tuple[PlainText, ...] = ()

    def __post_init__(self) -> None:
        if not self.parts:
            raise UserError('corpus.parts is empty; name the texts that are read together')

    @property
    def name(self) -> str:
        return ' + '.join(part.name for part in self.parts)

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(f'{part.folder}/{file}' for part in self.parts for file in part.files)

    def lines(self, split: str, data_dir: Path | None) -> Lines:
        return _Chain(tuple(part.lines(split, data_dir) for part in self.parts))

    def prepare(
        self, data_dir: Path | None, progress: 'ProgressCallback | None' = None
    ) -> list[str]:
        return [said for part in self.parts for said in part.prepare(data_dir, progress)]


@dataclass(frozen=True)
class _Chain:
    """Several texts, one after the other."""

    parts: tuple[Lines, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __iter__(self) -> Iterator[str]:
        return (line for part in self.parts for line in part)


@dataclass(frozen=True)
class _Range:
    """The lines of a file from number `start`, counted from 0, to before number `stop`."""

    path: Path
    start: int
    stop: int

    @functools.cached_property
    def whole(self) -> str:
        """Hash of the whole file: with another one this part has other lines."""
        digest = hashlib.sha256()
        for line in read_lines(self.path):
            digest.update(f'{line}\n'.encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[str]:
        return islice(read_lines(self.path), self.start, self.stop)


def cut_from(texts: Iterable[Lines]) -> str | None:
    """Hash of the files of which texts are parts; `None` where each has a file of its own."""
    parts = [p for text in texts for p in (text.parts if isinstance(text, _Chain) else (text,))]
    found = dict.fromkeys(part.whole for part in parts if isinstance(part, _Range))
    return hashlib.sha256(' '.join(found).encode()).hexdigest() if found else None


def _counted(path: Path) -> FileLines:
    return FileLines(path=path, count=sum(1 for _ in read_lines(path)))


def _cuts(path: Path, shares: tuple[float, float], begin: int, end: int | None) -> tuple[int, int]:
    """Behind how many lines each share of the characters between two lines is reached."""
    text = islice(read_lines(path), begin, end)
    ends = np.cumsum([len(line) + 1 for line in text], dtype=np.int64)
    if not len(ends):
        return begin, begin
    first, last = (int(np.searchsorted(ends, share * ends[-1])) + (share > 0) for share in shares)
    return begin + first, begin + last
