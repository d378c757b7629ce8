"""Closed vocabularies of running text: its characters or its words, and nothing else.

A language model reads a text as one stream of entries. There is no padding and no begin mark among
them: segments say where nothing is read, and what stands before a line is what closed the line
before it: the line break itself, `<eos>`, or a space where all text is folded into words and
spaces.

The two forms of the textbooks are `Characters()` (every character of the training text; 65 for
tiny Shakespeare) and `Characters(letters_only=True, unknown=True)` (28 for The Time Machine: 26
letters, the space, `<unk>`). `Words(vocab_size=10_000)` is the Penn Treebank as Mikolov left it,
`<unk>` and `<eos>` being two of the 10,000.
"""

import abc
import collections
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from seqzoo.configuration import from_json, to_json
from seqzoo.data.kept_files import write_atomically
from seqzoo.errors import UserError

UNKNOWN, END_OF_LINE = '<unk>', '<eos>'
# Words with apostrophes and hyphens inside them; other signs stand alone.
WORD_OR_SIGN = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
_NOT_LETTERS = re.compile('[^A-Za-z]+')
_MISSING_CHARACTER = '�'  # what `decode_text` writes for an unknown character


@dataclass(frozen=True, kw_only=True)
class VocabularyConfig(abc.ABC):
    """What the entries of a vocabulary are, and how a line is cut into them."""

    @property
    @abc.abstractmethod
    def nominal_size(self) -> int | None:
        """Entries, as far as they are known before the text is."""

    @property
    @abc.abstractmethod
    def has_unknown(self) -> bool:
        """Whether there is an entry for what the training text lacks."""

    @property
    @abc.abstractmethod
    def line_end(self) -> str:
        """The entry that closes a line of running text."""

    @property
    @abc.abstractmethod
    def lines_end(self) -> bool:
        """Whether that entry stands at the ends of lines only."""

    @abc.abstractmethod
    def units(self, line: str) -> Sequence[str]:
        """A line, or the beginning of one, in entries."""

    @abc.abstractmethod
    def whole_line(self, line: str) -> Sequence[str]:
        """A line of running text in entries, closed by `line_end`."""

    @abc.abstractmethod
    def join(self, units: Sequence[str]) -> str:
        """The text of some entries."""

    @abc.abstractmethod
    def choose(self, counts: collections.Counter[str]) -> list[str]:
        """The entries but for `<unk>`, from the units of the training text and their numbers.

        Raises:
            UserError: the text does not fit the configuration.
        """


@dataclass(frozen=True, kw_only=True)
class Characters(VocabularyConfig):
    """Every character of the training text; the line break is one of them.

    Attributes:
        letters_only: lower-case letters and the space; whatever else stands between two words, a
            line break too, becomes one space.
        unknown: an entry for characters that the training text lacks; without it they are refused.
        vocab_size: how many entries there must be; `None` takes as many as the text has.
    """

    letters_only: bool = False
    unknown: bool = False
    vocab_size: int | None = None

    @property
    def nominal_size(self) -> int | None:
        return 27 + self.unknown if self.letters_only else self.vocab_size

    @property
    def has_unknown(self) -> bool:
        return self.unknown

    @property
    def line_end(self) -> str:
        return ' ' if self.letters_only else '\n'

    @property
    def lines_end(self) -> bool:
        return not self.letters_only

    def units(self, line: str) -> str:
        return _NOT_LETTERS.sub(' ', line).lower() if self.letters_only else line

    def whole_line(self, line: str) -> str:
        if not self.letters_only:
            return line + '\n'
        words = self.units(line).strip()
        return f'{words} ' if words else ''

    def join(self, units: Sequence[str]) -> str:
        return ''.join(_MISSING_CHARACTER if unit == UNKNOWN else unit for unit in units)

    def choose(self, counts: collections.Counter[str]) -> list[str]:
        entries = by_frequency(counts)
        size = len(entries) + self.unknown
        if self.vocab_size is not None and self.vocab_size != size:
            raise UserError(
                f'task.tokenizer.vocab_size is {self.vocab_size}, but the training text has '
                f'{size} different characters{", <unk> included" if self.unknown else ""}; set '
                f'--task.tokenizer.vocab-size {size}, or none'
            )
        return entries


@dataclass(frozen=True, kw_only=True)
class Words(VocabularyConfig):
    """The words of the training text, which are what stands between white space.

    `<unk>` stands for other words (the same entry if the text writes it itself), and `<eos>` closes
    a line.

    Attributes:
        vocab_size: entries at most, these two included: the most frequent words; `None`: all words.
        signs: punctuation marks are words of their own, for text in which they are written without
            a space.
    """

    vocab_size: int | None = None
    signs: bool = False

    def __post_init__(self) -> None:
        if self.vocab_size is not None and self.vocab_size < 3:
            raise UserError(
                f'tokenizer.vocab_size is {self.vocab_size}; <unk> and <eos> are two entries, so '
                'choose at least 3'
            )

    @property
    def nominal_size(self) -> int | None:
        return self.vocab_size

    @property
    def has_unknown(self) -> bool:
        return True

    @property
    def line_end(self) -> str:
        return END_OF_LINE

    @property
    def lines_end(self) -> bool:
        return True

    def units(self, line: str) -> list[str]:
        return WORD_OR_SIGN.findall(line) if self.signs else line.split()

    def whole_line(self, line: str) -> list[str]:
        return [*self.units(line), END_OF_LINE]

    def join(self, units: Sequence[str]) -> str:
        lines = ' '.join('\n' if unit == END_OF_LINE else unit for unit in units)
        return lines.replace(' \n', '\n').replace('\n ', '\n')

    def choose(self, counts: collections.Counter[str]) -> list[str]:
        room = None if self.vocab_size is None else self.vocab_size - 2
        return [
            END_OF_LINE,
            *[word for word in by_frequency(counts) if word not in (UNKNOWN, END_OF_LINE)][:room],
        ]


class Vocabulary:
    """Text to ids and back by a list of entries. Made by `build_vocabulary` or `load`.

    Attributes:
        entries: by id.
        config: what they are.
    """

    def __init__(self, entries: Sequence[str], config: VocabularyConfig):
        self.entries = tuple(entries)
        self.config = config
        self._ids = {entry: number for number, entry in enumerate(self.entries)}
        self.unk_id = self._ids[UNKNOWN] if config.has_unknown else None

    @property
    def vocab_size(self) -> int:
        """How many entries there are."""
        return len(self.entries)

    @property
    def line_end(self) -> int:
        """The id that closes each line of running text."""
        return self._ids[self.config.line_end]

    @property
    def prompt_start(self) -> tuple[int, ...]:
        """What is read before a prompt: what closes the line before it."""
        return (self.line_end,)

    @property
    def stop_id(self) -> int | None:
        """The id at which a line is over; `None` where lines leave no trace in the text."""
        return self.line_end if self.config.lines_end else None

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the entries and of everything that changes what `encode` returns."""
        rules = [type(self.config).__name__, self.config.line_end, self.config.has_unknown]
        if getattr(self.config, 'signs', False):
            rules.append('signs')
        return hashlib.sha256(json.dumps([rules, self.entries]).encode()).hexdigest()

    def encode(self, line: str) -> np.ndarray:
        """`[length]` int32 ids of what somebody typed: a line, or the beginning of one.

        A word that is no entry as it stands is looked up in lower case.

        Raises:
            UserError: a character is unknown, and there is no entry for that.
        """
        units = self.config.units(line)
        if isinstance(self.config, Words):
            units = [unit if unit in self._ids else unit.lower() for unit in units]
        return self._numbers(units, line)

    def encode_batch(self, lines: Sequence[str]) -> list[np.ndarray]:
        """`encode` of several lines."""
        return [self.encode(line) for line in lines]

    def encode_text(self, lines: Sequence[str]) -> list[np.ndarray]:
        """Ids of lines of running text, each `[length]` int32 and closed by `line_end`."""
        return [self._numbers(self.config.whole_line(line), line) for line in lines]

    def decode_text(self, ids: Any) -> str:
        """The running text of some ids."""
        return self.config.join(self.pieces(ids))

    def pieces(self, ids: Any) -> list[str]:
        """The entry of every id: labels for pictures and tables."""
        return [self.entries[int(i)] for i in ids]

    def save(self, path: str | Path) -> None:
        """Writes entries and configuration as JSON."""
        note = {
            'config': json.loads(to_json(self.config)),
            'fingerprint': self.fingerprint,
            'entries': self.entries,
        }
        text = json.dumps(note, ensure_ascii=False, indent=1) + '\n'
        write_atomically(Path(path), text.encode())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            UserError: the file is missing or damaged.
        """
        path = Path(path)
        try:
            note = json.loads(path.read_bytes())
            vocabulary = cls(note['entries'], from_json(json.dumps(note['config'])))
            sound = vocabulary.fingerprint == note['fingerprint']
        except OSError as error:
            raise UserError(
                f'{path}: cannot be read ({error.strerror}); a vocabulary needs it'
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError, UserError) as error:
            raise UserError(
                f'{path} holds no vocabulary ({error}); prepare the data again'
            ) from error
        if not sound or len(vocabulary._ids) != len(vocabulary.entries):
            raise UserError(
                f'{path} is damaged: its entries are not those that were saved; prepare the data '
                'again'
            )
        return vocabulary

    def _numbers(self, units: Sequence[str], line: str) -> np.ndarray:
        if self.unk_id is not None:
            known, unknown = self._ids.get, self.unk_id
            return np.fromiter((known(unit, unknown) for unit in units), np.int32, len(units))
        try:
            return np.fromiter(map(self._ids.__getitem__, units), np.int32, len(units))
        except KeyError as error:
            shown = line if len(line) <= 40 else f'{line[:39]}…'
            raise UserError(
                f'{error.args[0]!r} in the line {shown!r} is no character of the training text; '
                'take it out, or train with --task.tokenizer.unknown true'
            ) from error


def build_vocabulary(lines: Iterable[str], config: VocabularyConfig) -> Vocabulary:
    """The vocabulary of a training text.

    Args:
        lines: the text.
        config: what the entries are.

    Raises:
        UserError: there is no text, or it does not fit the configuration.
    """
    counts: collections.Counter[str] = collections.Counter()
    empty = True
    for line in lines:
        units = config.whole_line(line)
        empty = empty and not line.strip()
        counts.update(units)
    if empty:
        raise UserError('there is no text to make a vocabulary of: every training line is empty')
    unknown = [UNKNOWN] if config.has_unknown else []
    return Vocabulary([*unknown, *config.choose(counts)], config)


def by_frequency(counts: collections.Counter[str]) -> list[str]:
    """The most frequent first; of equals, the first in the order of code points."""
    return [unit for unit, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
