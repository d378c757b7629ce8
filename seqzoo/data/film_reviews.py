"""The Large Movie Review Dataset (Maas et al. 2011) in each of the forms in which it is found.

Packed: one JSON object a line, with `text`, `label` (1: positive) and `movie`. Original: one review
a file, `aclImdb/PART/pos/ID_RATING.txt` and `neg`; line ID of `aclImdb/PART/urls_pos.txt`, counted
from 0, is the address of its film. Prepared: `imdb_reviews` of TFDS, as array_record; which film a
review is about is lost.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from seqzoo.data.archives import read_members
from seqzoo.data.download import RemoteFile
from seqzoo.data.text_files import read_lines
from seqzoo.errors import UserError

# As TFDS lists it, with length and checksum.
ARCHIVE = RemoteFile(
    url='http://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz',
    filename='aclImdb_v1.tar.gz',
    sha256='c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe',
    size=84_125_825,
)
PREPARED = 'imdb_reviews/plain_text'
_LABELS = {'neg': 0, 'pos': 1}
_REVIEW = re.compile(r'aclImdb/(train|test)/(neg|pos)/(\d+)_\d+\.txt')
_ADDRESSES = re.compile(r'aclImdb/(train|test)/urls_(neg|pos)\.txt')


class Review(NamedTuple):
    """A film review.

    Attributes:
        text: as it was written, line breaks being `<br />`.
        label: 1 if it is positive, otherwise 0.
        movie: what its film is known by; where that is lost, the text.
    """

    text: str
    label: int
    movie: str


def read_packed(path: Path) -> list[Review]:
    """The reviews of a file of JSON objects, in order.

    Raises:
        UserError: a line is no review (says which).
    """
    found = []
    for number, line in enumerate(read_lines(path), 1):
        try:
            review = json.loads(line)
            text, label, movie = review['text'], review['label'], review['movie']
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f'{path}: line {number} is no review with text, label and movie ({error}); fetch '
                'the file again'
            ) from error
        if label not in (0, 1):
            raise UserError(f'{path}: the label in line {number} is {label!r}, not 0 or 1')
        found.append(Review(str(text), int(label), str(movie)))
    return found


def read_original(path: Path, part: str) -> list[Review]:
    """The reviews of a part, the negative ones first, each kind by number.

    Args:
        path: the folder `aclImdb`, or the archive.
        part: `'train'` or `'test'`.

    Raises:
        UserError: the archive is damaged, a review is not UTF-8, or there is none.
    """
    texts: dict[tuple[int, int], str] = {}
    films: dict[int, list[str]] = {}
    for name, content in read_members(path, lambda name: name.startswith(f'aclImdb/{part}/')):
        review, addresses = _REVIEW.fullmatch(name), _ADDRESSES.fullmatch(name)
        if review is not None:
            texts[_LABELS[review[2]], int(review[3])] = _decoded(path, name, content)
        elif addresses is not None:
            films[_LABELS[addresses[2]]] = _decoded(path, name, content).splitlines()
    if not texts:
        raise UserError(f'{path} holds no reviews aclImdb/{part}/pos/ID_RATING.txt; fetch it again')
    return list(_with_films(texts, films))


def _with_films(texts: dict[tuple[int, int], str], films: dict[int, list[str]]) -> Iterator[Review]:
    for (label, number), text in sorted(texts.items()):
        addresses = films.get(label, [])
        # A folder may have lost the lists.
        yield Review(text, label, addresses[number] if number < len(addresses) else text)


def _decoded(path: Path, name: str, content: bytes) -> str:
    try:
        return content.decode('utf-8')
    except UnicodeDecodeError as error:
        raise UserError(
            f'{name} of {path} is not UTF-8 (byte 0x{content[error.start]:02x} at position '
            f'{error.start}): fetch it again'
        ) from error


def find_prepared(data_dir: Path) -> Path:
    """The folder in which TFDS prepared the reviews.

    Raises:
        UserError: it is not there, files are missing, or it needs TensorFlow to be read.
    """
    from seqzoo.data.records import find_dataset, open_builder

    directory = find_dataset(PREPARED, data_dir)
    open_builder(directory)
    return directory


def read_prepared(data_dir: Path, part: str) -> list[Review]:
    """The reviews of a part as TFDS prepared them, in the order in which it stored them.

    Raises:
        UserError: as `find_prepared`, or a label is neither 0 nor 1.
    """
    from seqzoo.data.records import open_builder

    directory = find_prepared(data_dir)
    found = []
    for record in open_builder(directory).as_data_source(split=part):
        text = record['text']
        text = text.decode('utf-8') if isinstance(text, bytes) else str(text)
        found.append(Review(text, int(record['label']), text))
    if not {review.label for review in found} <= {0, 1}:
        raise UserError(f'{directory} has other labels than 0 and 1; prepare it again')
    return found
