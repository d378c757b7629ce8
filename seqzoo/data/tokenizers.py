"""SentencePiece tokenizers, trained on the training split, cached by what they were made from.

Deliberate choices:

- Text is not normalised (`identity`). SentencePiece's default, NFKC, rewrites characters that references keep ('½',
  '…', 'ﬁ', full-width letters), so that a perfect translation would still lose BLEU. Runs of spaces are folded, which
  no scorer counts, and nothing else is changed: `decode(encode(line))` is the line, but for spaces.
- The same settings and text give the same pieces anywhere: the number of training threads is fixed (unigram sums
  floating-point counts by thread) and the fingerprint covers pieces and settings, not the file, which embeds paths.
"""

import hashlib
import io
import json
import os
import random
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from seqzoo.errors import UserError

_PAD, _UNKNOWN, _BEGIN, _END = range(4)
_TRAINING_THREADS = 4
_LONGEST_TRAINING_LINE = 16384  # bytes; SentencePiece leaves out longer ones, silently


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """How a tokenizer is made.

    Attributes:
        kind: 'bpe', 'unigram', 'word' (split at spaces) or 'char'.
        vocab_size: pieces, specials included. For 'word' and 'char' an upper limit: less frequent ones are unknown.
        joint: one model for both languages, or one for each.
        byte_fallback: spell unknown characters as UTF-8 bytes (256 more pieces) instead of one unknown piece.
        character_coverage: share of the characters that get pieces; 0.9995 suits languages of many characters.
        lowercase: fold case first, as the published Multi30k recipes do.
        moses: Moses tokenisation first (needs the package sacremoses), undone by `decode`.
        sample: train on this many lines, drawn evenly by a fixed seed, instead of all; for corpora of millions.
    """

    kind: Literal['bpe', 'unigram', 'word', 'char'] = 'bpe'
    vocab_size: int = 8000
    joint: bool = True
    byte_fallback: bool = False
    character_coverage: float = 1.0
    lowercase: bool = False
    moses: bool = False
    sample: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in ('bpe', 'unigram', 'word', 'char'):
            raise UserError(f"tokenizer.kind is {self.kind!r}; choose 'bpe', 'unigram', 'word' or 'char'")
        if self.vocab_size < 5:
            raise UserError(f'tokenizer.vocab_size is {self.vocab_size}; 4 pieces are special, so choose at least 5')
        if not 0.9 <= self.character_coverage <= 1:
            raise UserError(f'tokenizer.character_coverage is {self.character_coverage}; choose from 0.9 to 1')
        if self.sample is not None and self.sample < 1:
            raise UserError(f'tokenizer.sample is {self.sample}; choose at least 1 line, or none to use all')
        if self.byte_fallback and self.kind in ('word', 'char'):
            raise UserError(f"tokenizer.byte_fallback needs tokenizer.kind 'bpe' or 'unigram', not {self.kind!r}")


class Tokenizer:
    """Text to token ids and back. Made by `train_tokenizer` or `Tokenizer.load`; can be pickled.

    Attributes:
        config: the settings it was trained with.
        language: whose Moses rules apply, where `config.moses` asks for them.
    """

    pad_id = _PAD
    unk_id = _UNKNOWN
    bos_id = _BEGIN
    eos_id = _END

    def __init__(self, model: bytes, config: TokenizerConfig, language: str = 'en'):
        import sentencepiece

        self.config = config
        self.language = language
        self._model = model
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            found = tuple(getattr(self._processor, name)() for name in ('pad_id', 'unk_id', 'bos_id', 'eos_id'))
        except (RuntimeError, TypeError) as error:
            raise UserError('the file is not a SentencePiece model; give the .model file of a seqzoo run') from error
        if found != (_PAD, _UNKNOWN, _BEGIN, _END):
            raise UserError(
                f'the SentencePiece model has pad, unk, bos, eos at {found} but seqzoo reads (0, 1, 2, 3); train it with '
                '--pad_id=0 --unk_id=1 --bos_id=2 --eos_id=3'
            )
        self._moses: Any = None

    @property
    def vocab_size(self) -> int:
        """Pieces, specials included."""
        return self._processor.vocab_size()

    @property
    def fingerprint(self) -> str:
        """Hash of the pieces and of everything that changes what `encode` returns."""
        size = self._processor.vocab_size()
        pieces = [[self._processor.id_to_piece(i), self._processor.get_score(i)] for i in range(size)]
        moses = [self.language] if self.config.moses else []
        settings = [self.config.kind, self.config.byte_fallback, self.config.lowercase, self.config.moses, *moses]
        return hashlib.sha256(json.dumps([settings, pieces]).encode()).hexdigest()

    def for_language(self, language: str) -> Self:
        """The same model with the Moses rules of another language."""
        return type(self)(self._model, self.config, language)

    def encode(self, line: str) -> np.ndarray:
        """`[length]` int32 ids of one line, without begin and end markers."""
        return self.encode_batch([line])[0]

    def encode_batch(self, lines: Sequence[str]) -> list[np.ndarray]:
        """Ids of several lines, each `[length]` int32, without begin and end markers."""
        prepared = [self.preprocess(line) for line in lines]
        return [np.array(ids, np.int32) for ids in self._processor.encode(prepared, out_type=int)]

    def decode(self, ids: Any, *, detokenize: bool = True) -> str:
        """Text of some ids: stops at the first end marker, leaves out padding and begin markers.

        Args:
            ids: a sequence of ids, padded or not.
            detokenize: undo the Moses tokenisation, if the tokenizer applies it. Some papers score without.
        """
        text = self._processor.decode(self._content(ids))
        return self._tools().detokenize(text.split()) if self.config.moses and detokenize else text

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
        """Writes the SentencePiece model to `path` and the settings beside it, with `.json` appended."""
        path = Path(path)
        note = {'config': asdict(self.config), 'language': self.language, 'fingerprint': self.fingerprint}
        _write_atomically(Path(f'{path}.json'), json.dumps(note, indent=1).encode())
        _write_atomically(path, self._model)  # last: where the model is, its settings are

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
            tokenizer = cls(model, TokenizerConfig(**note['config']), note['language'])
        except OSError as error:
            raise UserError(f'{error.filename}: cannot be read ({error.strerror}); a tokenizer needs it') from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f'{path}.json holds no tokenizer settings ({error}); prepare the data again') from error
        except UserError as error:
            raise UserError(f'{path}: {error}') from error
        if tokenizer.fingerprint != note['fingerprint']:
            raise UserError(f'{path} and {path}.json do not belong together; prepare the data again')
        return tokenizer

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._model, self.config, self.language)

    def _content(self, ids: Any) -> list[int]:
        content: list[int] = []
        for i in np.asarray(ids).tolist():
            if i == _END:
                break
            if i not in (_PAD, _BEGIN):
                content.append(i)
        return content

    def _tools(self) -> '_Moses':
        self._moses = self._moses or _Moses(self.language)
        return self._moses


@dataclass(frozen=True)
class TokenizerPair:
    """The tokenizers of both sides; one and the same model if joint."""

    source: Tokenizer
    target: Tokenizer

    @property
    def fingerprint(self) -> str:
        """Hash of both."""
        return hashlib.sha256((self.source.fingerprint + self.target.fingerprint).encode()).hexdigest()


def train_tokenizer(
    lines: Iterable[str],
    config: TokenizerConfig,
    *,
    language: str = 'en',
    cache_dir: str | Path | None = None,
) -> Tokenizer:
    """Trains a tokenizer, or takes it from the cache.

    Args:
        lines: the training text, and only that. If it can be read repeatedly (a list, `FileLines`) and
            `config.sample` is None, it is read twice and not held in memory here.
        config: the settings.
        language: whose Moses rules apply, with `config.moses`.
        cache_dir: keeps tokenizers under the fingerprint of text and settings; made if missing.

    Raises:
        UserError: no text, or a vocabulary larger or smaller than the text supports (says the limit).
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
    """One tokenizer over both sides if `config.joint`, otherwise one for each; see `train_tokenizer`."""
    if not config.joint:
        return TokenizerPair(
            train_tokenizer(source, config, language=source_language, cache_dir=cache_dir),
            train_tokenizer(target, config, language=target_language, cache_dir=cache_dir),
        )
    sides = [(source, source_language), (target, target_language)]
    tokenizer = _train(sides, config, language=source_language, cache_dir=cache_dir)
    if not config.moses or source_language == target_language:
        return TokenizerPair(tokenizer, tokenizer)
    return TokenizerPair(tokenizer, tokenizer.for_language(target_language))


def _train(
    sides: Sequence[tuple[Iterable[str], str]],
    config: TokenizerConfig,
    *,
    language: str,
    cache_dir: str | Path | None,
) -> Tokenizer:
    def text() -> Iterator[str]:
        return (line for lines, _ in sides for line in lines)

    if config.sample is not None:
        sides = _sample(sides, config.sample)
    elif any(iter(lines) is lines for lines, _ in sides):  # an iterator can be read only once
        sides = [(list(lines), own) for lines, own in sides]
    fingerprint, empty = _hash_text(text(), config, [own for _, own in sides])
    if empty:
        raise UserError('there is no text to train the tokenizer on: every training line is empty; check the files')
    path = Path(cache_dir) / f'tokenizer-{fingerprint[:16]}.model' if cache_dir is not None else None
    if path is not None and path.is_file():
        return Tokenizer.load(path)
    tokenizer = Tokenizer(_train_sentencepiece(_preprocessed(sides, config), config), config, language)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        tokenizer.save(path)
    return tokenizer


def _hash_text(lines: Iterable[str], config: TokenizerConfig, languages: list[str]) -> tuple[str, bool]:
    settings = {**asdict(config), 'languages': languages if config.moses else None}
    hasher = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    empty = True
    for line in lines:
        empty = empty and not line.strip()
        hasher.update(line.encode('utf-8', 'surrogatepass') + b'\n')
    return hasher.hexdigest(), empty


def _sample(sides: Sequence[tuple[Iterable[str], str]], count: int) -> list[tuple[list[str], str]]:
    """An even draw of `count` lines over all sides, in one pass and bounded memory (reservoir sampling)."""
    generator = random.Random(0)
    kept: list[tuple[int, int, str]] = []
    number = 0
    for side, (lines, _) in enumerate(sides):
        for line in lines:
            if number < count:
                kept.append((side, number, line))
            elif (place := generator.randrange(number + 1)) < count:
                kept[place] = (side, number, line)
            number += 1
    kept.sort()
    return [([line for own, _, line in kept if own == side], language) for side, (_, language) in enumerate(sides)]


def _preprocessed(sides: Sequence[tuple[Iterable[str], str]], config: TokenizerConfig) -> Iterator[str]:
    for lines, language in sides:
        moses = _Moses(language) if config.moses else None
        for line in lines:
            line = moses.tokenize(line) if moses is not None else line
            yield line.lower() if config.lowercase else line


def _train_sentencepiece(lines: Iterator[str], config: TokenizerConfig) -> bytes:
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=model,
            model_type=config.kind,
            vocab_size=config.vocab_size,
            character_coverage=config.character_coverage,
            byte_fallback=config.byte_fallback,
            normalization_rule_name='identity',
            hard_vocab_limit=config.kind in ('bpe', 'unigram'),
            max_sentence_length=_LONGEST_TRAINING_LINE,
            num_threads=_TRAINING_THREADS,
            pad_id=_PAD,
            unk_id=_UNKNOWN,
            bos_id=_BEGIN,
            eos_id=_END,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explain(str(error), config) or error from error
    return model.getvalue()


def _explain(message: str, config: TokenizerConfig) -> UserError | None:
    if found := re.search(r'Vocabulary size too high .*<= (\d+)', message):
        return UserError(
            f'tokenizer.vocab_size is {config.vocab_size} but the training text supports at most {found[1]} pieces; '
            f'set --task.tokenizer.vocab-size {found[1]} or less'
        )
    if found := re.search(r'smaller than required_chars\. \d+ vs (\d+)', message):
        return UserError(
            f'tokenizer.vocab_size is {config.vocab_size} but the characters of the training text alone need '
            f'{found[1]}; raise it, or lower tokenizer.character_coverage'
        )
    return None


class _Moses:
    """Moses tokenisation and its inverse for one language."""

    def __init__(self, language: str):
        try:
            from sacremoses import MosesDetokenizer, MosesTokenizer
        except ImportError as error:
            raise UserError('tokenizer.moses needs the package sacremoses; pip install sacremoses') from error
        self._tokenizer = MosesTokenizer(lang=language)
        self._detokenizer = MosesDetokenizer(lang=language)

    def tokenize(self, line: str) -> str:
        return str(self._tokenizer.tokenize(line, aggressive_dash_splits=False, escape=False, return_str=True))

    def detokenize(self, tokens: list[str]) -> str:
        return str(self._detokenizer.detokenize(tokens, return_str=True, unescape=False))


def _write_atomically(path: Path, content: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=f'.{path.name}-', dir=path.parent)
    try:
        with os.fdopen(descriptor, 'wb') as file:
            file.write(content)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
