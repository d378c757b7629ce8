"""Classification: a text or a series of numbers in, one of a few classes out.

Reported are accuracy and F1 averaged over the classes, in percent, beside the accuracy of always
giving the class that is most frequent in the training data. A model with a single output for two
classes gives the logit of the second one (a sigmoid); the loss is the same cross-entropy.
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

from seqzoo.configuration.checks import check_rates
from seqzoo.data.columns import Column, Columns, Fixed, Ragged
from seqzoo.data.labelled import Labelled, LabelledData
from seqzoo.data.labelled_texts import Imdb
from seqzoo.data.mnist import Mnist
from seqzoo.data.time_series import parse_numbers
from seqzoo.data.word_lists import TextConfig, WordList
from seqzoo.errors import UserError
from seqzoo.models.base import ModelConfig
from seqzoo.optimization.losses import smoothed_cross_entropy
from seqzoo.scoring.labels import label_scores
from seqzoo.tasks.base import Batch, Decoding, Losses, Prediction, Sums
from seqzoo.tasks.column_task import Answers
from seqzoo.tasks.labeling import (
    LabelingTask,
    beside_bytes,
    blank_bytes,
    bytes_column,
    check_bytes,
    outputs_of,
)
from seqzoo.tasks.open_sizes import fill_open


@dataclass(frozen=True, kw_only=True)
class Classification(LabelingTask):
    """One class for each sequence; what the sequences are, a subclass says.

    Attributes:
        corpus: where the examples come from.
        label_smoothing: of the training loss; reported losses are plain nats per example.
    """

    corpus: LabelledData
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rates(self, 'label_smoothing')

    @property
    def data_name(self) -> str:
        return self.corpus.name

    @property
    def best_metric(self) -> tuple[str, str]:
        return 'accuracy', 'max'

    @abc.abstractmethod
    def column(self, inputs: Sequence[Any], learnt: Mapping[str, Any]) -> Column:
        """What the model reads of each example."""

    def more_columns(self, inputs: Sequence[Any]) -> dict[str, Column]:
        """What else it reads."""
        del inputs
        return {}

    @abc.abstractmethod
    def nominal_column(self, lengths: Sequence[int]) -> Column:
        """A column as of `column`, of inputs of these lengths."""

    def more_nominal_columns(self, lengths: Sequence[int]) -> dict[str, Column]:
        """Columns as of `more_columns`, of inputs of these lengths."""
        del lengths
        return {}

    @abc.abstractmethod
    def input_sizes(self, learnt: Mapping[str, Any] | None) -> dict[str, int]:
        """The part of `sizes` that concerns the model's inputs."""

    @abc.abstractmethod
    def read_line(self, record: str) -> Any:
        """An input from a line of text.

        Raises:
            UserError: it is none.
        """

    def sizes(self, learnt: Mapping[str, Any] | None) -> dict[str, int]:
        return {**self.input_sizes(learnt), 'num_outputs': len(self.corpus.classes)}

    # Data

    def read(self, split: str, data_dir: Path | None) -> Labelled:
        return self.corpus.read(split, data_dir)

    def learn(self, examples: Labelled) -> dict[str, Any]:
        counts = np.bincount(examples.labels, minlength=len(self.corpus.classes))
        return {'majority': int(counts.argmax())}

    def encode(self, examples: Labelled, learnt: Mapping[str, Any]) -> Columns:
        inputs = self.column(examples.inputs, learnt)
        more = self.more_columns(examples.inputs)
        return Columns({'inputs': inputs, **more, 'label': Fixed(examples.labels)})

    def nominal_table(self, lengths: Sequence[int]) -> Columns:
        labels = Fixed(np.zeros(len(lengths), np.int32))
        inputs = {'inputs': self.nominal_column(lengths), **self.more_nominal_columns(lengths)}
        return Columns({**inputs, 'label': labels})

    def _filled(self, model: ModelConfig, learnt: Mapping[str, Any] | None) -> ModelConfig:
        if len(self.corpus.classes) == 2 and getattr(model, 'num_outputs', None) == 1:
            return fill_open(model, self.input_sizes(learnt), because='the data')
        return super()._filled(model, learnt)

    # Loss

    def loss(
        self, model: nn.Module, variables: Any, batch: Batch, carry: Any, *, key: jax.Array | None
    ) -> tuple[Losses, Any]:
        return self.judged(class_logits(model, variables, self.given(batch), key), batch), carry

    def given(self, batch: Batch) -> Batch:
        """The batch with what the model reads as `inputs`."""
        return batch

    def judged(self, logits: jax.Array, batch: Batch) -> Losses:
        """What is minimised and reported, given `[rows, classes]` logits."""
        per_example: Any = smoothed_cross_entropy(logits, batch['label'], self.label_smoothing)
        loss, nll = per_example
        weight, right = batch['weight'], jnp.argmax(logits, axis=-1) == batch['label']
        total, count = jnp.sum(loss * weight), jnp.sum(weight)
        metrics = {
            'loss': Sums(jax.lax.stop_gradient(total), count),
            'nll': Sums(jnp.sum(nll * weight), count),
            'accuracy': Sums(100 * jnp.sum(right * weight), count),
        }
        return Losses({'loss': total}, metrics)

    # Evaluation and prediction

    def answers(self, model: nn.Module, variables: Any, batch: Batch) -> Answers:
        logits = class_logits(model, variables, self.given(batch))
        return Answers(examples={'log_probs': jax.nn.log_softmax(logits)})

    def measure(
        self, table: Columns, answers: Columns, learnt: Mapping[str, Any]
    ) -> dict[str, Any]:
        log_probs, labels = answers.columns['log_probs'].values, table.columns['label'].values
        scores = label_scores(
            labels, log_probs.argmax(axis=1), self.corpus.classes, majority=learnt['majority']
        )
        nll = -np.take_along_axis(log_probs, labels[:, None], axis=1)
        return {'loss': float(nll.mean(dtype=np.float64)), **scores.as_metrics()}

    def parse(self, records: Sequence[str], learnt: Mapping[str, Any]) -> Columns:
        inputs = [self.read_line(record) for record in records]
        return Columns({'inputs': self.column(inputs, learnt), **self.more_columns(inputs)})

    def prediction(
        self, record: str, answers: Mapping[str, np.ndarray], decoding: Decoding
    ) -> Prediction:
        """The likeliest class, its probability as the score, and the next ones as alternatives."""
        del record
        classes, log_probs = self.corpus.classes, answers['log_probs'].astype(np.float64)
        order = np.argsort(-log_probs, kind='stable').tolist()
        best, *others = [
            Prediction(classes[i], score=float(np.exp(log_probs[i])), log_prob=float(log_probs[i]))
            for i in order[: decoding.n_best]
        ]
        probabilities = {classes[i]: round(float(np.exp(log_probs[i])), 6) for i in order}
        return replace(best, alternatives=tuple(others), details={'probabilities': probabilities})


def class_logits(
    model: nn.Module, variables: Any, batch: Batch, key: jax.Array | None = None
) -> jax.Array:
    """`[rows, classes]` float32 logits; a single output becomes the logits of two classes.

    Args:
        model: a `models.base.Labeler`.
        variables: its collections.
        batch: with `inputs` and `segments`.
        key: of dropout; `None` leaves it off.
    """
    inputs = beside_bytes(batch['inputs'], batch)
    return of_two_classes(outputs_of(model, variables, inputs, batch, key, rank=2))


def of_two_classes(logits: jax.Array) -> jax.Array:
    """A single output made the logits of two classes; others are left alone."""
    if logits.shape[-1] == 1:
        return jnp.concatenate([jnp.zeros_like(logits), logits], axis=-1)
    return logits


@dataclass(frozen=True, kw_only=True)
class TextClassification(Classification):
    """One class for each text.

    Attributes:
        words: how a text becomes words, and which words are known.
        bytes: places for a word spelled in bytes, for a model that reads `layers.spelling`; 0: it
            does not.
    """

    corpus: LabelledData = field(default_factory=Imdb)
    words: TextConfig = field(default_factory=lambda: TextConfig(vocab_size=20_000, max_words=200))
    bytes: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bytes('task', self.bytes)

    @property
    def nominal_vocab_size(self) -> int | None:
        return self.words.vocab_size

    def learn(self, examples: Labelled) -> dict[str, Any]:
        words = WordList.learn([self.words.words(text) for text in examples.inputs], self.words)
        return {**super().learn(examples), 'words': list(words.entries)}

    def column(self, inputs: Sequence[str], learnt: Mapping[str, Any]) -> Column:
        words = WordList(learnt['words'], lowercase=self.words.lowercase)
        return Ragged.of([words.encode(text) for text in self._cut(inputs)])

    def more_columns(self, inputs: Sequence[str]) -> dict[str, Column]:
        return bytes_column(self._cut(inputs), self.bytes)

    def _cut(self, texts: Sequence[str]) -> list[list[str]]:
        # A text without a single word is one that the model does not know.
        return [self.words.words(text) or [''] for text in texts]

    def nominal_column(self, lengths: Sequence[int]) -> Column:
        return Ragged.blank(lengths)

    def more_nominal_columns(self, lengths: Sequence[int]) -> dict[str, Column]:
        return blank_bytes(lengths, self.bytes)

    @property
    def spells(self) -> bool:
        return bool(self.bytes)

    def input_sizes(self, learnt: Mapping[str, Any] | None) -> dict[str, int]:
        words = self.words.vocab_size or 20_000 if learnt is None else len(learnt['words'])
        return {'vocab_size': words, **({'max_bytes': self.bytes} if self.bytes else {})}

    def read_line(self, record: str) -> str:
        return record


@dataclass(frozen=True, kw_only=True)
class SeriesClassification(Classification):
    """One class for each series of numbers; a record is a line of numbers between spaces or commas.

    Attributes:
        input_dim: numbers at each position of a series.
    """

    corpus: LabelledData = field(default_factory=Mnist)
    input_dim: int = 1

    def column(self, inputs: Sequence[np.ndarray], learnt: Mapping[str, Any]) -> Column:
        del learnt
        return Ragged.of(inputs, np.float32)  # also of equal lengths: buckets may be longer

    def nominal_column(self, lengths: Sequence[int]) -> Column:
        return Ragged.blank(lengths, np.float32, self.input_dim)

    def input_sizes(self, learnt: Mapping[str, Any] | None) -> dict[str, int]:
        del learnt
        return {'input_dim': self.input_dim}

    def read_line(self, record: str) -> np.ndarray:
        shown = repr(record if len(record) <= 40 else f'{record[:39]}…')
        # Between two commas there is a number, or one is missing; spaces part numbers too.
        cells = [cell.split() or [''] for cell in record.split(',')]
        values = parse_numbers(','.join(number for cell in cells for number in cell), shown)
        if len(values) % self.input_dim:
            raise UserError(
                f'{shown} has {len(values)} numbers, but the model reads {self.input_dim} at each '
                'position; write all of them in one line'
            )
        return np.array(values, np.float32).reshape(-1, self.input_dim)
