"""From text to token stores, through a cache that knows the text and the tokenizer.

Tokenizers learn from the training split only. Both they and the encoded splits are cached under a
fingerprint of what went in, so that a second run on the same text starts at once, and a changed
text is never mistaken for the old.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from seqzoo import buckets
from seqzoo.data.marian_tokenizer import MARIAN_SETTINGS, MarianTokenizer, MarianVocabulary
from seqzoo.data.pipeline import LineEncoder, PairStores, encode_lines, encode_pairs
from seqzoo.data.subwords import SETTINGS as SUBWORDS
from seqzoo.data.subwords import (
    ByteLevelBPE,
    ImportedSubwords,
    SubwordTokenizer,
    train_byte_level,
)
from seqzoo.data.text_files import Lines, ParallelText
from seqzoo.data.token_store import TokenStore
from seqzoo.data.tokenizers import Tokenizer, TokenizerConfig, TokenizerPair, train_tokenizer
from seqzoo.data.vocabularies import Vocabulary, VocabularyConfig, build_vocabulary
from seqzoo.data.wordpiece import WordPiece, WordPieceConfig, train_wordpiece
from seqzoo.errors import UserError

_LINES_AT_ONCE = 10_000
_SAY_EVERY = 1_000_000  # lines


_ONE, _TWO = 'tokenizer.model', ('source_tokenizer.model', 'target_tokenizer.model')
_CLOSED, _WORDPIECE = 'vocabulary.json', 'wordpiece.json'
# What a folder holds is read off the first of these that is there.
_TELLING = (MARIAN_SETTINGS, _CLOSED, SUBWORDS, _WORDPIECE, _ONE, *_TWO)

# What cuts the running text of a language model.
TextTokenizer = Tokenizer | Vocabulary | WordPiece | SubwordTokenizer
TextTokenizerConfig = (
    TokenizerConfig | VocabularyConfig | WordPieceConfig | ByteLevelBPE | ImportedSubwords
)


def save_tokenizers(pair: TokenizerPair, folder: Path) -> None:
    """Writes `tokenizer.model` into a run, one file a side where they differ, or Marian's files."""
    source, target = pair.source, pair.target
    if isinstance(source, MarianTokenizer):
        source.vocabulary.save(folder)
        _discard_all_but(folder, MARIAN_SETTINGS)
        return
    assert isinstance(source, Tokenizer)
    assert isinstance(target, Tokenizer)
    if source is target:
        source.save(folder / _ONE)
        _discard_all_but(folder, _ONE)
    else:
        source.save(folder / _TWO[0])
        target.save(folder / _TWO[1])
        _discard_all_but(folder, *_TWO)


def _discard_all_but(folder: Path, *kept: str) -> None:
    """Removes tokenizers that were written before: a run that never came to its first checkpoint
    may begin anew with another one, and the old one must not be taken for it.
    """
    others = [name for name in _TELLING if name not in kept]
    settings = [f'{name}.json' for name in others if name.endswith('.model')]
    buckets.discard(folder, [*others, *settings])


def load_tokenizers(folder: Path) -> TokenizerPair:
    """Reads what `save_tokenizers` wrote.

    Raises:
        UserError: the folder holds no tokenizer.
    """
    if (folder / MARIAN_SETTINGS).exists():
        return MarianVocabulary.load(folder).pair()
    if (folder / _ONE).exists():
        both = Tokenizer.load(folder / _ONE)
        return TokenizerPair(both, both)
    if not all((folder / name).exists() for name in _TWO):
        raise UserError(f'{folder} holds no {_ONE}; is it the folder of a run?')
    return TokenizerPair(*(Tokenizer.load(folder / name) for name in _TWO))


def encode_cached(
    text: ParallelText,
    tokenizers: TokenizerPair,
    cache_dir: Path,
    *,
    announce: Callable[[str], None] = lambda text: None,
) -> PairStores:
    """Encodes a split in bounded memory, or finds it encoded already; sentence n is line n, empty
    ones included. What was begun and interrupted goes on.

    Args:
        text: the split.
        tokenizers: of both sides.
        cache_dir: where encoded splits are kept.
        announce: called with sentences about what is done, and how fast.
    """
    made_of = _fingerprint(text) + tokenizers.fingerprint
    if text.blank:  # what was kept before may hold pieces of blank lines
        made_of += ' without blank lines'
    name = hashlib.sha256(made_of.encode()).hexdigest()[:24]
    rate = _Rate(announce)
    stores = encode_pairs(
        text, tokenizers, directory=cache_dir / 'encoded' / name, key=name, progress=rate.more
    )
    rate.finished(stores)
    return stores


class _Rate:
    """Says how fast lines are cut into pieces."""

    def __init__(self, announce: Callable[[str], None]):
        self._announce = announce
        self._begin = time.monotonic()
        self._done = 0

    def more(self, lines: int) -> None:
        """So many more lines of either side are done."""
        before, self._done = self._done, self._done + lines
        if self._done // _SAY_EVERY > before // _SAY_EVERY:
            rate = self._done / (time.monotonic() - self._begin)
            self._announce(f'  {self._done:,} lines cut into pieces, {rate:,.0f} a second')

    def finished(self, stores: PairStores) -> None:
        """Everything is done; nothing is said of what had been found."""
        if not self._done:
            return
        seconds = time.monotonic() - self._begin
        self._announce(
            f'cut into {len(stores.source.ids):,} and {len(stores.target.ids):,} pieces in '
            f'{seconds:.1f} s, {self._done / 2 / max(seconds, 1e-9):,.0f} pairs a second'
        )


def make_text_tokenizer(
    lines: Lines, config: TextTokenizerConfig, cache_dir: Path
) -> TextTokenizer:
    """The tokenizer of a training text, as the configuration has it.

    Raises:
        UserError: the text does not fit the configuration, or the tokenizer is not to be trained.
    """
    if isinstance(config, WordPieceConfig):
        return train_wordpiece(lines, config, cache_dir=cache_dir / 'tokenizers')
    if isinstance(config, TokenizerConfig):
        return train_tokenizer(lines, config, cache_dir=cache_dir / 'tokenizers')
    if isinstance(config, ByteLevelBPE):
        return train_byte_level(lines, config, cache_dir=cache_dir / 'tokenizers')
    if isinstance(config, ImportedSubwords):
        raise UserError(
            'the tokenizer of this task came with imported weights and cannot be learnt from text; '
            'begin with the run that holds it, --fork-from R'
        )
    return build_vocabulary(lines, config)


def nominal_size_of(config: TextTokenizerConfig) -> int | None:
    """How many entries a tokenizer will have, as far as that is known before the text is."""
    return config.nominal_size if isinstance(config, VocabularyConfig) else config.vocab_size


def save_text_tokenizer(tokenizer: TextTokenizer, folder: Path) -> None:
    """Writes what `load_text_tokenizer` reads into a run."""
    if isinstance(tokenizer, SubwordTokenizer):
        tokenizer.save(folder)
        _discard_all_but(folder, SUBWORDS)
        return
    name = {Tokenizer: _ONE, WordPiece: _WORDPIECE, Vocabulary: _CLOSED}[type(tokenizer)]
    tokenizer.save(folder / name)
    _discard_all_but(folder, name)


def load_text_tokenizer(folder: Path) -> TextTokenizer:
    """Reads what `save_text_tokenizer` wrote.

    Raises:
        UserError: the folder holds none, or a damaged one.
    """
    if (folder / _CLOSED).exists():
        return Vocabulary.load(folder / _CLOSED)
    if (folder / SUBWORDS).exists():
        return SubwordTokenizer.load(folder)
    if (folder / _WORDPIECE).exists():
        return WordPiece.load(folder / _WORDPIECE)
    if not (folder / _ONE).exists():
        raise UserError(
            f'{folder} holds no {_CLOSED}, no {_WORDPIECE} and no {_ONE}; is it the folder of a '
            'run on text?'
        )
    return Tokenizer.load(folder / _ONE)


def encode_text_cached(lines: Lines, tokenizer: TextTokenizer, cache_dir: Path) -> TokenStore:
    """Encodes running text in bounded memory, or finds it encoded already.

    The ids of the store, one line after the other, are one stream; sentence n is line n with what
    closes it.
    """
    return _encode_cached(lines, _RunningText(tokenizer), 'text', cache_dir)


def encode_lines_cached(lines: Lines, tokenizer: TextTokenizer, cache_dir: Path) -> TokenStore:
    """Encodes lines, each by itself and with nothing behind it; otherwise as running text."""
    return _encode_cached(lines, tokenizer, 'lines', cache_dir)


def _encode_cached(lines: Lines, encoder: LineEncoder, kind: str, cache_dir: Path) -> TokenStore:
    text = _digest(zip(lines, strict=True), lambda rows: [f'{line}\n' for (line,) in rows])
    name = hashlib.sha256(f'{kind} {text} {encoder.fingerprint}'.encode()).hexdigest()[:24]
    return encode_lines(lines, encoder, directory=cache_dir / 'encoded' / name, key=name)


@dataclass(frozen=True)
class _RunningText:
    """Encodes lines that follow each other: each keeps what closes it."""

    tokenizer: TextTokenizer

    @property
    def fingerprint(self) -> str:
        return self.tokenizer.fingerprint

    def encode_batch(self, lines: Sequence[str]) -> list[np.ndarray]:
        return self.tokenizer.encode_text(lines)

    def use_one_thread(self) -> None:
        """Passes it on, where there is one to pass it to."""
        if isinstance(self.tokenizer, Tokenizer):
            self.tokenizer.use_one_thread()


def _fingerprint(text: ParallelText) -> str:
    return _digest(text, lambda pairs: [f'{source}\t{target}\n' for source, target in pairs])


def _digest(rows: Iterable[tuple[str, ...]], lines_of: Callable[[Sequence[Any]], list[str]]) -> str:
    """Hash of rows of text, each of as many fields: that of the file which holds them.

    Args:
        rows: the text.
        lines_of: puts tabs between the fields of some rows and a line break behind each. Where
            fields have tabs or line breaks themselves, their lengths are hashed too: other fields
            would make the same file.
    """
    digest, lengths, left = hashlib.sha256(), hashlib.sha256(), iter(rows)
    number, is_plain = 0, True
    while chunk := list(islice(left, _LINES_AT_ONCE)):
        content = ''.join(lines_of(chunk)).encode()
        digest.update(content)
        # Characters up to the line break are tabs, or so rare that a closer look costs nothing.
        # NumPy counts them ten times as fast as `count`.
        marks = np.count_nonzero(np.frombuffer(content, np.uint8) <= ord('\n'))
        if marks > len(chunk) * len(chunk[0]):
            for place, row in enumerate(chunk, number):
                if any('\t' in field for field in row[:-1]) or '\n' in ''.join(row):
                    lengths.update(f'{place} {[len(field) for field in row]} '.encode())
                    is_plain = False
        number += len(chunk)
    if not is_plain:
        digest.update(lengths.digest() + b'.')  # without them, the last byte is a line break
    return digest.hexdigest()
