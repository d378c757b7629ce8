"""Tagging: a sequence of tokens in, a class for each of them out.

Words go in by their numbers, and by their spelling too if the model reads `layers.inputs.Spelling`.
Reported are accuracy over all positions that count, F1 by class, and the margin over always giving
the class that is most frequent in the training data; in percent.
"""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from seqzoo.configuration.checks import check_rates
from seqzoo.data.columns import Columns, Ragged
from seqzoo.data.labelled import Tagged, TaggedData
from seqzoo.data.tagged import UniversalDependencies
from seqzoo.errors import UserError
from seqzoo.optimization.losses import smoothed_cross_entropy
from seqzoo.scoring.labels import label_scores
from seqzoo.tasks.base import Batch, Decoding, Losses, Prediction, Sums
from seqzoo.tasks.column_task import Answers
from seqzoo.tasks.labeling import LabelingTask, TokenInput, outputs_of


@dataclass(frozen=True, kw_only=True)
class TagTask(LabelingTask):
    """One class for each token; how a model reads the tokens, a subclass says.

    Attributes:
        corpus: where the examples come from.
        label_smoothing: of the training loss; reported losses are plain nats per token.
    """

    corpus: TaggedData = field(default_factory=UniversalDependencies)
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

    # Data

    def read(self, split: str, data_dir: Path | None) -> Tagged:
        found = self.corpus.read(split, data_dir)
        if len(found) and not any(counts.any() for counts in found.counts):
            raise UserError(
                f'{self.data_name}: none of the positions of the split {split} counts, so that '
                'there is nothing to learn or to score; check the marks in its file'
            )
        return found

    def learn(self, examples: Tagged) -> dict[str, Any]:
        tags = [t[c] for t, c in zip(examples.tags, examples.counts, strict=True)]
        counts = np.bincount(np.concatenate(tags), minlength=len(self.corpus.classes))
        return {'majority': int(counts.argmax())}

    @abc.abstractmethod
    def inputs(self, batch: Batch) -> Any:
        """What the model reads of a batch."""

    @abc.abstractmethod
    def unknown(self, table: Columns) -> np.ndarray:
        """`[positions]` bool, in a table: where words are that the training data lacks."""

    # Loss

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """Positions that count."""
        return {'loss': jnp.sum(batch['counts']).astype(jnp.float32)}

    def loss(
        self, model: nn.Module, variables: Any, batch: Batch, carry: Any, *, key: jax.Array | None
    ) -> tuple[Losses, Any]:
        logits = outputs_of(model, variables, self.inputs(batch), batch, key, rank=3)
        per_token: Any = smoothed_cross_entropy(logits, batch['tags'], self.label_smoothing)
        loss, nll = per_token
        weight = batch['counts'].astype(jnp.float32)
        right = jnp.argmax(logits, axis=-1) == batch['tags']
        total, count = jnp.sum(loss * weight), jnp.sum(weight)
        metrics = {
            'loss': Sums(jax.lax.stop_gradient(total), count),
            'nll': Sums(jnp.sum(nll * weight), count),
            'accuracy': Sums(100 * jnp.sum(right * weight), count),
        }
        return Losses({'loss': total}, metrics), carry

    # Evaluation and prediction

    def answers(self, model: nn.Module, variables: Any, batch: Batch) -> Answers:
        logits = outputs_of(model, variables, self.inputs(batch), batch, None, rank=3)
        return Answers(positions={'log_probs': jax.nn.log_softmax(logits)})

    def measure(
        self, table: Columns, answers: Columns, learnt: Mapping[str, Any]
    ) -> dict[str, Any]:
        counts = table.columns['counts'].values
        log_probs = answers.columns['log_probs'].values[counts]
        tags = table.columns['tags'].values[counts]
        found = log_probs.argmax(axis=1)
        scores = label_scores(tags, found, self.corpus.classes, majority=learnt['majority'])
        nll = -np.take_along_axis(log_probs, tags[:, None], axis=1)
        metrics = {'loss': float(nll.mean(dtype=np.float64)), **scores.as_metrics()}
        # A word that the training data lacks is where context and spelling show.
        unknown = self.unknown(table)[counts]
        if unknown.any():
            metrics['unknown_accuracy'] = float(100 * (found == tags)[unknown].mean())
        return metrics

    def prediction(
        self, record: str, answers: Mapping[str, np.ndarray], decoding: Decoding
    ) -> Prediction:
        """The likeliest class of each token; the score is their mean probability."""
        del decoding
        log_probs = answers['log_probs'].astype(np.float64)
        best = log_probs.max(axis=1)
        tags = tuple(self.corpus.classes[i] for i in log_probs.argmax(axis=1))
        return Prediction(
            self.corpus.separator.join(tags),
            score=float(np.exp(best).mean()),
            log_prob=float(best.sum()),
            tokens=tags,
            source_tokens=tuple(self.corpus.cut(record)),
            details={'probabilities': [round(float(p), 6) for p in np.exp(best)]},
        )


@dataclass(frozen=True, kw_only=True)
class Tagging(TagTask):
    """One class for each token, which the model reads by its number in a list of words.

    Attributes:
        tokens: how tokens become what the model reads.
    """

    tokens: TokenInput = field(default_factory=TokenInput)

    @property
    def spells(self) -> bool:
        return bool(self.tokens.bytes)

    def learn(self, examples: Tagged) -> dict[str, Any]:
        return {**self.tokens.learn(examples.inputs), **super().learn(examples)}

    def encode(self, examples: Tagged, learnt: Mapping[str, Any]) -> Columns:
        return Columns(
            {
                **self.tokens.columns(examples.inputs, learnt),
                'tags': Ragged.of(examples.tags),
                'counts': Ragged.of(examples.counts, bool),
            }
        )

    def nominal_table(self, lengths: Sequence[int]) -> Columns:
        columns = self.tokens.nominal(lengths)
        tags, counts = Ragged.blank(lengths), Ragged.blank(lengths, bool)
        return Columns({**columns, 'tags': tags, 'counts': counts})

    def sizes(self, learnt: Mapping[str, Any] | None) -> dict[str, int]:
        return {**self.tokens.sizes(learnt), 'num_outputs': len(self.corpus.classes)}

    def inputs(self, batch: Batch) -> Any:
        return self.tokens.inputs(batch)

    def unknown(self, table: Columns) -> np.ndarray:
        return table.columns['tokens'].values == 0

    def parse(self, records: Sequence[str], learnt: Mapping[str, Any]) -> Columns:
        return Columns(self.tokens.columns([self.corpus.cut(r) for r in records], learnt))
