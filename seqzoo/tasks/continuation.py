"""Prompts in, continuations or the most probable next tokens out."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from seqzoo.data.batching import BatchConfig
from seqzoo.data.bucketing import EvaluationPlan
from seqzoo.data.columns import Columns, Ragged
from seqzoo.data.encoding import TextTokenizer
from seqzoo.data.pipeline import StepBatch, step_batches
from seqzoo.decoding.base import Decoded, mask_vocab
from seqzoo.errors import UserError
from seqzoo.models.base import CausalLM
from seqzoo.parallel.mesh import row_shards
from seqzoo.parallel.rows import row_share
from seqzoo.tasks.base import Batch, Decoding, Prediction, Runtime
from seqzoo.tasks.hypotheses import best_of
from seqzoo.tasks.sequence_search import causal_search, position_limit

BLANK = '____'  # stands in a text for what a model is asked about
_SHORTEST = 8  # tokens of the first bucket of prompts; each further one is twice as long

_log = logging.getLogger('seqzoo.tasks')


@dataclass(frozen=True)
class NextTokens:
    """What a model expects after a prompt.

    Attributes:
        prompt: as it was given, with a `BLANK` where that is not its end.
        tokens: the most probable next tokens, as labels, in falling order.
        probabilities: of each, from 0 to 1.
    """

    prompt: str
    tokens: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Prompt:
    """What is read of a prompt.

    Attributes:
        tokens: all that the model reads, at least one.
        own: those of them that are text of the prompt.
    """

    tokens: np.ndarray
    own: np.ndarray


def continue_prompts(
    runtime: Runtime,
    tokenizer: TextTokenizer,
    prompts: Sequence[str],
    decoding: Decoding,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Prediction]:
    """Continues lines; one prediction a prompt, in order: prompt and text are the whole text.

    A prompt is read after what the tokenizer says stands before one: what closes the line before
    it, or nothing. An empty one begins a line.

    Raises:
        UserError: a prompt has characters that the vocabulary lacks, or the model has no room.
    """
    encoded = encode_prompts(runtime.model, tokenizer, prompts, decoding.extra_length)
    stop = tokenizer.stop_id if decoding.stop_at_end else None
    search = causal_search(runtime.model, decoding, tokenizer.vocab_size, stop)
    found = [Prediction('')] * len(prompts)
    done = 0
    for item in _batches(runtime, encoded, decoding.rows):
        # Of this process's rows; -1 in those that only fill up.
        numbers = np.asarray(item.example_ids[item.arrays['rows']], np.int32)
        arrays = {**item.arrays, 'rows': numbers}
        length = item.shape.source_length
        decoded: Decoded = jax.device_get(
            runtime.run(('continue', decoding, length), search, arrays)
        )
        for row in np.flatnonzero(item.example_ids >= 0):
            number = int(item.example_ids[row])
            prompt = encoded[number]
            found[number] = read_hypotheses(decoded, int(row), tokenizer, prompt, decoding, stop)
        done += item.examples
        progress(done, len(prompts))
    return found


def next_tokens(
    runtime: Runtime,
    tokenizer: TextTokenizer,
    prompts: Sequence[str],
    count: int,
    *,
    rows: int = 64,
) -> list[NextTokens]:
    """The `count` most probable next tokens of each prompt, in order; see `continue_prompts`."""
    encoded = encode_prompts(runtime.model, tokenizer, prompts, 0)
    count = min(count, tokenizer.vocab_size)

    def best(variables: Any, batch: Batch) -> Any:
        tokens, lengths = batch['tokens'], jnp.sum(batch['segments'] > 0, axis=-1)

        def read(model: Any) -> jax.Array:
            logits, _ = model.extend(tokens, lengths, model.init_cache(*tokens.shape))
            # [rows, length, vocab] -> [rows, vocab]
            last = jnp.maximum(lengths - 1, 0)[:, None, None]
            return jnp.take_along_axis(logits, last, axis=1)[:, 0]

        logits: Any = runtime.model.apply(variables, method=read)
        return lax.top_k(jax.nn.softmax(mask_vocab(logits, tokenizer.vocab_size)), count)

    found: list[NextTokens | None] = [None] * len(prompts)
    for item in _batches(runtime, encoded, rows):
        probabilities, tokens = jax.device_get(runtime.run(('next', count), best, item.arrays))
        for row in np.flatnonzero(item.example_ids >= 0):
            number = int(item.example_ids[row])
            labels = tuple(tokenizer.pieces(tokens[row]))
            shares = tuple(float(p) for p in probabilities[row])
            found[number] = NextTokens(prompts[number], labels, shares)
    return [table for table in found if table is not None]


def encode_prompts(
    model: nn.Module, tokenizer: TextTokenizer, prompts: Sequence[str], room: int
) -> list[Prompt]:
    """Prompts as the model reads them, with `room` behind them.

    Raises:
        UserError: this is no language model, it has fewer positions than `room`, or a prompt has
            characters that the vocabulary lacks.
    """
    if not isinstance(model, CausalLM):
        raise UserError(f'{type(model).__name__} is no language model: it cannot continue a text.')
    before, begin = tokenizer.prompt_start, (tokenizer.line_end,)
    encoded = [
        Prompt(np.concatenate([before if len(ids) else begin, ids]).astype(np.int32), ids)
        for ids in tokenizer.encode_batch(prompts)
    ]
    limit = position_limit(model)
    if limit is None:
        return encoded
    if room >= limit:
        raise UserError(
            f'decode.extra_length is {room}, but the model has only {limit} positions, for prompt '
            'and continuation together; lower it.'
        )
    most = limit - room
    if cut := sum(len(prompt.tokens) > most for prompt in encoded):
        _log.warning('%d prompts are longer than %d tokens: their ends were read', cut, most)
    return [Prompt(prompt.tokens[-most:], prompt.own[-most:]) for prompt in encoded]


def _batches(runtime: Runtime, prompts: list[Prompt], rows: int) -> Iterator[StepBatch]:
    """Prompts of like length together, in few shapes: arrays `tokens`, `segments`, `rows`."""
    if not prompts:
        return
    tokens = [prompt.tokens for prompt in prompts]
    buckets = sorted({bucket_of(runtime.model, len(ids)) for ids in tokens})
    table = Columns({'tokens': Ragged.of(tokens)})
    config = BatchConfig(
        tokens=rows * buckets[-1],
        max_length=buckets[-1],
        buckets=tuple(buckets),
        evaluation_rows=rows,
        evaluation_max_length=buckets[-1],
    )
    plan = EvaluationPlan(table.lengths, None, config, end_marks=0)
    share = row_share(runtime.mesh)
    yield from step_batches(
        table,
        plan,
        steps=plan.steps_per_epoch,
        process_index=share.index,
        process_count=share.count,
        row_multiple=row_shards(runtime.mesh),
    )


def read_hypotheses(
    decoded: Decoded,
    row: int,
    tokenizer: TextTokenizer,
    prompt: Prompt,
    decoding: Decoding,
    stop: int | None,
) -> Prediction:
    """The hypotheses of one row as text, the best one holding the others as alternatives."""

    def one(rank: int) -> Prediction:
        ids = decoded.tokens[row, rank, : decoded.lengths[row, rank]]
        if len(ids) and ids[-1] in (stop, tokenizer.vocab_size):
            ids = ids[:-1]
        return Prediction(
            text=continued_text(tokenizer, prompt, ids),
            score=float(decoded.scores[row, rank]),
            log_prob=float(decoded.log_probs[row, rank]),
            tokens=tuple(tokenizer.pieces(ids)),
            source_tokens=tuple(tokenizer.pieces(prompt.own)),
        )

    return best_of(decoded.scores[row], decoded.lengths[row], decoding.n_best, one)


def continued_text(tokenizer: TextTokenizer, prompt: Prompt, ids: Any) -> str:
    """The text of `ids` behind an encoded prompt."""
    # Together: a tokenizer may join what is apart, or set a space between.
    whole = tokenizer.decode_text(np.concatenate([prompt.own, ids]))
    return whole.removeprefix(tokenizer.decode_text(prompt.own))


def bucket_of(model: nn.Module, length: int) -> int:
    """The length to which a prompt is padded: few, so that few programs are compiled."""
    bucket = _SHORTEST
    while bucket < length:
        bucket *= 2
    limit = position_limit(model)
    return bucket if limit is None else min(bucket, limit)
