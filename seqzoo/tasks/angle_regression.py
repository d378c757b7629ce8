"""Aligned regression: a sequence of residues in, angles for each of them out.

An angle has no beginning and no end, so that 359 degrees and 1 degree are neighbours: the model
gives its sine and cosine, two outputs for each angle, trained by their squared distance to those of
the true angle, and the angle is read off them by the arc tangent. Reported is the mean absolute
error in degrees, on the circle, beside that of always giving the mean direction of the training
data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from seqzoo.data.angle_chains import AngleChains, Angled
from seqzoo.data.columns import Columns, Ragged
from seqzoo.scoring.labels import mean_angular_error
from seqzoo.tasks.base import Batch, Decoding, Losses, Prediction, Sums
from seqzoo.tasks.column_task import Answers
from seqzoo.tasks.labeling import LabelingTask, TokenInput, outputs_of


@dataclass(frozen=True, kw_only=True)
class AngleRegression(LabelingTask):
    """Angles for each token.

    Attributes:
        corpus: where the examples come from.
        tokens: how residues become what the model reads.
    """

    corpus: AngleChains = field(default_factory=AngleChains)
    tokens: TokenInput = field(default_factory=TokenInput)

    @property
    def data_name(self) -> str:
        return self.corpus.name

    @property
    def best_metric(self) -> tuple[str, str]:
        return 'angular_error', 'min'

    # Data

    def read(self, split: str, data_dir: Path | None) -> Angled:
        return self.corpus.read(split, data_dir)

    def learn(self, examples: Angled) -> dict[str, Any]:
        angles = np.concatenate(examples.angles).astype(np.float64)
        directions = np.arctan2(np.sin(angles).mean(axis=0), np.cos(angles).mean(axis=0))
        return {**self.tokens.learn(examples.inputs), 'directions': directions.tolist()}

    def encode(self, examples: Angled, learnt: Mapping[str, Any]) -> Columns:
        columns = self.tokens.columns(examples.inputs, learnt)
        return Columns({**columns, 'angles': Ragged.of(examples.angles, np.float32)})

    def nominal_table(self, lengths: Sequence[int]) -> Columns:
        angles = Ragged.blank(lengths, np.float32, len(self.corpus.angles))
        return Columns({**self.tokens.nominal(lengths), 'angles': angles})

    def sizes(self, learnt: Mapping[str, Any] | None) -> dict[str, int]:
        return {**self.tokens.sizes(learnt), 'num_outputs': 2 * len(self.corpus.angles)}

    # Loss

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """Positions."""
        return {'loss': jnp.sum(batch['segments'] > 0).astype(jnp.float32)}

    def loss(
        self, model: nn.Module, variables: Any, batch: Batch, carry: Any, *, key: jax.Array | None
    ) -> tuple[Losses, Any]:
        found = self._vectors(model, variables, batch, key)
        wanted = jnp.stack([jnp.sin(batch['angles']), jnp.cos(batch['angles'])], axis=-1)
        squares = jnp.sum(jnp.square(found - wanted), axis=(2, 3))
        real = (batch['segments'] > 0).astype(jnp.float32)
        total, count = jnp.sum(squares * real), jnp.sum(real)
        metrics = {'loss': Sums(jax.lax.stop_gradient(total), count)}
        return Losses({'loss': total}, metrics), carry

    def _vectors(
        self, model: nn.Module, variables: Any, batch: Batch, key: jax.Array | None
    ) -> jax.Array:
        """`[rows, length, angles, 2]`: sine and cosine of each, of any length."""
        outputs = outputs_of(model, variables, self.tokens.inputs(batch), batch, key, rank=3)
        return outputs.reshape(*outputs.shape[:2], -1, 2)

    # Evaluation and prediction

    def answers(self, model: nn.Module, variables: Any, batch: Batch) -> Answers:
        return Answers(positions={'vectors': self._vectors(model, variables, batch, None)})

    def measure(
        self, table: Columns, answers: Columns, learnt: Mapping[str, Any]
    ) -> dict[str, Any]:
        wanted = table.columns['angles'].values.astype(np.float64)
        vectors = answers.columns['vectors'].values.astype(np.float64)
        found = _angles(vectors)
        truth = np.stack([np.sin(wanted), np.cos(wanted)], axis=-1)
        each = {
            f'angular_error_{name}': mean_angular_error(wanted[:, i], found[:, i])
            for i, name in enumerate(self.corpus.angles)
        }
        return {
            'loss': float(np.square(vectors - truth).sum(axis=(1, 2)).mean()),
            'angular_error': mean_angular_error(wanted, found),
            **each,
            'angular_error_of_mean': mean_angular_error(wanted, np.array(learnt['directions'])),
        }

    def parse(self, records: Sequence[str], learnt: Mapping[str, Any]) -> Columns:
        return Columns(self.tokens.columns([''.join(r.split()) for r in records], learnt))

    def prediction(
        self, record: str, answers: Mapping[str, np.ndarray], decoding: Decoding
    ) -> Prediction:
        """Angles in degrees, those of one position between commas."""
        del decoding
        degrees = np.degrees(_angles(answers['vectors']))
        return Prediction(
            ' '.join(','.join(f'{angle:.1f}' for angle in pair) for pair in degrees),
            source_tokens=tuple(''.join(record.split())),
            details={'angles': [[round(float(angle), 2) for angle in pair] for pair in degrees]},
        )


def _angles(vectors: np.ndarray) -> np.ndarray:
    """`[..., 2]` sines and cosines, of any length -> `[...]` radians."""
    return np.arctan2(vectors[..., 0], vectors[..., 1])
