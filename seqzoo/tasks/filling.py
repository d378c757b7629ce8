"""Text with `[MASK]` in it in, what may have stood there out.

A record is a text, or two with a `[SEP]` between them. Each `[MASK]` hides one piece; several are
filled as if the model had been asked about each alone, so that the probability of a whole filling
is the product of theirs.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqzoo.data.batching import BatchConfig
from seqzoo.data.columns import Columns, Fixed, Ragged
from seqzoo.data.wordpiece import CLASSIFY, CONTINUES, MASK, SEPARATE, WordPiece
from seqzoo.errors import UserError
from seqzoo.layers.inputs import TypedTokens
from seqzoo.tasks.base import Batch, Prediction, Runtime
from seqzoo.tasks.column_task import Answers, pass_over
from seqzoo.tasks.continuation import BLANK, NextTokens
from seqzoo.tasks.sequence_search import position_limit

CANDIDATES = 5  # of each [MASK], that are told with a filling
_SHORTEST = 16  # tokens of the first bucket; each further one is twice as long


@dataclass(frozen=True)
class Question:
    """A record as the model reads it.

    Attributes:
        text: as it was given.
        tokens, token_types: `[length]` int32.
        places: `[masks]` int32.
    """

    text: str
    tokens: np.ndarray
    token_types: np.ndarray
    places: np.ndarray


@dataclass(frozen=True)
class Candidates:
    """What may stand at one `[MASK]`, the likeliest first.

    Attributes:
        pieces: of text.
        log_probs: of each.
    """

    pieces: tuple[str, ...]
    log_probs: tuple[float, ...]


def fill_masks(
    runtime: Runtime,
    tokenizer: WordPiece,
    records: Sequence[str],
    batch: BatchConfig,
    n_best: int = 1,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Prediction]:
    """Records with each `[MASK]` filled; a blank record gets a blank answer.

    The score is the probability of the filling; the alternatives are the next likeliest ones.

    Raises:
        UserError: a record has no `[MASK]`, more than two texts, or is too long.
    """
    found = [Prediction('')] * len(records)
    wanted = [i for i, record in enumerate(records) if record.strip()]
    questions = [_question(records[i], tokenizer, runtime) for i in wanted]
    count = max(CANDIDATES, n_best)
    answers = _candidates(runtime, tokenizer, questions, count, batch, progress)
    for i, question, masks in zip(wanted, questions, answers, strict=True):
        details = {
            'masks': [
                [
                    {'token': piece, 'probability': round(math.exp(log_prob), 6)}
                    for piece, log_prob in zip(mask.pieces, mask.log_probs, strict=True)
                ][:CANDIDATES]
                for mask in masks
            ]
        }
        best, *others = [
            Prediction(
                _filled(question.text, pieces),
                score=math.exp(log_prob),
                log_prob=log_prob,
                tokens=pieces,
                source_tokens=tuple(tokenizer.pieces(question.tokens)),
            )
            for log_prob, pieces in _likeliest(masks, n_best)
        ]
        found[i] = replace(best, alternatives=tuple(others), details=details)
    return found


def hidden_tokens(
    runtime: Runtime, tokenizer: WordPiece, records: Sequence[str], count: int
) -> list[NextTokens]:
    """The `count` likeliest pieces at each `[MASK]` of each record, one table for each."""
    questions = [_question(r, tokenizer, runtime) for r in records if r.strip()]
    tables = []
    for question, masks in zip(
        questions, _candidates(runtime, tokenizer, questions, count), strict=True
    ):
        for number, mask in enumerate(masks):
            others = [BLANK if i == number else MASK for i in range(len(masks))]
            shares = tuple(math.exp(log_prob) for log_prob in mask.log_probs)
            tables.append(NextTokens(_filled(question.text, others), mask.pieces, shares))
    return tables


def _question(record: str, tokenizer: WordPiece, runtime: Runtime) -> Question:
    shown = repr(record if len(record) <= 60 else f'{record[:59]}…')
    ids = tokenizer.encode(record.strip())
    if len(ids) and ids[0] == tokenizer.cls_id:
        ids = ids[1:]
    if len(ids) and ids[-1] == tokenizer.sep_id:
        ids = ids[:-1]
    ids = np.concatenate([[tokenizer.cls_id], ids, [tokenizer.sep_id]]).astype(np.int32)
    marks = int(np.sum(ids == tokenizer.sep_id))
    if np.any(ids[1:] == tokenizer.cls_id) or marks > 2:
        raise UserError(
            f'{shown} is more than two texts; write one {SEPARATE} at most between two, and a '
            f'{CLASSIFY} at the beginning or nowhere.'
        )
    places = np.flatnonzero(ids == tokenizer.mask_id).astype(np.int32)
    if not len(places):
        raise UserError(f'{shown} has no {MASK}; write one in place of what is to be filled in.')
    longest = position_limit(runtime.model)
    if longest is not None and len(ids) > longest:
        raise UserError(
            f'{shown} has {len(ids)} pieces with its marks, but the model reads {longest}; shorten '
            'it.'
        )
    types = np.cumsum(ids == tokenizer.sep_id) - (ids == tokenizer.sep_id)
    return Question(record, ids, types.astype(np.int32), places)


def _candidates(
    runtime: Runtime,
    tokenizer: WordPiece,
    questions: Sequence[Question],
    count: int,
    batch: BatchConfig | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[Candidates]]:
    """For each `[MASK]` of each question the likeliest pieces of text."""
    if not questions:
        return []
    if not len(tokenizer.ordinary):
        raise UserError('the vocabulary has nothing but marks: there is nothing to fill in.')
    masks = max(len(q.places) for q in questions)
    count = min(count, len(tokenizer.ordinary))
    table = Columns(
        {
            'inputs': Ragged.of([q.tokens for q in questions]),
            'token_types': Ragged.of([q.token_types for q in questions]),
            'places': Fixed(np.stack([np.resize(q.places, masks) for q in questions])),
        }
    )
    allowed = np.zeros(tokenizer.vocab_size, bool)
    allowed[tokenizer.ordinary] = True

    def function(variables: Any, batch: Batch) -> Answers:
        def forward(module: Any) -> jax.Array:
            inputs = TypedTokens(batch['inputs'], batch['token_types'])
            output = module(inputs, segments=batch['segments'])
            few = jnp.take_along_axis(output.features, batch['places'][..., None], axis=1)
            return module.unembed(few)

        logits: Any = runtime.model.apply(variables, method=forward)
        log_probs = jnp.where(allowed, jax.nn.log_softmax(logits), -jnp.inf)
        best, ids = jax.lax.top_k(log_probs, count)
        return Answers(examples={'log_probs': best, 'ids': ids})

    longest = position_limit(runtime.model)
    batch = _buckets(int(table.lengths.max()), longest, batch)
    name = f'the likeliest {count} at {masks} places'
    answers = pass_over(runtime, table, batch, name, function, progress).columns
    found = []
    for row, question in enumerate(questions):
        ids, log_probs = answers['ids'].values[row], answers['log_probs'].values[row]
        found.append(
            [
                Candidates(tuple(tokenizer.pieces(ids[m])), tuple(log_probs[m].astype(float)))
                for m in range(len(question.places))
            ]
        )
    return found


def _buckets(needed: int, longest: int | None, batch: BatchConfig | None) -> BatchConfig:
    """Lengths that double, up to what the model reads."""
    lengths = [_SHORTEST]
    while lengths[-1] < needed:
        lengths.append(2 * lengths[-1])
    if longest is not None and lengths[-1] > longest:
        lengths = [length for length in lengths if length < longest] + [longest]
    tokens = max(4096 if batch is None else batch.tokens, lengths[-1])
    return BatchConfig(tokens=tokens, max_length=lengths[-1], buckets=tuple(lengths))


def _likeliest(masks: Sequence[Candidates], count: int) -> list[tuple[float, tuple[str, ...]]]:
    """The `count` likeliest fillings of all masks, with the logarithms of their probabilities."""
    best: list[tuple[float, tuple[str, ...]]] = [(0.0, ())]
    for mask in masks:
        every = (
            (known + log_prob, (*pieces, piece))
            for (known, pieces), (log_prob, piece) in itertools.product(
                best, zip(mask.log_probs, mask.pieces, strict=True)
            )
        )
        best = heapq.nlargest(count, every, key=lambda filling: filling[0])
    return best


def _filled(text: str, pieces: Sequence[str]) -> str:
    """The text with a piece for each `[MASK]`; one that goes on with a word joins it."""
    parts = text.split(MASK)
    for number, piece in enumerate(pieces):
        if piece.startswith(CONTINUES):
            piece, parts[number] = piece[len(CONTINUES) :], parts[number].rstrip()
        parts[number] += piece
    return ''.join(parts)
