"""WordPiece (Schuster and Nakajima 2012), as BERT cuts its text (Devlin et al. 2019, section 3).

A text is cut at white space and around punctuation, and each word into the longest pieces of the
vocabulary, from left to right; pieces inside a word begin with `##`. A word that cannot be spelled
so is `[UNK]`. The cutting is that of the library `tokenizers`.

The same text and settings give the same vocabulary anywhere: the library numbers the letters that
stand inside words in an order that differs from process to process, and lets these numbers decide
between equally frequent pairs; here they are numbered before it begins.
"""

import collections
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from seqzoo.data.kept_files import read_cached, write_atomically
from seqzoo.errors import UserError

PAD, UNKNOWN, CLASSIFY, SEPARATE, MASK = '[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'
SPECIALS = (PAD, UNKNOWN, CLASSIFY, SEPARATE, MASK)
CONTINUES = '##'
_LONGEST_WORD = 100  # characters; a longer one is unknown, as in BERT


@dataclass(frozen=True, kw_only=True)
class WordPieceConfig:
    """How a WordPiece vocabulary is made.

    Attributes:
        vocab_size: pieces at most, the five special ones included.
        lowercase: fold case and take off accents.
        alphabet: characters at most that get pieces of their own, the most frequent ones.
        min_count: a piece that occurs less often in the training text is not made.
    """

    vocab_size: int = 8000
    lowercase: bool = True
    alphabet: int = 1000
    min_count: int = 2

    def __post_init__(self) -> None:
        for name, least in (('vocab_size', len(SPECIALS) + 2), ('alphabet', 1), ('min_count', 1)):
            if getattr(self, name) < least:
                raise UserError(
                    f'tokenizer.{name} is {getattr(self, name)}; choose at least {least}'
                )

    @property
    def nominal_size(self) -> int:
        """Pieces, as far as that is known before the text is."""
        return self.vocab_size


class WordPiece:
    """Text to piece ids and back. Made by `train_wordpiece`, `load` or `from_vocabulary_file`.

    Attributes:
        entries: pieces by id.
        lowercase: whether case and accents are folded.
        pad_id, unk_id, cls_id, sep_id, mask_id: of the special pieces.
    """

    def __init__(self, entries: Sequence[str], *, lowercase: bool):
        self.entries, self.lowercase = tuple(entries), lowercase
        ids = {piece: number for number, piece in enumerate(self.entries)}
        missing = [piece for piece in SPECIALS if piece not in ids]
        if missing or len(ids) < len(self.entries):
            what = f'lacks {" and ".join(missing)}' if missing else 'has a piece twice'
            raise UserError(f'the WordPiece vocabulary {what}; give one as BERT has it')
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (
            ids[piece] for piece in SPECIALS
        )
        self._cutter = _cutter(ids, lowercase)

    @property
    def vocab_size(self) -> int:
        """Pieces, the special ones included."""
        return len(self.entries)

    @property
    def line_end(self) -> int:
        """The id that closes each line of running text: `[SEP]`."""
        return self.sep_id

    @property
    def prompt_start(self) -> tuple[int, ...]:
        """What is read before a prompt: what closes the line before it."""
        return (self.sep_id,)

    @property
    def stop_id(self) -> int:
        """The id at which a line is over."""
        return self.sep_id

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the pieces and of everything that changes what `encode` returns."""
        rules = ['WordPiece', self.lowercase]
        return hashlib.sha256(json.dumps([rules, self.entries]).encode()).hexdigest()

    @functools.cached_property
    def continues(self) -> np.ndarray:
        """`[vocab]` bool: pieces that stand inside a word."""
        return np.array([piece.startswith(CONTINUES) for piece in self.entries])

    @functools.cached_property
    def ordinary(self) -> np.ndarray:
        """int32 ids of all pieces that are text: without the special and the unused ones."""
        text = [p not in SPECIALS and not p.startswith('[unused') for p in self.entries]
        return np.flatnonzero(text).astype(np.int32)

    def encode(self, line: str) -> np.ndarray:
        """`[length]` int32 ids; special pieces that are written out (`[MASK]`) are read as such."""
        return self.encode_batch([line])[0]

    def encode_batch(self, lines: Sequence[str]) -> list[np.ndarray]:
        """`encode` of several lines."""
        found = self._cutter.encode_batch(list(lines), add_special_tokens=False)
        return [np.array(one.ids, np.int32) for one in found]

    def encode_text(self, lines: Sequence[str]) -> list[np.ndarray]:
        """Ids of lines of running text, each `[length]` int32 and closed by `[SEP]`."""
        return [np.append(ids, np.int32(self.sep_id)) for ids in self.encode_batch(lines)]

    def encode_words(self, words: Sequence[str]) -> list[np.ndarray]:
        """The pieces of each word by itself, at least one: `[UNK]` where nothing is left of it."""
        unknown = np.array([self.unk_id], np.int32)
        return [ids if len(ids) else unknown for ids in self.encode_batch(words)]

    def decode(self, ids: Any) -> str:
        """The text of some ids, the special ones as they are written."""
        words: list[str] = []
        for piece in self.pieces(ids):
            if piece.startswith(CONTINUES) and words:
                words[-1] += piece[len(CONTINUES) :]
            else:
                words.append(piece)
        return ' '.join(words)

    def decode_text(self, ids: Any) -> str:
        """The running text of some ids: a line break for every `[SEP]`."""
        array = np.asarray(ids)
        lines = np.split(array, np.flatnonzero(array == self.sep_id) + 1)
        return '\n'.join(self.decode(line[line != self.sep_id]) for line in lines)

    def pieces(self, ids: Any) -> list[str]:
        """The piece of every id."""
        return [self.entries[int(i)] for i in ids]

    def save(self, path: str | Path) -> None:
        """Writes pieces and settings as JSON."""
        note = {
            'lowercase': self.lowercase,
            'fingerprint': self.fingerprint,
            'pieces': self.entries,
        }
        text = json.dumps(note, ensure_ascii=False, indent=1) + '\n'
        write_atomically(Path(path), text.encode())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            UserError: the file is missing or damaged.
        """
        try:
            note = json.loads(Path(path).read_bytes())
            tokenizer = cls(note['pieces'], lowercase=note['lowercase'])
            sound = tokenizer.fingerprint == note['fingerprint']
        except OSError as error:
            raise UserError(
                f'{path}: cannot be read ({error.strerror}); a tokenizer needs it'
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError, UserError) as error:
            raise UserError(
                f'{path} holds no WordPiece vocabulary ({error}); prepare the data again'
            ) from error
        if not sound:
            raise UserError(
                f'{path} is damaged: its pieces are not those that were saved; prepare the data '
                'again'
            )
        return tokenizer

    @classmethod
    def from_vocabulary_file(cls, path: str | Path, *, lowercase: bool) -> Self:
        """Reads a `vocab.txt` as BERT's authors publish it, a piece a line.

        Raises:
            UserError: it cannot be read, or is no such list.
        """
        try:
            text = Path(path).read_text(encoding='utf-8')
        except OSError as error:
            raise UserError(
                f'{path}: cannot be read ({error.strerror}); WordPiece needs its list of pieces'
            ) from error
        except UnicodeDecodeError as error:
            raise UserError(f'{path} is not UTF-8 ({error.reason}); give a vocab.txt') from error
        try:
            return cls(text.removesuffix('\n').split('\n'), lowercase=lowercase)
        except UserError as error:
            raise UserError(f'{path}: {error}') from error

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.entries, self.lowercase)


def _restored(entries: Sequence[str], lowercase: bool) -> WordPiece:
    return WordPiece(entries, lowercase=lowercase)


def train_wordpiece(
    lines: Iterable[str], config: WordPieceConfig, *, cache_dir: Path | None = None
) -> WordPiece:
    """The vocabulary of a training text, learnt or taken from the cache.

    Args:
        lines: the text, which is read several times.
        config: the settings.
        cache_dir: keeps vocabularies under the fingerprint of text and settings.

    Raises:
        UserError: there is no text.
    """
    digest, empty = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode()), True
    for line in lines:
        empty = empty and not line.strip()
        digest.update(line.encode('utf-8', 'surrogatepass') + b'\n')
    if empty:
        raise UserError('there is no text to learn pieces from: every training line is empty')
    path = None if cache_dir is None else cache_dir / f'wordpiece-{digest.hexdigest()[:16]}.json'
    if path is not None and (kept := read_cached(path, lambda: WordPiece.load(path))) is not None:
        return kept
    tokenizer = WordPiece(_learnt(lines, config), lowercase=config.lowercase)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        tokenizer.save(path)
    return tokenizer


def _learnt(lines: Iterable[str], config: WordPieceConfig) -> list[str]:
    """The pieces: special ones, letters, and what was put together, in the order it was."""
    from tokenizers import Tokenizer, models, trainers

    normalizer, splitter = _normalizer(config.lowercase), _splitter()
    counts: collections.Counter[str] = collections.Counter()
    for line in lines:
        counts.update(normalizer.normalize_str(line))
    letters = [c for c in counts if not c.isspace()]
    letters.sort(key=lambda c: (-counts[c], c))
    rare = dict.fromkeys(map(ord, letters[config.alphabet :]), ' ')

    def text() -> Iterator[str]:
        return (normalizer.normalize_str(line).translate(rare) for line in lines)

    alphabet = sorted(letters[: config.alphabet])
    numbered = [*SPECIALS, *alphabet, *(CONTINUES + c for c in alphabet)]
    trainer: Any = trainers.WordPieceTrainer(
        # Room for letters that never stand inside a word; they are left out below.
        vocab_size=config.vocab_size + len(alphabet),
        min_frequency=config.min_count,
        special_tokens=numbered,
        continuing_subword_prefix=CONTINUES,
        show_progress=False,
    )
    learner: Any = Tokenizer(models.WordPiece(unk_token=UNKNOWN))  # type: ignore[call-arg]
    learner.pre_tokenizer = splitter
    learner.train_from_iterator(text(), trainer)
    by_id = sorted(learner.get_vocab().items(), key=lambda item: item[1])
    inside = _letters_inside(text(), splitter)
    pieces = [
        piece
        for piece, _ in by_id
        if piece in SPECIALS or not _is_inner_letter(piece) or piece[-1] in inside
    ]
    return pieces[: max(config.vocab_size, len(SPECIALS) + len(alphabet) + len(inside))]


def _is_inner_letter(piece: str) -> bool:
    return piece.startswith(CONTINUES) and len(piece) == len(CONTINUES) + 1


def _letters_inside(lines: Iterable[str], splitter: Any) -> set[str]:
    """Characters that stand anywhere but at the beginning of a word."""
    found: set[str] = set()
    for line in lines:
        for word, _ in splitter.pre_tokenize_str(line):
            found.update(word[1:])
    return found


def _cutter(ids: dict[str, int], lowercase: bool) -> Any:
    from tokenizers import AddedToken, Tokenizer, models

    model: Any = models.WordPiece(  # type: ignore[call-arg]
        vocab=ids, unk_token=UNKNOWN, max_input_chars_per_word=_LONGEST_WORD
    )
    cutter: Any = Tokenizer(model)
    cutter.normalizer, cutter.pre_tokenizer = _normalizer(lowercase), _splitter()
    cutter.add_special_tokens([AddedToken(p, normalized=False, special=True) for p in SPECIALS])
    return cutter


def _normalizer(lowercase: bool) -> Any:
    from tokenizers import normalizers

    return normalizers.BertNormalizer(lowercase=lowercase)


def _splitter() -> Any:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.BertPreTokenizer()
