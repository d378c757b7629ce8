"""Byte-pair encoding (Sennrich et al. 2016) as the GPTs have it, by the library `tokenizers`.

GPT-2's runs over bytes: every text can be written with it and comes back as it was, nothing is
unknown. Such a tokenizer is trained here (`ByteLevelBPE`) or came with weights
(`ImportedSubwords`); GPT-1's, which folds case and works on characters, only came with weights.

The two are read differently where a text begins. In text that we train on every line is closed by a
line break, so a prompt follows one. What others trained read documents from their first token, or
after an end mark: a prompt is read as it is, and an empty one as an end mark.

Special tokens that are written out in a text (`<|endoftext|>`) are read as such.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from seqzoo.data.kept_files import read_cached, write_atomically
from seqzoo.data.tokenizer_training import sample_lines
from seqzoo.errors import UserError

DEFINITION, SETTINGS = 'tokenizer.json', 'subwords.json'
END_OF_TEXT = '<|endoftext|>'
_NOT_A_CHARACTER = '�'  # what a part of a character decodes to


@dataclass(frozen=True, kw_only=True)
class ByteLevelBPE:
    """How a byte-level tokenizer is trained.

    Attributes:
        vocab_size: tokens at most: 256 bytes, the end mark, and merged ones.
        min_count: a pair that occurs less often is not merged.
        sample: learn from this many lines, drawn evenly by a fixed seed, instead of all.
    """

    vocab_size: int = 8000
    min_count: int = 2
    sample: int | None = None

    def __post_init__(self) -> None:
        if self.vocab_size < 257:
            raise UserError(
                f'tokenizer.vocab_size is {self.vocab_size}; 256 bytes and the end mark need at '
                'least 257'
            )
        if self.min_count < 1:
            raise UserError(f'tokenizer.min_count is {self.min_count}; choose at least 1')
        if self.sample is not None and self.sample < 1:
            raise UserError(
                f'tokenizer.sample is {self.sample}; choose at least 1 line, or none to use all'
            )


@dataclass(frozen=True, kw_only=True)
class ImportedSubwords:
    """Says of a task that its tokenizer came with imported weights.

    Attributes:
        vocab_size: rows of the model's table.
    """

    vocab_size: int


@dataclass(frozen=True, kw_only=True)
class SubwordSettings:
    """What a tokenizer's own file does not say.

    Attributes:
        vocab_size: rows of the model's table, at least as many as tokens.
        line_end: the token after which a text begins.
        stop_id: the token at which a continuation is over; `None`: there is none.
        prompt_start: what is read before a prompt that is not empty.
        lines_apart: whether lines are cut each by itself and closed by `line_end`, as when it was
            trained here, or together with their line breaks.
        specials: by what others call them (`'eos_token'`), the special tokens of an imported one.
        class_name: of an imported one, what others call its class.
    """

    vocab_size: int
    line_end: int
    stop_id: int | None
    prompt_start: tuple[int, ...] = ()
    lines_apart: bool = False
    specials: Mapping[str, str] = field(default_factory=dict)
    class_name: str | None = None


class SubwordTokenizer:
    """Text to token ids and back; can be pickled.

    Attributes:
        definition: the file `tokenizer.json`.
        settings: what that does not say.
    """

    def __init__(self, definition: str, settings: SubwordSettings):
        self.definition, self.settings = definition, settings
        self.library = parse_definition(definition)
        size = 1 + max(self.library.get_vocab().values(), default=-1)
        if size > settings.vocab_size:
            raise UserError(
                f'the tokenizer has {size} tokens but the model only {settings.vocab_size} rows; '
                'the tokenizer and the weights do not belong together'
            )

    @property
    def vocab_size(self) -> int:
        """Tokens, and rows of the model that no token has."""
        return self.settings.vocab_size

    @property
    def line_end(self) -> int:
        """The token after which a text begins."""
        return self.settings.line_end

    @property
    def stop_id(self) -> int | None:
        """The token at which a continuation is over."""
        return self.settings.stop_id

    @property
    def prompt_start(self) -> tuple[int, ...]:
        """What is read before a prompt."""
        return self.settings.prompt_start

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of everything that changes what `encode` returns."""
        note = json.dumps([json.loads(self.definition), asdict(self.settings)], sort_keys=True)
        return hashlib.sha256(note.encode()).hexdigest()

    def encode(self, line: str) -> np.ndarray:
        """`[length]` int32 ids of a text."""
        return self.encode_batch([line])[0]

    def encode_batch(self, lines: Sequence[str]) -> list[np.ndarray]:
        """`encode` of several texts."""
        found = self.library.encode_batch(list(lines), add_special_tokens=False)
        return [np.array(one.ids, np.int32) for one in found]

    def encode_text(self, lines: Sequence[str]) -> list[np.ndarray]:
        """Ids of lines of running text, each `[length]` int32 and closed by a line break.

        Ours is a token by itself, `line_end`. An imported tokenizer cuts a line with its break, as
        it would cut the whole text; one that knows no line breaks closes lines with `line_end`.
        """
        knows_breaks = len(self.library.encode('\n', add_special_tokens=False).ids) > 0
        if knows_breaks and not self.settings.lines_apart:
            return self.encode_batch([f'{line}\n' for line in lines])
        return [np.append(ids, np.int32(self.line_end)) for ids in self.encode_batch(lines)]

    def decode_text(self, ids: Any) -> str:
        """The text of some ids."""
        return self.library.decode(np.asarray(ids).tolist(), skip_special_tokens=False)

    def pieces(self, ids: Any) -> list[str]:
        """The text of every id by itself, or its name where it is a part of a character: labels for
        pictures and tables.
        """
        return [self._piece(int(i)) for i in ids]

    def _piece(self, number: int) -> str:
        text = self.library.decode([number], skip_special_tokens=False)
        if text and _NOT_A_CHARACTER not in text:
            return text
        return self.library.id_to_token(number) or f'<{number}>'

    def save(self, folder: str | Path) -> None:
        """Writes `tokenizer.json`, as others read it, and the settings beside it."""
        note = {**asdict(self.settings), 'fingerprint': self.fingerprint}
        write_atomically(Path(folder) / DEFINITION, self.definition.encode())
        write_atomically(Path(folder) / SETTINGS, (json.dumps(note, indent=1) + '\n').encode())

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            UserError: a file is missing or damaged, or they do not belong together.
        """
        settings = Path(folder) / SETTINGS
        try:
            definition = (Path(folder) / DEFINITION).read_text(encoding='utf-8')
            note = json.loads(settings.read_bytes())
            fingerprint = note.pop('fingerprint')
            note['prompt_start'] = tuple(note['prompt_start'])
            tokenizer = cls(definition, SubwordSettings(**note))
            sound = tokenizer.fingerprint == fingerprint
        except OSError as error:
            raise UserError(
                f'{error.filename}: cannot be read ({error.strerror}); a tokenizer needs it'
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError, UserError) as error:
            raise UserError(f'{folder} holds a damaged tokenizer ({error})') from error
        if not sound:
            raise UserError(
                f'{settings} does not belong to {DEFINITION} beside it; prepare the data again, or '
                'import the weights again'
            )
        return tokenizer

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.definition, self.settings)


def parse_definition(definition: str) -> Any:
    """The library's tokenizer out of the text of a `tokenizer.json`.

    Raises:
        UserError: it is none.
    """
    import tokenizers

    try:
        found = tokenizers.Tokenizer.from_str(definition)
    except Exception as error:  # the library raises plain `Exception`s
        raise UserError(
            f'the tokenizer cannot be read ({" ".join(str(error).split())[:120]}); get '
            f'{DEFINITION} again'
        ) from error
    # Neither belongs to a text: models have their own limits, and batches their own filling.
    found.no_truncation()
    found.no_padding()
    return found


def train_byte_level(
    lines: Iterable[str], config: ByteLevelBPE, *, cache_dir: Path | None = None
) -> SubwordTokenizer:
    """Trains a tokenizer, or takes it from the cache.

    Args:
        lines: the training text, read twice.
        config: the settings.
        cache_dir: keeps tokenizers under the fingerprint of text and settings; made if missing.

    Raises:
        UserError: there is no text.
    """
    if config.sample is not None:
        [(lines, _)], _ = sample_lines([(lines, '')], config.sample)
    folder = None
    if cache_dir is not None:
        digest = hashlib.sha256(json.dumps(['byte-level', asdict(config)]).encode())
        for line in lines:
            digest.update(line.encode() + b'\n')
        folder = cache_dir / f'subwords-{digest.hexdigest()[:16]}'
        own = folder
        if (kept := read_cached(own / SETTINGS, lambda: SubwordTokenizer.load(own))) is not None:
            return kept
    tokenizer = _train(lines, config)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save(folder)
    return tokenizer


def _train(lines: Iterable[str], config: ByteLevelBPE) -> SubwordTokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    library: Any = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_count,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    empty = True

    def seen() -> Iterable[str]:
        nonlocal empty
        for line in lines:  # without their breaks, which shall be tokens by themselves
            empty = empty and not line.strip()
            yield line

    library.train_from_iterator(seen(), trainer)
    if empty:
        raise UserError('there is no text to train the tokenizer on: every training line is empty')
    line_end = library.token_to_id(pre_tokenizers.ByteLevel().pre_tokenize_str('\n')[0][0][-1])
    settings = SubwordSettings(
        vocab_size=library.get_vocab_size(),
        line_end=line_end,
        stop_id=line_end,
        prompt_start=(line_end,),
        lines_apart=True,
    )
    return SubwordTokenizer(library.to_str(), settings)
