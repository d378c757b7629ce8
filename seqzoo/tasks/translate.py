"""Lines in, translations out: bucketed, decoded, detokenised and put back in order."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import jax
import numpy as np
from flax import linen as nn

from seqzoo.data.batching import BatchConfig
from seqzoo.data.bucketing import EvaluationPlan
from seqzoo.data.pipeline import evaluation_batches
from seqzoo.data.text_files import is_blank
from seqzoo.data.token_store import TokenStore
from seqzoo.data.tokenizers import TokenizerPair
from seqzoo.decoding.base import Decoded
from seqzoo.parallel.mesh import row_shards
from seqzoo.parallel.rows import row_share
from seqzoo.tasks.base import Decoding, Prediction, Runtime
from seqzoo.tasks.hypotheses import best_of
from seqzoo.tasks.sequence_search import SpecialTokens, position_limit, seq2seq_search

_log = logging.getLogger('seqzoo.tasks')


def within_positions(batch: BatchConfig, model: nn.Module) -> BatchConfig:
    """Evaluation buckets no longer than the positions that a model has learnt."""
    limit = position_limit(model)
    if limit is None:
        return batch
    longest = min(limit, batch.evaluation_max_length or limit)
    return replace(
        batch,
        max_length=min(batch.max_length, longest),
        buckets=None,
        evaluation_max_length=longest,
    )


def say_cut(count: int, longest: int) -> None:
    """Warns of so many sentences of which only the first `longest` tokens are read."""
    if count:
        _log.warning(
            '%d sentences are longer than %d tokens and were cut (batch.evaluation_max_length)',
            count,
            longest,
        )


def translate(
    runtime: Runtime,
    tokenizers: TokenizerPair,
    lines: Sequence[str],
    batch: BatchConfig,
    decoding: Decoding,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Prediction]:
    """Translates lines; one prediction a line, in order.

    A blank line is translated by an empty line; no model is asked.
    """
    found = [Prediction('')] * len(lines)
    wanted = [i for i, line in enumerate(lines) if not is_blank(line)]
    if not wanted:
        return found
    encoded = tokenizers.source.encode_batch([lines[i] for i in wanted])
    store = TokenStore.from_sentences(encoded)
    target = tokenizers.target
    special = SpecialTokens(target.bos_id, target.eos_id, target.pad_id, target.vocab_size)
    by_rows = replace(
        within_positions(batch, runtime.model),
        evaluation_rows=decoding.rows,
        tokens=decoding.rows * batch.max_length,
        packing=False,
    )
    plan = EvaluationPlan(store.lengths, None, by_rows)
    say_cut(plan.selection.truncated, by_rows.longest_evaluated)
    share = row_share(runtime.mesh)
    batches = evaluation_batches(
        store,
        None,
        plan,
        end_ids=tokenizers.end_ids,
        process_index=share.index,
        process_count=share.count,
        row_multiple=row_shards(runtime.mesh),
    )
    done = 0
    for item in batches:
        length = item.arrays['source'].shape[1]
        search = seq2seq_search(runtime.model, decoding, special, length)
        arrays = {k: item.arrays[k] for k in ('source', 'source_segments')}
        # Of this process's rows; -1 in those that only fill up.
        arrays['rows'] = np.asarray(item.example_ids[item.arrays['rows']], np.int32)
        decoded: Decoded = jax.device_get(runtime.run(('search', decoding, length), search, arrays))
        for row, example in enumerate(item.example_ids):
            if example >= 0:
                found[wanted[example]] = _read(
                    decoded, row, tokenizers, encoded[example], decoding.n_best
                )
        done += int(np.sum(item.example_ids >= 0))
        progress(done, len(wanted))
    return found


def _read(
    decoded: Decoded, row: int, tokenizers: TokenizerPair, source: np.ndarray, n_best: int
) -> Prediction:
    """The hypotheses of one row as text, the best one holding the others as alternatives."""
    target = tokenizers.target
    source_tokens = tuple(tokenizers.source.pieces(source))

    def one(rank: int) -> Prediction:
        ids = decoded.tokens[row, rank, : decoded.lengths[row, rank]]
        if len(ids) and ids[-1] == target.eos_id:
            ids = ids[:-1]
        return Prediction(
            text=target.decode(ids),
            score=float(decoded.scores[row, rank]),
            log_prob=float(decoded.log_probs[row, rank]),
            tokens=tuple(target.pieces(ids)),
            source_tokens=source_tokens,
        )

    return best_of(decoded.scores[row], decoded.lengths[row], n_best, one)
