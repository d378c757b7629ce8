"""What tasks that label sequences share: sizes that the data fills in, and lines in, labels out.

A line of text is one record; a blank one gets a blank answer, without asking the model.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from seqzoo.data.batching import BatchConfig
from seqzoo.data.columns import Column, Columns, Ragged
from seqzoo.data.word_lists import WordList, WordListConfig, encode_bytes, encode_characters
from seqzoo.errors import UserError
from seqzoo.layers.inputs import SpelledWords
from seqzoo.layers.spelling import WithBytes
from seqzoo.models.base import ModelConfig
from seqzoo.tasks.base import Batch, Decoding, Prediction, Prepared, Runtime
from seqzoo.tasks.column_task import ColumnTask, PreparedColumns
from seqzoo.tasks.open_sizes import fill_open


@dataclass(frozen=True, kw_only=True)
class LabelingTask(ColumnTask):
    """One answer for each sequence or each of its positions, by a `models.base.Labeler`."""

    @abc.abstractmethod
    def sizes(self, learnt: Mapping[str, Any] | None) -> dict[str, int]:
        """What the data fills in of the model's configuration, by the names of fields.

        Args:
            learnt: what `learn` found; `None` before there is any data, for the paper's figures.
        """

    @abc.abstractmethod
    def parse(self, records: Sequence[str], learnt: Mapping[str, Any]) -> Columns:
        """Lines of text, none of them blank, as a table of what the model reads."""

    @abc.abstractmethod
    def prediction(
        self, record: str, answers: Mapping[str, np.ndarray], decoding: Decoding
    ) -> Prediction:
        """What is said about one record; `answers` are those of its example."""

    @property
    def spells(self) -> bool:
        """Whether the model reads words by their bytes, which mean the same in every run."""
        return False

    def prepare_from(
        self,
        pretrained: Path,
        batch: BatchConfig,
        *,
        data_dir: Path | None,
        cache_dir: Path,
        announce: Callable[[str], None] = lambda text: None,
    ) -> Prepared:
        """Reads the splits as `prepare` does, if what the other run learnt to read are bytes."""
        prepare = self.prepare if self.spells else partial(super().prepare_from, pretrained)
        return prepare(batch, data_dir=data_dir, cache_dir=cache_dir, announce=announce)

    def resolve(self, model: ModelConfig, prepared: Prepared) -> ModelConfig:
        assert isinstance(prepared, PreparedColumns)
        return self._filled(model, prepared.learnt)

    def nominal_model(self, model: ModelConfig) -> ModelConfig:
        return self._filled(model, None)

    def _filled(self, model: ModelConfig, learnt: Mapping[str, Any] | None) -> ModelConfig:
        return fill_open(model, self.sizes(learnt), because='the data')

    def predict(
        self,
        runtime: Runtime,
        prepared: Prepared,
        records: Sequence[str],
        batch: BatchConfig,
        decoding: Decoding,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Prediction]:
        assert isinstance(prepared, PreparedColumns)
        found = [Prediction('')] * len(records)
        wanted = [i for i, record in enumerate(records) if record.strip()]
        if not wanted:
            return found
        table = self.parse([records[i] for i in wanted], prepared.learnt)
        answers = self.answers_for(runtime, table, batch, progress).columns
        for row, i in enumerate(wanted):
            own = {
                name: column[row] if isinstance(column, Ragged) else column.values[row]
                for name, column in answers.items()
            }
            found[i] = self.prediction(records[i], own, decoding)
        return found


@dataclass(frozen=True, kw_only=True)
class TokenInput:
    """How tokens become what a model reads.

    Attributes:
        words: which tokens are known.
        characters: characters of a token that the model sees beside its number, at most; 0: the
            model reads numbers alone.
        bytes: places for a token spelled in bytes, for a model that reads `layers.spelling`; 0: it
            does not.
    """

    words: WordListConfig = field(default_factory=WordListConfig)
    characters: int = 0
    bytes: int = 0

    def __post_init__(self) -> None:
        if self.characters < 0:
            raise UserError(f'tokens.characters is {self.characters}; choose 0 or more')
        check_bytes('tokens', self.bytes)

    def learn(self, sequences: Sequence[Sequence[str]]) -> dict[str, Any]:
        """The lists of tokens and of characters of the training data."""
        learnt: dict[str, Any] = {'words': list(WordList.learn(sequences, self.words).entries)}
        if self.characters:
            spelled = (word for words in sequences for word in words)
            learnt['characters'] = list(WordList.learn(spelled, WordListConfig()).entries)
        return learnt

    def columns(
        self, sequences: Sequence[Sequence[str]], learnt: Mapping[str, Any]
    ) -> dict[str, Column]:
        """Columns `tokens` and, if the model sees them, `characters`."""
        words = WordList(learnt['words'], lowercase=self.words.lowercase)
        found: dict[str, Column] = {'tokens': Ragged.of([words.encode(s) for s in sequences])}
        if self.characters:
            known, width = WordList(learnt['characters']), self.characters
            spelled = [encode_characters(words, known, width) for words in sequences]
            found['characters'] = Ragged.of(spelled)
        return found | bytes_column(sequences, self.bytes)

    def nominal(self, lengths: Sequence[int]) -> dict[str, Column]:
        """Columns as of `columns`, of sequences of these lengths."""
        found: dict[str, Column] = {'tokens': Ragged.blank(lengths)}
        if self.characters:
            found['characters'] = Ragged.blank(lengths, np.int32, self.characters)
        return found | blank_bytes(lengths, self.bytes)

    def sizes(self, learnt: Mapping[str, Any] | None) -> dict[str, int]:
        """What the data fills in of the model's inputs; see `LabelingTask.sizes`."""
        if learnt is None:
            sizes, characters = {'vocab_size': self.words.vocab_size or 10_000}, 100
        else:
            sizes = {'vocab_size': len(learnt['words'])}
            characters = len(learnt.get('characters', ())) + 1  # 0 is no character
        if self.characters:
            sizes |= {'num_characters': characters, 'max_characters': self.characters}
        return sizes | ({'max_bytes': self.bytes} if self.bytes else {})

    def inputs(self, batch: Batch) -> Any:
        """What the model reads of a batch."""
        if self.characters:
            return beside_bytes(SpelledWords(batch['tokens'], batch['characters']), batch)
        return beside_bytes(batch['tokens'], batch)


def check_bytes(name: str, width: int) -> None:
    """Raises `UserError` for places in which no word fits between its marks."""
    if width and width < 3:
        raise UserError(f'{name}.bytes is {width}; choose 0, or at least 3')


def bytes_column(sequences: Sequence[Sequence[str]], width: int) -> dict[str, Column]:
    """The column `bytes` of words, `[length, width]` each; none if `width` is 0."""
    if not width:
        return {}
    return {'bytes': Ragged.of([encode_bytes(words, width) for words in sequences], np.int16)}


def blank_bytes(lengths: Sequence[int], width: int) -> dict[str, Column]:
    """A column as of `bytes_column`, of sequences of these lengths."""
    return {'bytes': Ragged.blank(lengths, np.int16, width)} if width else {}


def beside_bytes(own: Any, batch: Batch) -> Any:
    """What a model reads, with the column `bytes` if the batch has it."""
    return WithBytes(own, batch['bytes']) if 'bytes' in batch else own


def outputs_of(
    model: nn.Module, variables: Any, inputs: Any, batch: Batch, key: jax.Array | None, *, rank: int
) -> jax.Array:
    """What a labeler says about a batch, float32.

    Args:
        model: a `models.base.Labeler`.
        variables: its collections.
        inputs: what it reads.
        batch: with `segments`.
        key: of dropout; `None` leaves it off.
        rank: 2 if the task has an answer for each sequence, 3 if for each position.

    Raises:
        UserError: the model has another kind of answer.
    """
    rngs = {} if key is None else {'dropout': key}
    # Booleans: a row of a table is one sequence, which spares convolutions looking for others.
    options = {'segments': batch['segments'] > 0, 'train': key is not None}
    output: Any = model.apply(variables, inputs, rngs=rngs, **options)
    if output.outputs.ndim != rank:
        wanted, given = ('sequence', 'step') if rank == 2 else ('step', 'sequence')
        raise UserError(
            f'model.per is {given!r}, but the task has an answer for each {wanted}; set '
            f'--model.per {wanted}'
        )
    return output.outputs
