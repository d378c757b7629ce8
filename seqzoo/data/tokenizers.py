"""SentencePiece tokenizers, trained on the training split, cached by what they were made from.

Deliberate choices:

- Text is not normalised (`identity`). SentencePiece's default, NFKC, rewrites characters that
  references keep ('½', '…', 'ﬁ', full-width letters), so that a perfect translation would still
  lose BLEU. Runs of spaces are folded, which no scorer counts, and nothing else is changed:
  `decode(encode(line))` is the line, but for spaces.
- The fingerprint covers the pieces and settings, not the file, which embeds paths.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from seqzoo.data.kept_files import read_cached, write_atomically
from seqzoo.data.tokenizer_training import (
    BEGIN,
    END,
    PAD,
    UNKNOWN,
    Moses,
    Sides,
    TokenizerConfig,
    hash_text,
    preprocessed,
    sample_lines,
    train_sentencepiece,
)
from seqzoo.errors import UserError

__all__ = [
    'PieceTokenizer',
    'Tokenizer',
    'TokenizerConfig',
    'TokenizerPair',
    'train_tokenizer',
    'train_tokenizer_pair',
]


class Tokenizer:
    """Text to token ids and back. Made by `train_tokenizer` or `Tokenizer.load`; can be pickled.

    Attributes:
        config: the settings it was trained with.
        language: whose Moses rules apply, where `config.moses` asks for them.
        learnt_from: how many lines it learnt from, of how many; `None` where nobody noted it.
    """

    pad_id = PAD
    unk_id = UNKNOWN
    bos_id = BEGIN
    eos_id = END

    def __init__(
        self,
        model: bytes,
        config: TokenizerConfig,
        language: str = 'en',
        *,
        learnt_from: tuple[int, int] | None = None,
    ):
        import sentencepiece

        self.config = config
        self.language = language
        self.learnt_from = learnt_from
        self._model = model
        # Of no bytes at all SentencePiece makes a model, in which nothing has an id.
        if not model:
            raise UserError('the file is empty; give the .model file of a seqzoo run')
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            found = tuple(
                getattr(self._processor, name)()
                for name in ('pad_id', 'unk_id', 'bos_id', 'eos_id')
            )
        except (RuntimeError, TypeError) as error:
            raise UserError(
                'the file is not a SentencePiece model; give the .model file of a seqzoo run'
            ) from error
        if found != (PAD, UNKNOWN, BEGIN, END):
            raise UserError(
                f'the SentencePiece model has pad, unk, bos, eos at {found} but seqzoo reads (0, '
                '1, 2, 3); train it with --pad_id=0 --unk_id=1 --bos_id=2 --eos_id=3'
            )
        self._moses: Any = None
        self._threads: int | None = None  # as many as there are cores

    @property
    def model(self) -> bytes:
        """The SentencePiece model, as in its file."""
        return self._model

    @property
    def vocab_size(self) -> int:
        """Pieces, specials included."""
        return self._processor.vocab_size()

    @property
    def line_end(self) -> int:
        """The id that closes each line of running text: the end marker."""
        return END

    @property
    def prompt_start(self) -> tuple[int, ...]:
        """What is read before a prompt: what closes the line before it."""
        return (END,)

    @property
    def stop_id(self) -> int:
        """The id at which a line is over."""
        return END

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the pieces and of everything that changes what `encode` returns."""
        size = self._processor.vocab_size()
        pieces = [
            [self._processor.id_to_piece(i), self._processor.get_score(i)] for i in range(size)
        ]
        moses = [self.language] if self.config.moses else []
        settings = [
            self.config.kind,
            self.config.byte_fallback,
            self.config.lowercase,
            self.config.moses,
            *moses,
        ]
        return hashlib.sha256(json.dumps([settings, pieces]).encode()).hexdigest()

    def for_language(self, language: str) -> Self:
        """The same model with the Moses rules of another language."""
        return type(self)(self._model, self.config, language, learnt_from=self.learnt_from)

    def encode(self, line: str) -> np.ndarray:
        """`[length]` int32 ids of one line, without begin and end markers."""
        return self.encode_batch([line])[0]

    def encode_batch(self, lines: Sequence[str]) -> list[np.ndarray]:
        """Ids of several lines, each `[length]` int32, without begin and end markers."""
        prepared = [self.preprocess(line) for line in lines]
        found = self._processor.encode(prepared, out_type=int, num_threads=self._threads)
        return [np.array(ids, np.int32) for ids in found]

    def use_one_thread(self) -> None:
        """From now on uses one core; otherwise a batch is cut on all of them."""
        self._threads = 1

    def encode_text(self, lines: Sequence[str]) -> list[np.ndarray]:
        """Ids of lines of running text, each `[length]` int32 and closed by `line_end`."""
        return [np.append(ids, np.int32(END)) for ids in self.encode_batch(lines)]

    def decode(self, ids: Any, *, detokenize: bool = True) -> str:
        """Text of some ids: stops at the first end marker, leaves out padding and begin markers.

        Args:
            ids: a sequence of ids, padded or not.
            detokenize: undo the Moses tokenisation, if the tokenizer applies it. Some papers score
                without.
        """
        text = self._processor.decode(self._content(ids))
        return self._tools().detokenize(text.split()) if self.config.moses and detokenize else text

    def decode_text(self, ids: Any) -> str:
        """The running text of some ids: a line break for every end marker."""
        array = np.asarray(ids)
        lines = np.split(array, np.flatnonzero(array == END) + 1)
        return '\n'.join(self.decode(line) for line in lines)

    def decode_batch(self, sentences: Iterable[Any], *, detokenize: bool = True) -> list[str]:
        """Text of several sequences of ids."""
        return [self.decode(ids, detokenize=detokenize) for ids in sentences]

    def pieces(self, ids: Any) -> list[str]:
        """The piece of every id, specials included: labels for pictures and tables."""
        return [self._processor.id_to_piece(int(i)) for i in ids]

    def preprocess(self, line: str) -> str:
        """What is done to a line before it is cut into pieces."""
        if self.config.moses:
            line = self._tools().tokenize(line)
        return line.lower() if self.config.lowercase else line

    def save(self, path: str | Path) -> None:
        """Writes the SentencePiece model to `path`, and the settings to `path`.json."""
        path = Path(path)
        note = {
            'config': asdict(self.config),
            'language': self.language,
            'fingerprint': self.fingerprint,
            'learnt_from': self.learnt_from,
        }
        write_atomically(Path(f'{path}.json'), json.dumps(note, indent=1).encode())
        write_atomically(path, self._model)  # last: where the model is, its settings are

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            UserError: a file is missing or damaged, or the two do not belong together.
        """
        path = Path(path)
        try:
            model = path.read_bytes()
            note = json.loads(Path(f'{path}.json').read_bytes())
            seen = note.get('learnt_from')
            tokenizer = cls(
                model,
                TokenizerConfig(**note['config']),
                note['language'],
                learnt_from=None if seen is None else (int(seen[0]), int(seen[1])),
            )
            belongs = tokenizer.fingerprint == note['fingerprint']
        except OSError as error:
            raise UserError(
                f'{error.filename}: cannot be read ({error.strerror}); a tokenizer needs it'
            ) from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(
                f'{path}.json holds no tokenizer settings ({error}); prepare the data again'
            ) from error
        except UserError as error:
            raise UserError(f'{path}: {error}') from error
        if not belongs:
            raise UserError(
                f'{path} and {path}.json do not belong together; prepare the data again'
            )
        return tokenizer

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._model, self.config, self.language)

    def _content(self, ids: Any) -> list[int]:
        content: list[int] = []
        for i in np.asarray(ids).tolist():
            if i == END:
                break
            if i not in (PAD, BEGIN):
                content.append(i)
        return content

    def _tools(self) -> Moses:
        self._moses = self._moses or Moses(self.language)
        return self._moses


class PieceTokenizer(Protocol):
    """What cuts one side of a translation into pieces: ours, or one that came with weights."""

    @property
    def pad_id(self) -> int:
        """The id that fills outputs up."""
        ...

    @property
    def bos_id(self) -> int:
        """The id that the decoder reads first."""
        ...

    @property
    def eos_id(self) -> int:
        """The id that closes a sentence."""
        ...

    @property
    def vocab_size(self) -> int:
        """Pieces, specials included."""
        ...

    @property
    def fingerprint(self) -> Any:
        """Text: a hash of everything that changes what `encode` returns."""
        ...

    def encode(self, line: str) -> np.ndarray:
        """`[length]` int32 ids of one line, without begin and end markers."""
        ...

    def encode_batch(self, lines: Sequence[str]) -> list[np.ndarray]:
        """Ids of several lines."""
        ...

    def decode(self, ids: Any, *, detokenize: bool = True) -> str:
        """Text of some ids, up to the first end marker."""
        ...

    def pieces(self, ids: Any) -> list[str]:
        """The piece of every id: labels for pictures and tables."""
        ...

    def preprocess(self, line: str) -> str:
        """What is done to a line before it is cut into pieces."""
        ...


@dataclass(frozen=True)
class TokenizerPair:
    """The tokenizers of both sides; one and the same model if joint."""

    source: PieceTokenizer
    target: PieceTokenizer

    @property
    def end_ids(self) -> tuple[int, int]:
        """The end markers of both sides."""
        return self.source.eos_id, self.target.eos_id

    @property
    def fingerprint(self) -> str:
        """Hash of both."""
        both = self.source.fingerprint + self.target.fingerprint
        return hashlib.sha256(both.encode()).hexdigest()


def train_tokenizer(
    lines: Iterable[str],
    config: TokenizerConfig,
    *,
    language: str = 'en',
    cache_dir: str | Path | None = None,
) -> Tokenizer:
    """Trains a tokenizer, or takes it from the cache.

    Args:
        lines: the training text, and only that. If it can be read repeatedly (a list, `FileLines`)
            and `config.sample` is None, it is read twice and not held in memory here.
        config: the settings.
        language: whose Moses rules apply, with `config.moses`.
        cache_dir: keeps tokenizers under the fingerprint of text and settings; made if missing.

    Raises:
        UserError: no text, or a vocabulary larger or smaller than the text supports (says the
            limit).
    """
    return _train([(lines, language)], config, language=language, cache_dir=cache_dir)


def train_tokenizer_pair(
    source: Iterable[str],
    target: Iterable[str],
    config: TokenizerConfig,
    *,
    source_language: str = 'en',
    target_language: str = 'en',
    cache_dir: str | Path | None = None,
) -> TokenizerPair:
    """One tokenizer for both sides if `config.joint`, else one for each; see `train_tokenizer`."""
    if not config.joint:
        own = replace(config, source_vocab_size=None)
        other = replace(own, vocab_size=config.source_vocab_size or config.vocab_size)
        return TokenizerPair(
            train_tokenizer(source, other, language=source_language, cache_dir=cache_dir),
            train_tokenizer(target, own, language=target_language, cache_dir=cache_dir),
        )
    sides = [(source, source_language), (target, target_language)]
    tokenizer = _train(sides, config, language=source_language, cache_dir=cache_dir)
    if not config.moses or source_language == target_language:
        return TokenizerPair(tokenizer, tokenizer)
    return TokenizerPair(tokenizer, tokenizer.for_language(target_language))


def _train(
    sides: Sides,
    config: TokenizerConfig,
    *,
    language: str,
    cache_dir: str | Path | None,
) -> Tokenizer:
    def text() -> Iterator[str]:
        return (line for lines, _ in sides for line in lines)

    total = None
    if config.sample is not None:
        sides, total = sample_lines(sides, config.sample)
    elif any(iter(lines) is lines for lines, _ in sides):  # an iterator can be read only once
        sides = [(list(lines), own) for lines, own in sides]
    fingerprint, empty, lines = hash_text(text(), config, [own for _, own in sides])
    if empty:
        raise UserError(
            'there is no text to train the tokenizer on: every training line is empty; check the '
            'files'
        )
    path = (
        Path(cache_dir) / f'tokenizer-{fingerprint[:16]}.model' if cache_dir is not None else None
    )
    if path is not None and (kept := read_cached(path, lambda: Tokenizer.load(path))) is not None:
        return kept
    tokenizer = Tokenizer(
        train_sentencepiece(preprocessed(sides, config), config),
        config,
        language,
        learnt_from=(lines, lines if total is None else total),
    )
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        tokenizer.save(path)
    return tokenizer
