"""Problems of memory: how far back does a model carry what it has read?

Any labeler can be held to them. The adding problem has one number for a sequence, judged by its
squared error; the copy problem has a symbol for each step, judged by cross-entropy. Beside both
stands what a model without memory reaches (`data.memory_problems`).
"""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from seqzoo.data.columns import Columns, Fixed, Ragged
from seqzoo.data.memory_problems import Adding, CopyMemory, MemoryProblem
from seqzoo.errors import UserError
from seqzoo.optimization.losses import smoothed_cross_entropy
from seqzoo.tasks.base import Batch, Decoding, Losses, Prediction, Sums
from seqzoo.tasks.column_task import Answers
from seqzoo.tasks.labeling import LabelingTask, outputs_of

RIGHT = 0.04  # a sum off by less counts as right (Hochreiter and Schmidhuber 1997, section 5.4)

Drawn = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class MemoryTask(LabelingTask):
    """What both problems share: generated examples, the loss to be low."""

    corpus: MemoryProblem

    @property
    def data_name(self) -> str:
        return self.corpus.name

    @property
    def best_metric(self) -> tuple[str, str]:
        return 'loss', 'min'

    def read(self, split: str, data_dir: Path | None) -> Drawn:
        del data_dir
        return self.corpus.draw(split)

    def encode(self, examples: Drawn, learnt: Mapping[str, Any]) -> Columns:
        del learnt
        inputs, wanted = examples
        # Of equal lengths, but padded to a bucket like any other sequences.
        target = Fixed(wanted) if wanted.ndim == 1 else _rows(wanted)
        return Columns({'inputs': _rows(inputs), 'target': target})

    def nominal_table(self, lengths: Sequence[int]) -> Columns:
        del lengths  # all are as long as the problem
        return self.encode(replace(self.corpus, dev_size=1).draw('dev'), {})

    @abc.abstractmethod
    def read_line(self, record: str) -> np.ndarray:
        """An input from a line of text.

        Raises:
            UserError: it is none.
        """

    def parse(self, records: Sequence[str], learnt: Mapping[str, Any]) -> Columns:
        del learnt
        inputs = [self.read_line(record) for record in records]
        return Columns({'inputs': Ragged.of(inputs, inputs[0].dtype)})


@dataclass(frozen=True, kw_only=True)
class AddingTask(MemoryTask):
    """The sum of two marked numbers; a record is a line of numbers, each followed by its mark."""

    corpus: Adding = field(default_factory=Adding)

    def sizes(self, learnt: Mapping[str, Any] | None) -> dict[str, int]:
        del learnt
        return {'input_dim': 2, 'num_outputs': 1}

    def loss(
        self, model: nn.Module, variables: Any, batch: Batch, carry: Any, *, key: jax.Array | None
    ) -> tuple[Losses, Any]:
        found = outputs_of(model, variables, batch['inputs'], batch, key, rank=2)[:, 0]
        total = jnp.sum(jnp.square(found - batch['target']) * batch['weight'])
        sums = Sums(jax.lax.stop_gradient(total), jnp.sum(batch['weight']))
        return Losses({'loss': total}, {'loss': sums}), carry

    def answers(self, model: nn.Module, variables: Any, batch: Batch) -> Answers:
        found = outputs_of(model, variables, batch['inputs'], batch, None, rank=2)
        return Answers(examples={'sum': found[:, 0]})

    def measure(
        self, table: Columns, answers: Columns, learnt: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Mean square error as `loss`, that of always saying 1 as `baseline`, and the percentage of
        sums that are right.
        """
        del learnt
        wanted, found = table.columns['target'].values, answers.columns['sum'].values
        error = np.abs(found.astype(np.float64) - wanted)
        return {
            'loss': float(np.mean(np.square(error))),
            'baseline': self.corpus.baseline,
            'accuracy': float(100 * np.mean(error < RIGHT)),
        }

    def read_line(self, record: str) -> np.ndarray:
        numbers = _numbers(record, float)
        if len(numbers) % 2:
            raise UserError(f'{_shown(record)} has a number without a mark; give pairs.')
        return np.array(numbers, np.float32).reshape(-1, 2)

    def prediction(
        self, record: str, answers: Mapping[str, np.ndarray], decoding: Decoding
    ) -> Prediction:
        """The sum."""
        del record, decoding
        return Prediction(f'{answers["sum"]:.4f}', details={'sum': float(answers['sum'])})


@dataclass(frozen=True, kw_only=True)
class CopyTask(MemoryTask):
    """Ten symbols said again after a pause; a record is a line of symbols."""

    corpus: CopyMemory = field(default_factory=CopyMemory)

    def sizes(self, learnt: Mapping[str, Any] | None) -> dict[str, int]:
        del learnt
        return {'vocab_size': self.corpus.symbols, 'num_outputs': self.corpus.symbols}

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """Steps."""
        return {'loss': jnp.sum(batch['segments'] > 0).astype(jnp.float32)}

    def loss(
        self, model: nn.Module, variables: Any, batch: Batch, carry: Any, *, key: jax.Array | None
    ) -> tuple[Losses, Any]:
        logits = outputs_of(model, variables, batch['inputs'], batch, key, rank=3)
        per_step: Any = smoothed_cross_entropy(logits, batch['target'])
        real = (batch['segments'] > 0).astype(jnp.float32)
        total = jnp.sum(per_step[0] * real)
        sums = Sums(jax.lax.stop_gradient(total), jnp.sum(real))
        return Losses({'loss': total}, {'loss': sums}), carry

    def answers(self, model: nn.Module, variables: Any, batch: Batch) -> Answers:
        logits = outputs_of(model, variables, batch['inputs'], batch, None, rank=3)
        positions = {'symbols': jnp.argmax(logits, axis=-1)}
        if 'target' in batch:
            per_step: Any = smoothed_cross_entropy(logits, batch['target'])
            positions['nll'] = per_step[1]
        return Answers(positions=positions)

    def measure(
        self, table: Columns, answers: Columns, learnt: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Nats a step as `loss`, those without memory as `baseline`; the percentage of symbols of
        the word that come out right, one in eight by chance, and of whole words.
        """
        del learnt
        shape = (len(table), self.corpus.steps)
        wanted = table.columns['target'].values.reshape(shape)[:, -self.corpus.word :]
        found = answers.columns['symbols'].values.reshape(shape)[:, -self.corpus.word :]
        return {
            'loss': float(answers.columns['nll'].values.mean(dtype=np.float64)),
            'baseline': self.corpus.baseline,
            'accuracy': float(100 * np.mean(found == wanted)),
            'exact_match': float(100 * np.mean((found == wanted).all(axis=1))),
        }

    def read_line(self, record: str) -> np.ndarray:
        symbols = np.array(_numbers(record, int), np.int32)
        if ((symbols < 0) | (symbols >= self.corpus.symbols)).any():
            raise UserError(
                f'{_shown(record)}: symbols are numbers from 0 to {self.corpus.symbols - 1}.'
            )
        return symbols

    def prediction(
        self, record: str, answers: Mapping[str, np.ndarray], decoding: Decoding
    ) -> Prediction:
        """A symbol for each that was read."""
        del record, decoding
        symbols = answers['symbols'].tolist()
        return Prediction(' '.join(map(str, symbols)), details={'symbols': symbols})


def _rows(values: np.ndarray) -> Ragged:
    """`[examples, length, ...]` as a column of sequences."""
    examples, length = values.shape[:2]
    offsets = np.arange(examples + 1, dtype=np.int64) * length
    return Ragged(values.reshape(examples * length, *values.shape[2:]), offsets)


def _numbers(record: str, kind: type) -> list[Any]:
    try:
        return [kind(cell) for cell in record.replace(',', ' ').split()]
    except ValueError as error:
        raise UserError(
            f'{_shown(record)} is not a line of numbers ({error}); part them by spaces or commas.'
        ) from error


def _shown(record: str) -> str:
    return repr(record if len(record) <= 40 else f'{record[:39]}…')
