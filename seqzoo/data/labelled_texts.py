"""Texts with a class each: film reviews and sentences about films.

Imdb         the Large Movie Review Dataset (Maas et al. 2011), in any form (`data.film_reviews`)
RtPolarity   sentence polarity data v1.0 (Pang and Lee 2005), one tokenised sentence a line, one
             file a class
Tsv          your own: a table with tabs between its columns, whose first line names them
"""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np

from seqzoo.data import film_reviews
from seqzoo.data.labelled import Labelled, LabelledData, folds, split_by_folds
from seqzoo.data.public_files import PublicFile
from seqzoo.data.text_files import open_text_file, read_lines
from seqzoo.errors import UserError

if TYPE_CHECKING:
    from seqzoo.data.download import ProgressCallback

ReviewForm = Literal['packed', 'original', 'prepared']
# A copy whose bytes are known; that of the authors is packed.
_RT_POLARITY = (
    'https://raw.githubusercontent.com/yoonkim/CNN_sentence/'
    '23e0e1f7355705bb083043fda05c031b15acb38c/'
)
SENTIMENT = ('negative', 'positive')


@dataclass(frozen=True, kw_only=True)
class Imdb(LabelledData):
    """Film reviews. A tenth of the films of the training part are set aside as 'dev'.

    The packed test file has 2,000 reviews, the original and TFDS' have all 25,000. TFDS' does not
    say which film a review is about: there 'dev' is a tenth of the texts, and may know films that
    are trained on.

    Attributes:
        train, test: names of the packed files.
        seed: which films are set aside.
        form: as which the reviews lie below the data directory: `'packed'` in these two files,
            `'original'` in `FOLDER/aclImdb` or `FOLDER/aclImdb_v1.tar.gz`, `'prepared'` by TFDS in
            `imdb_reviews`; `None`: the first of these that is there.
    """

    folder: str = 'imdb'
    train: str = 'train_25k.jsonl'
    test: str = 'test_2k.jsonl'
    seed: int = 0
    form: ReviewForm | None = None

    published: ClassVar = {
        'train_25k.jsonl': PublicFile(
            '71b20f8338585a7c5d49595d04b49de948d35e9f5fc78432e7eec797026daa0a'
        ),
        'test_2k.jsonl': PublicFile(
            'ef4534e2d050d2fc382e4ffbb941a50ec01f4438923336acadff653372460a8e'
        ),
    }

    def __post_init__(self) -> None:
        if self.form not in (None, *get_args(ReviewForm)):
            raise UserError(
                f"corpus.form is {self.form!r}; choose 'packed', 'original', 'prepared' or None"
            )

    @property
    def files(self) -> Mapping[str, PublicFile]:
        return {n: file for n, file in self.published.items() if n in (self.train, self.test)}

    @property
    def classes(self) -> tuple[str, ...]:
        return SENTIMENT

    def prepare(
        self, data_dir: Path | None, progress: 'ProgressCallback | None' = None
    ) -> list[str]:
        from seqzoo.data.download import download

        folder, form = self._folder(data_dir), self._form(data_dir) or 'original'
        if form == 'packed':
            return super().prepare(data_dir, progress)
        if form == 'prepared':
            return [f'{film_reviews.find_prepared(folder.parent)} is whole']
        if (unpacked := folder / 'aclImdb').is_dir():
            return [f'{unpacked} is there; nobody has published checksums of its files']
        return [f'{download(film_reviews.ARCHIVE, folder, progress=progress)} is whole']

    def read(self, split: str, data_dir: Path | None) -> Labelled:
        self._refuse_split(split)
        reviews = self._reviews(split, data_dir)
        labels = np.array([review.label for review in reviews], np.int32)
        found = Labelled([review.text for review in reviews], labels)
        if split == 'test':
            return found
        set_aside = folds([review.movie for review in reviews], 10, seed=self.seed) == 0
        return found.chosen(np.flatnonzero(set_aside == (split == 'dev')))

    def _reviews(self, split: str, data_dir: Path | None) -> list[film_reviews.Review]:
        folder, form = self._folder(data_dir), self._form(data_dir)
        part = 'test' if split == 'test' else 'train'
        if form == 'original':
            unpacked, archive = (folder / n for n in ('aclImdb', film_reviews.ARCHIVE.filename))
            return film_reviews.read_original(unpacked if unpacked.is_dir() else archive, part)
        if form == 'prepared':
            return film_reviews.read_prepared(folder.parent, part)
        name = self.test if part == 'test' else self.train
        return film_reviews.read_packed(self._find(data_dir, name, split))

    def _form(self, data_dir: Path | None) -> ReviewForm | None:
        """As what the reviews are there, or what the configuration asks for."""
        folder = self._folder(data_dir)
        names = [name + end for name in (self.train, self.test) for end in ('', '.gz')]
        original = (folder / 'aclImdb', folder / film_reviews.ARCHIVE.filename)
        if self.form is not None:
            return self.form
        if any((folder / name).is_file() for name in names):
            return 'packed'
        if any(path.exists() for path in original):
            return 'original'
        return 'prepared' if (folder.parent / film_reviews.PREPARED).is_dir() else None


@dataclass(frozen=True, kw_only=True)
class RtPolarity(LabelledData):
    """Sentences about films, in ten parts: one to test on, one for 'dev', eight to train on.

    Attributes:
        fold: the part to test on, 0 to 9.
        seed: which sentence comes into which part; equal ones come into one.
    """

    folder: str = 'rt_polarity'
    fold: int = 0
    seed: int = 0

    published: ClassVar = {
        'rt-polarity.neg': PublicFile(
            '4ace77d558c3714723843f1d65b60c01e3417b208180f0728808d76ad0eeeaca',
            f'{_RT_POLARITY}rt-polarity.neg',
        ),
        'rt-polarity.pos': PublicFile(
            '2da124ec187a9d5a29c9f04e91c540e02baed5af8868f550a26bd6fd4dbf8bf0',
            f'{_RT_POLARITY}rt-polarity.pos',
        ),
    }

    def __post_init__(self) -> None:
        if not 0 <= self.fold < 10:
            raise UserError(f'corpus.fold is {self.fold}; the ten parts are 0 to 9')

    @property
    def classes(self) -> tuple[str, ...]:
        return SENTIMENT

    def read(self, split: str, data_dir: Path | None) -> Labelled:
        self._refuse_split(split)
        sides = [
            _read_latin1(self._find(data_dir, name, split))
            for name in ('rt-polarity.neg', 'rt-polarity.pos')
        ]
        texts = [text for side in sides for text in side]
        labels = np.repeat(np.arange(2, dtype=np.int32), [len(side) for side in sides])
        found = folds(texts, 10, seed=self.seed)
        return Labelled(texts, labels).chosen(split_by_folds(found, split, 10, self.fold))


@dataclass(frozen=True, kw_only=True)
class Tsv(LabelledData):
    """Texts, or pairs of texts, in tables of your own: `train.tsv`, `dev.tsv` and `test.tsv`.

    Attributes:
        labels: what stands in the column of labels; classes are called so.
        label: the name of that column.
        first: the column of the text.
        second: the column of the second text of a pair; `None`: there are no pairs.
        train, dev, test: names of the files.
    """

    labels: tuple[str, ...] = ('0', '1')
    label: str = 'label'
    first: str = 'sentence1'
    second: str | None = 'sentence2'
    train: str = 'train.tsv'
    dev: str = 'dev.tsv'
    test: str = 'test.tsv'

    def __post_init__(self) -> None:
        if len(set(self.labels)) < max(2, len(self.labels)):
            raise UserError(f'corpus.labels is {self.labels}; name at least two, each once')

    @property
    def name(self) -> str:
        return self.folder or 'a table of texts'

    @property
    def classes(self) -> tuple[str, ...]:
        return self.labels

    @property
    def pairs(self) -> bool:
        return self.second is not None

    def read(self, split: str, data_dir: Path | None) -> Labelled:
        self._refuse_split(split)
        name = {'train': self.train, 'dev': self.dev, 'test': self.test}[split]
        path = self._find(data_dir, name, split)
        texts = (self.first,) if self.second is None else (self.first, self.second)
        numbers = {label: number for number, label in enumerate(self.labels)}
        inputs, labels = [], []
        for number, record in _read_table(path, (*texts, self.label)):
            *found, label = record
            if label not in numbers:
                raise UserError(
                    f'{path}: the label in line {number} is {label!r}, none of '
                    f'{", ".join(self.labels)}; say with --task.corpus.labels which there are'
                )
            inputs.append(tuple(found) if self.pairs else found[0])
            labels.append(numbers[label])
        return Labelled(inputs, np.array(labels, np.int32))


def _read_table(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """The number of each line of a table, from 2 on, and its fields in some columns."""
    lines = enumerate(read_lines(path), 1)
    header = next(lines, (1, ''))[1].split('\t')
    missing = [column for column in columns if column not in header]
    twice = [column for column in columns if header.count(column) > 1]
    if twice:
        raise UserError(
            f'{path}: the first line calls more than one column {twice[0]}; give each its own name'
        )
    if missing:
        raise UserError(
            f'{path}: no column is called {" or ".join(missing)}; its first line names '
            f'{", ".join(header)}: say with --task.corpus.first, .second and .label which are meant'
        )
    places = [header.index(column) for column in columns]
    for number, line in lines:
        fields = line.split('\t')
        if len(fields) != len(header):
            raise UserError(
                f'{path}: line {number} has {len(fields)} fields, but the first line names '
                f'{len(header)}; mend it'
            )
        yield number, [fields[place] for place in places]


def _read_latin1(path: Path) -> list[str]:
    r"""Lines of a file in Windows' Latin alphabet; only '\n' ends one, for the text has 0x85."""
    try:
        with open_text_file(path) as file:
            text = file.read().decode('latin-1')
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f'{path} cannot be read ({error}); fetch it again') from error
    if not text.strip():
        raise UserError(f'{path} is empty; fetch it again')
    return [line.removesuffix('\r').strip(' ') for line in text.removesuffix('\n').split('\n')]
