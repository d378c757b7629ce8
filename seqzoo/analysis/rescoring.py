"""How probable a trained translation model finds outputs that are given to it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from seqzoo.decoding.base import length_normalizer
from seqzoo.optimization.losses import smoothed_cross_entropy
from seqzoo.tasks.base import Batch, Prediction
from seqzoo.tasks.translate import score_targets
from seqzoo.tasks.translation import shift_right


def score_given(run: Any, sources: Sequence[str], targets: Sequence[str]) -> list[Prediction]:
    """One `Prediction` for each pair, scored as beam search would have ranked it.

    One full forward pass reads all of the target; `log_prob` sums over its pieces and the end mark,
    `score` divides by the length penalty of the run's decoding.

    Args:
        run: a trained translation, `seqzoo.load_run(...)`.
        sources: lines of text.
        targets: what is to be scored, line by line.
    """
    model = run.runtime.model

    def log_probs(variables: Any, batch: Batch) -> jax.Array:
        def forward(module: Any) -> jax.Array:
            output = module(
                batch['source'],
                shift_right(batch['target'], batch['target_positions']),
                source_segments=batch['source_segments'],
                target_segments=batch['target_segments'],
            )
            return module.unembed(output.features)

        logits = model.apply(variables, method=forward)
        _, nll = smoothed_cross_entropy(logits, batch['target'])
        # [rows, length] -> [rows]
        return -jnp.sum(nll * (batch['target_segments'] > 0), axis=-1)

    experiment = run.experiment
    found = score_targets(
        run.runtime, run.prepared.tokenizers, sources, targets, experiment.batch, log_probs
    )
    lengths = jnp.array([len(prediction.tokens) + 1 for prediction in found], jnp.int32)
    penalties = length_normalizer(lengths, experiment.decode.length_penalty)
    return [
        replace(prediction, score=prediction.log_prob / float(penalty))
        for prediction, penalty in zip(found, penalties, strict=True)
    ]
