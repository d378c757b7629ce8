"""How probable a trained translation model finds outputs that are given to it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqzoo.analysis.alignment import tokenizers_of
from seqzoo.data.bucketing import EvaluationPlan
from seqzoo.data.pipeline import evaluation_batches
from seqzoo.data.token_store import TokenStore
from seqzoo.errors import UserError
from seqzoo.optimization.losses import smoothed_cross_entropy
from seqzoo.parallel.mesh import row_shards
from seqzoo.parallel.rows import row_share
from seqzoo.tasks.base import Batch, Prediction
from seqzoo.tasks.sequence_search import position_limit
from seqzoo.tasks.translate import say_cut, within_positions
from seqzoo.tasks.translation import forced_logits


def score_given(run: Any, sources: list[str], targets: list[str]) -> list[Prediction]:
    """One `Prediction` for each pair, scored as beam search would have ranked it.

    One full forward pass reads all of the target; `log_prob` sums over its pieces and the end mark,
    `score` divides by the length penalty of the run's decoding (Wu et al. 2016, equation 14).
    A source is cut where the search that translates it would cut it.

    Args:
        run: a trained translation, `seqzoo.load_run(...)`.
        sources: lines of text.
        targets: what is to be scored, line by line.

    Raises:
        UserError: a target is longer than evaluation reads, or the run does not translate.
    """
    model = run.runtime.model

    def log_probs(variables: Any, batch: Batch) -> jax.Array:
        logits = forced_logits(model, variables, batch, begin_id=pair.target.bos_id)
        losses: Any = smoothed_cross_entropy(logits, batch['target'])
        # [rows, length] -> [rows]
        return -jnp.sum(losses[1] * (batch['target_segments'] > 0), axis=-1)

    pair, batch = tokenizers_of(run), within_positions(run.experiment.batch, model)
    source, target = pair.source.encode_batch(sources), pair.target.encode_batch(targets)
    stores = TokenStore.from_sentences(source), TokenStore.from_sentences(target)
    plan = EvaluationPlan(stores[0].lengths, stores[1].lengths, batch)
    _refuse_long_targets(stores[1].lengths + 1, batch.longest_evaluated, position_limit(model))
    say_cut(plan.selection.truncated, batch.longest_evaluated)
    found = [Prediction('')] * len(sources)
    share, shards = row_share(run.runtime.mesh), row_shards(run.runtime.mesh)
    for item in evaluation_batches(
        *stores,
        plan,
        end_ids=pair.end_ids,
        process_index=share.index,
        process_count=share.count,
        row_multiple=shards,
    ):
        sums: Any = jax.device_get(run.runtime.run('log_probs', log_probs, item.arrays))
        for row, example in enumerate(item.example_ids):
            if example >= 0:
                length = len(target[example]) + 1
                penalty = ((5 + length) / 6) ** run.experiment.decode.length_penalty
                found[example] = Prediction(
                    text=targets[example],
                    score=float(sums[row]) / penalty,
                    log_prob=float(sums[row]),
                    tokens=tuple(pair.target.pieces(target[example])),
                    source_tokens=tuple(pair.source.pieces(source[example])),
                )
    return found


def _refuse_long_targets(lengths: np.ndarray, longest: int, limit: int | None) -> None:
    """Raises `UserError` if a target, end mark included, would have to be cut: what is left of it
    would get a probability that is not its own.
    """
    if not (lengths > longest).any():
        return
    first = int(np.argmax(lengths > longest))
    remedy = 'shorten it'
    if limit is None or longest < limit:
        remedy += ', or raise batch.evaluation_max_length of the run'
    raise UserError(
        f'line {first + 1} of the given outputs has {lengths[first]} pieces with its end mark, and '
        f'the model reads {longest}; {remedy}'
    )
