"""The tokenizers of Marian: two SentencePiece models that cut, and lists that number the pieces.

Such a tokenizer comes with weights and is not trained here. Its ids are those of the lists
(`vocab.json`), not of the SentencePiece models; there is no begin mark, and a decoder starts with
the padding. What is written out in a text as a special piece (`</s>`) is read as that piece, and a
text may begin with the code of the language to translate into (`>>fra<<`).
"""

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from seqzoo.data.kept_files import write_atomically
from seqzoo.data.tokenizers import TokenizerPair
from seqzoo.errors import UserError

MARIAN_SETTINGS = 'marian.json'
SOURCE_MODEL, TARGET_MODEL = 'source.spm', 'target.spm'
VOCABULARY, TARGET_VOCABULARY = 'vocab.json', 'target_vocab.json'
_LANGUAGE_CODE = re.compile('>>.*?<<', re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class MarianPieces:
    """Says of a task that its pieces came with imported weights.

    Attributes:
        vocab_size: pieces of the target, and of the source if that has none of its own.
        source_vocab_size: pieces of the source where it has a list of its own.
        begin_id: what the decoder reads first.
    """

    kind: ClassVar[str] = 'Marian'
    moses: ClassVar[bool] = False

    vocab_size: int
    source_vocab_size: int | None = None
    begin_id: int

    @property
    def joint(self) -> bool:
        """Whether both sides share one list."""
        return self.source_vocab_size is None


@dataclass(frozen=True, kw_only=True)
class MarianVocabulary:
    """What the tokenizers of both sides are made of.

    Attributes:
        source_model, target_model: SentencePiece models, as in their files.
        source_ids, target_ids: the number of each piece; one and the same if joint.
        unknown, end, padding: the special pieces.
        begin_id: what the decoder reads first.
        vocab_size, source_vocab_size: rows of the model's tables, at least as many as pieces.
    """

    source_model: bytes
    target_model: bytes
    source_ids: Mapping[str, int]
    target_ids: Mapping[str, int]
    unknown: str = '<unk>'
    end: str = '</s>'
    padding: str = '<pad>'
    begin_id: int
    vocab_size: int
    source_vocab_size: int

    def __post_init__(self) -> None:
        sides = (
            ('source', self.source_ids, self.source_vocab_size),
            ('target', self.target_ids, self.vocab_size),
        )
        for side, ids, size in sides:
            for piece in (self.unknown, self.end, self.padding):
                if piece not in ids:
                    raise UserError(
                        f'the pieces of the {side} lack {piece}; get {VOCABULARY} again'
                    )
            wrong = [p for p, i in ids.items() if type(i) is not int or not 0 <= i < size]
            if wrong:
                raise UserError(
                    f'the piece {wrong[0]!r} of the {side} has the number {ids[wrong[0]]}, but the '
                    f'model has {size} rows; {VOCABULARY} and the weights do not belong together'
                )

    @property
    def joint(self) -> bool:
        """Whether both sides share one list."""
        return self.source_ids is self.target_ids

    def pair(self) -> TokenizerPair:
        """The tokenizers of both sides."""
        return TokenizerPair(MarianTokenizer(self, 'source'), MarianTokenizer(self, 'target'))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of everything that changes ids."""
        models = [hashlib.sha256(m).hexdigest() for m in (self.source_model, self.target_model)]
        lists = [dict(self.source_ids), None if self.joint else dict(self.target_ids)]
        return hashlib.sha256(
            json.dumps([models, lists, self._settings()], sort_keys=True).encode()
        ).hexdigest()

    def _settings(self) -> dict[str, Any]:
        names = ('unknown', 'end', 'padding', 'begin_id', 'vocab_size', 'source_vocab_size')
        return {name: getattr(self, name) for name in names}

    def write_lists(self, folder: Path) -> None:
        """Writes the models and the lists, under the names that others read."""
        write_atomically(folder / SOURCE_MODEL, self.source_model)
        write_atomically(folder / TARGET_MODEL, self.target_model)
        write_atomically(folder / VOCABULARY, _as_json(self.source_ids))
        if not self.joint:
            write_atomically(folder / TARGET_VOCABULARY, _as_json(self.target_ids))

    def save(self, folder: Path) -> None:
        """Writes everything into a run."""
        self.write_lists(folder)
        note = {**self._settings(), 'joint': self.joint, 'fingerprint': self.fingerprint}
        write_atomically(folder / MARIAN_SETTINGS, _as_json(note))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            UserError: a file is missing or damaged.
        """
        note = read_json(folder / MARIAN_SETTINGS)
        joint, fingerprint = note.pop('joint', True), note.pop('fingerprint', None)
        found = cls.read(folder, joint=joint, **note)
        if found.fingerprint != fingerprint:
            raise UserError(
                f'{folder / MARIAN_SETTINGS} does not belong to the pieces beside it; import the '
                'weights again'
            )
        return found

    @classmethod
    def read(cls, folder: Path, *, joint: bool, **settings: Any) -> Self:
        """Reads the models and the lists of a folder; `settings` are the other attributes.

        Raises:
            UserError: a file is missing or damaged, or they do not fit each other.
        """
        ids = read_json(folder / VOCABULARY)
        try:
            return cls(
                source_model=_read(folder / SOURCE_MODEL),
                target_model=_read(folder / TARGET_MODEL),
                source_ids=ids,
                target_ids=ids if joint else read_json(folder / TARGET_VOCABULARY),
                **settings,
            )
        except TypeError as error:
            raise UserError(f'{folder / MARIAN_SETTINGS} is damaged ({error})') from error
        except UserError as error:
            raise UserError(f'{folder}: {error}') from error


class MarianTokenizer:
    """One side of a `MarianVocabulary`, a `PieceTokenizer`; can be pickled.

    Attributes:
        vocabulary: of both sides.
        side: `'source'` or `'target'`.
    """

    def __init__(self, vocabulary: MarianVocabulary, side: str):
        import sentencepiece

        self.vocabulary, self.side = vocabulary, side
        own = side == 'source'
        self._ids = vocabulary.source_ids if own else vocabulary.target_ids
        self.vocab_size = vocabulary.source_vocab_size if own else vocabulary.vocab_size
        self._pieces = {number: piece for piece, number in self._ids.items()}
        self.pad_id = self._ids[vocabulary.padding]
        self.unk_id = self._ids[vocabulary.unknown]
        self.eos_id = self._ids[vocabulary.end]
        self.bos_id = vocabulary.begin_id
        # One list is written with the pieces of both models, and read back with the source's.
        models = {'source': vocabulary.source_model, 'target': vocabulary.target_model}
        try:
            self._cut = sentencepiece.SentencePieceProcessor(model_proto=models[side])
            self._join = sentencepiece.SentencePieceProcessor(
                model_proto=models['source' if vocabulary.joint else side]
            )
        except (RuntimeError, TypeError) as error:
            raise UserError(f'{side}.spm is no SentencePiece model; get it again') from error
        longest_first = sorted(self._special_pieces(), key=len, reverse=True)
        self._special = re.compile(f'({"|".join(map(re.escape, longest_first))})')

    @property
    def fingerprint(self) -> str:
        """Hash of everything that changes what `encode` returns."""
        return f'{self.side} {self.vocabulary.fingerprint}'

    def encode(self, line: str) -> np.ndarray:
        """`[length]` int32 ids of one line, without end marker."""
        pieces: list[str] = []
        special = self._special_pieces()
        for part in self._special.split(line):
            if part in special:
                pieces.append(part)
            elif part:
                code = _LANGUAGE_CODE.match(part)
                if code is not None:
                    pieces.append(code[0])
                    part = part[code.end() :]
                pieces += self._cut.encode(part, out_type=str)
        return np.array([self._ids.get(piece, self.unk_id) for piece in pieces], np.int32)

    def encode_batch(self, lines: Sequence[str]) -> list[np.ndarray]:
        """Ids of several lines."""
        return [self.encode(line) for line in lines]

    def decode(self, ids: Any, *, detokenize: bool = True) -> str:
        """Text of some ids: stops at the first end marker, leaves out special pieces."""
        del detokenize  # nothing was done to the text before it was cut
        kept, special = [], self._special_pieces()
        for number in np.asarray(ids).tolist():
            if number == self.eos_id:
                break
            piece = self._pieces.get(number)
            if piece is not None and piece not in special:
                kept.append(piece)
        return self._join.decode_pieces(kept).replace('▁', ' ').strip()

    def pieces(self, ids: Any) -> list[str]:
        """The piece of every id, specials included: labels for pictures and tables."""
        return [self._pieces.get(int(number), f'<{number}>') for number in ids]

    def preprocess(self, line: str) -> str:
        """The line as it is: nothing is done to it."""
        return line

    def _special_pieces(self) -> tuple[str, ...]:
        v = self.vocabulary
        return (v.unknown, v.end, v.padding)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.vocabulary, self.side)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object out of a file.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        found = json.loads(_read(path))
    except ValueError as error:
        raise UserError(f'{path} is damaged ({error}); get it again') from error
    if not isinstance(found, dict):
        raise UserError(f'{path} holds no JSON object; get it again')
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f'{path} cannot be read ({error.strerror}), and is needed') from error


def _as_json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(dict(content), ensure_ascii=False, indent=1) + '\n').encode()
