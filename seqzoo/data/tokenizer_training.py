"""How a tokenizer is trained: its settings, the sample of text, SentencePiece, Moses.

The same settings and text give the same pieces anywhere: the number of training threads is fixed,
because unigram training sums floating-point counts by thread.
"""

import hashlib
import io
import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from seqzoo.errors import UserError

PAD, UNKNOWN, BEGIN, END = range(4)
_TRAINING_THREADS = 4
_LONGEST_TRAINING_LINE = 16384  # bytes; SentencePiece leaves out longer ones, silently

Sides = Sequence[tuple[Iterable[str], str]]  # the lines of each side, and their language


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """How a tokenizer is made.

    Attributes:
        kind: 'bpe', 'unigram', 'word' (split at spaces) or 'char'.
        vocab_size: pieces, specials included. For 'word' and 'char' an upper limit: less frequent
            ones are unknown.
        source_vocab_size: of the source where it differs; needs `joint=False`.
        joint: one model for both languages, or one for each.
        byte_fallback: spell unknown characters as UTF-8 bytes (256 more pieces) instead of one
            unknown piece.
        character_coverage: share of the characters that get pieces; 0.9995 suits languages of many
            characters.
        lowercase: fold case first, as the published Multi30k recipes do.
        moses: Moses tokenisation first (needs the package sacremoses), undone by `decode`.
        sample: train on this many lines, drawn evenly by a fixed seed, instead of all; for corpora
            of millions.
    """

    kind: Literal['bpe', 'unigram', 'word', 'char'] = 'bpe'
    vocab_size: int = 8000
    source_vocab_size: int | None = None
    joint: bool = True
    byte_fallback: bool = False
    character_coverage: float = 1.0
    lowercase: bool = False
    moses: bool = False
    sample: int | None = None

    @property
    def begin_id(self) -> int:
        """The id that a decoder reads first."""
        return BEGIN

    def __post_init__(self) -> None:
        if self.kind not in ('bpe', 'unigram', 'word', 'char'):
            raise UserError(
                f"tokenizer.kind is {self.kind!r}; choose 'bpe', 'unigram', 'word' or 'char'"
            )
        if self.vocab_size < 5:
            raise UserError(
                f'tokenizer.vocab_size is {self.vocab_size}; 4 pieces are special, so choose at '
                'least 5'
            )
        if self.source_vocab_size is not None and (self.joint or self.source_vocab_size < 5):
            raise UserError(
                f'tokenizer.source_vocab_size is {self.source_vocab_size}; choose at least 5, and '
                'set tokenizer.joint to False'
            )
        if not 0.9 <= self.character_coverage <= 1:
            raise UserError(
                f'tokenizer.character_coverage is {self.character_coverage}; choose from 0.9 to 1'
            )
        if self.sample is not None and self.sample < 1:
            raise UserError(
                f'tokenizer.sample is {self.sample}; choose at least 1 line, or none to use all'
            )
        if self.byte_fallback and self.kind in ('word', 'char'):
            raise UserError(
                "tokenizer.byte_fallback needs tokenizer.kind 'bpe' or 'unigram', not "
                f'{self.kind!r}'
            )


def hash_text(
    lines: Iterable[str], config: TokenizerConfig, languages: list[str]
) -> tuple[str, bool, int]:
    """Fingerprint of the training text and all that shapes the result; whether it is empty; and how
    many lines it has.
    """
    settings = {**asdict(config), 'languages': languages if config.moses else None}
    settings.pop('source_vocab_size')  # here a side has one size
    hasher = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    empty, count = True, 0
    for line in lines:
        count += 1
        empty = empty and not line.strip()
        hasher.update(line.encode('utf-8', 'surrogatepass') + b'\n')
    return hasher.hexdigest(), empty, count


def sample_lines(sides: Sides, count: int) -> tuple[list[tuple[list[str], str]], int]:
    """An even draw of `count` lines over all sides, in one pass (reservoir sampling), and how many
    lines there were.
    """
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
    drawn = [
        ([line for own, _, line in kept if own == side], language)
        for side, (_, language) in enumerate(sides)
    ]
    return drawn, number


def preprocessed(sides: Sides, config: TokenizerConfig) -> Iterator[str]:
    """The lines of all sides as they are to be cut into pieces."""
    for lines, language in sides:
        moses = Moses(language) if config.moses else None
        for line in lines:
            line = moses.tokenize(line) if moses is not None else line
            yield line.lower() if config.lowercase else line


def train_sentencepiece(lines: Iterator[str], config: TokenizerConfig) -> bytes:
    """The SentencePiece model of some lines.

    Raises:
        UserError: a vocabulary larger or smaller than the text supports, or whatever else
            SentencePiece refuses.
    """
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
            pad_id=PAD,
            unk_id=UNKNOWN,
            bos_id=BEGIN,
            eos_id=END,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explain(str(error), config) from error
    return model.getvalue()


def _explain(message: str, config: TokenizerConfig) -> UserError:
    if found := re.search(r'Vocabulary size too high .*<= (\d+)', message):
        return UserError(
            f'tokenizer.vocab_size is {config.vocab_size} but the training text supports at most '
            f'{found[1]} pieces; set --task.tokenizer.vocab-size {found[1]} or less'
        )
    if found := re.search(r'smaller than required_chars\. \d+ vs (\d+)', message):
        return UserError(
            f'tokenizer.vocab_size is {config.vocab_size} but the characters of the training text '
            f'alone need {found[1]}; raise it, or lower tokenizer.character_coverage'
        )
    said = next((line.strip() for line in message.splitlines() if line.strip()), 'nothing more')
    return UserError(
        f'SentencePiece cannot train a {config.kind} tokenizer of {config.vocab_size} pieces on '
        f'the training text ({said}); change the fields of tokenizer, or look at the text'
    )


class Moses:
    """Moses tokenisation and its inverse for one language."""

    def __init__(self, language: str):
        try:
            from sacremoses import MosesDetokenizer, MosesTokenizer
        except ImportError as error:
            raise UserError(
                'tokenizer.moses needs the package sacremoses; pip install sacremoses'
            ) from error
        self._tokenizer = MosesTokenizer(lang=language)
        self._detokenizer = MosesDetokenizer(lang=language)

    def tokenize(self, line: str) -> str:
        """Words and punctuation apart, with single spaces between."""
        return str(
            self._tokenizer.tokenize(
                line, aggressive_dash_splits=False, escape=False, return_str=True
            )
        )

    def detokenize(self, tokens: list[str]) -> str:
        """The text that `tokenize` would have taken apart."""
        return str(self._detokenizer.detokenize(tokens, return_str=True, unescape=False))
