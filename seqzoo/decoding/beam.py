"""Beam search.

Hypotheses that go on and hypotheses that ended are kept apart. At each step the `2 * beams` best
extensions of a row are looked at. Those that end (EOS) and rank among the first `beams` join the
finished ones; the best `beams` that do not end go on. A row is done when

1. `patience * beams` hypotheses have ended (1: Ott et al. 2019; larger: Kasai et al. 2022,
   "controlled patience") and none that goes on scores better, as it stands, than the best of them:
   a sharp model offers many improbable ends while the right hypothesis is still under way, or
2. no hypothesis that goes on can still enter the ones to be returned: log-probabilities only fall,
   so the score of a hypothesis can never exceed its present log-probability over the largest
   normalizer, that of the row's limit, or
3. the row's limit is reached: there EOS is the only extension, and its log-probability counts.
   Everything returned is therefore a complete hypothesis whose score a forward pass can reproduce.

With `patience=math.inf` only the exact rules 2 and 3 remain (Wu et al. 2016). A beam of 1 is greedy
search, for any length penalty. A row's result does not depend on the other rows of its batch.
"""

from dataclasses import replace
from typing import TypeVar

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from seqzoo.decoding.base import (
    BeamStep,
    Cache,
    Decoded,
    check_search,
    first_tokens,
    is_below,
    length_normalizer,
    mask_vocab,
    row_limits,
    same_parents,
)
from seqzoo.errors import UserError
from seqzoo.parallel.loops import loop_over

_T = TypeVar('_T')
_CHUNK = 128  # columns whose maximum stands for them in the first stage of `best_extensions`


@flax.struct.dataclass
class _Extensions:
    """Candidates of each row, best first: `[batch, candidates]` each."""

    log_probs: jax.Array
    parents: jax.Array
    tokens: jax.Array


@flax.struct.dataclass
class _Finished:
    """The best ended hypotheses of each row, best first: `[batch, keep]` each.

    `parents` are the beams that EOS was appended to, where the way back through the history begins.
    """

    scores: jax.Array
    log_probs: jax.Array
    lengths: jax.Array
    parents: jax.Array


@flax.struct.dataclass
class _State:
    time: jax.Array  # [] tokens decoded so far
    alive: _Extensions  # [batch, beams]; a log-probability of -inf marks an empty place
    finished: _Finished
    ended: jax.Array  # [batch] how many hypotheses have ended
    done: jax.Array  # [batch] bool
    # Alive tokens and their parents by time, [max_length, batch, beams]: a tree, so that no prefix
    # is ever moved.
    token_history: jax.Array
    parent_history: jax.Array
    cache: Cache


def best_extensions(log_probs: jax.Array, logits: jax.Array, count: int) -> _Extensions:
    """The `count` most probable extensions of each row by one token.

    Of equals, the lower (beam, token) comes first, as in a `top_k` over beams x vocabulary.

    A full `top_k` over beams x vocabulary costs several times more than the softmax. The winners
    must lie in the `count` chunks of columns with the largest maxima, and maxima are cheap, so only
    those chunks are searched.

    Args:
        log_probs: `[batch, beams]` float32, log-probabilities of the hypotheses.
        logits: `[batch, beams, vocab]` float32.
        count: how many.
    """
    batch, beams, vocab = logits.shape
    # Adding a logit to it gives an extension's log-probability.
    shift = log_probs - jax.nn.logsumexp(logits, axis=-1)
    if beams * vocab < 2 * count * _CHUNK:  # too small to gain from chunks
        best, index = lax.top_k((logits + shift[..., None]).reshape(batch, beams * vocab), count)
        return _Extensions(best, index // vocab, index % vocab)
    if filling := -vocab % _CHUNK:
        logits = jnp.pad(logits, ((0, 0), (0, 0), (0, filling)), constant_values=-jnp.inf)
    chunks = (vocab + filling) // _CHUNK
    # [batch, beams, vocab] -> [batch, beams, chunks, chunk]
    logits = logits.reshape(batch, beams, chunks, _CHUNK)
    maxima = (logits.max(axis=-1) + shift[..., None]).reshape(batch, beams * chunks)
    # In ascending order, so that equal values are found in the order of (beam, token), as top_k
    # would find them.
    chosen = jnp.sort(lax.top_k(maxima, count)[1], axis=-1)  # [batch, count]
    columns = jnp.take_along_axis(
        logits.reshape(batch, beams * chunks, _CHUNK), chosen[..., None], axis=1
    )
    columns += jnp.take_along_axis(shift, chosen // chunks, axis=1)[..., None]
    best, index = lax.top_k(columns.reshape(batch, count * _CHUNK), count)
    chunk = jnp.take_along_axis(chosen, index // _CHUNK, axis=1)
    return _Extensions(best, chunk // chunks, chunk % chunks * _CHUNK + index % _CHUNK)


def _forced_end(log_probs: jax.Array, logits: jax.Array, eos: int, count: int) -> _Extensions:
    """The extensions of rows that have room for one token only: each hypothesis by EOS."""
    ends = log_probs + logits[..., eos] - jax.nn.logsumexp(logits, axis=-1)
    best, parents = lax.top_k(ends, ends.shape[1])
    empty = ((0, 0), (0, count - ends.shape[1]))
    return _Extensions(
        jnp.pad(best, empty, constant_values=-jnp.inf),
        jnp.pad(parents, empty),
        jnp.full((ends.shape[0], count), eos, jnp.int32),
    )


def _select(rows: jax.Array, if_true: _Extensions, if_false: _Extensions) -> _Extensions:
    return jax.tree.map(lambda x, y: jnp.where(rows[:, None], x, y), if_true, if_false)


def _take(tree: _T, indices: jax.Array) -> _T:
    return jax.tree.map(lambda x: jnp.take_along_axis(x, indices, axis=1), tree)


def _merge(
    finished: _Finished, ending: _Extensions, length: jax.Array, alpha: float | jax.Array
) -> _Finished:
    """Keeps the best of the finished hypotheses and of those that end now; -inf marks none."""
    lengths = jnp.where(ending.log_probs > -jnp.inf, length, 0)
    scores = ending.log_probs / length_normalizer(length, alpha)
    new = _Finished(scores, ending.log_probs, lengths, ending.parents)
    both = jax.tree.map(lambda x, y: jnp.concatenate([x, y], axis=1), finished, new)
    return _take(both, lax.top_k(both.scores, finished.scores.shape[1])[1])


def _trace_back(state: _State, eos: int, pad: int) -> jax.Array:
    """`[batch, keep, max_length]`: the finished hypotheses, read from their ends to the root."""
    lengths = state.finished.lengths

    def previous(
        beams: jax.Array, at: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        time, tokens, parents = at
        inside = time < lengths - 1  # before EOS
        token = jnp.where(inside, jnp.take_along_axis(tokens, beams, axis=1), pad)
        token = jnp.where(time == lengths - 1, eos, token)
        return jnp.where(inside, jnp.take_along_axis(parents, beams, axis=1), beams), token

    times = jnp.arange(state.token_history.shape[0], dtype=jnp.int32)
    history = (times, state.token_history, state.parent_history)
    _, tokens = lax.scan(previous, state.finished.parents, history, reverse=True)
    return jnp.moveaxis(tokens, 0, -1)


def _first_state(cache: Cache, tokens: jax.Array, keep: int, max_length: int) -> _State:
    batch, beams = tokens.shape
    # All beams begin alike: only the first is alive, or the beam would be filled with copies of one
    # hypothesis.
    log_probs = jnp.full((batch, beams), -jnp.inf).at[:, 0].set(0.0)
    none = jnp.full((batch, keep), -jnp.inf)
    zeros = jnp.zeros((batch, keep), jnp.int32)
    history = jnp.zeros((max_length, batch, beams), jnp.int32)
    return _State(
        time=jnp.zeros((), jnp.int32),
        alive=_Extensions(log_probs, same_parents(batch, beams), tokens),
        finished=_Finished(none, none, zeros, zeros),
        ended=jnp.zeros((batch,), jnp.int32),
        done=jnp.zeros((batch,), bool),
        token_history=history,
        parent_history=history,
        cache=cache,
    )


def beam_search(
    step: BeamStep,
    cache: Cache,
    *,
    batch: int,
    bos: int | jax.Array,
    eos: int,
    beams: int,
    max_length: int,
    limits: jax.Array | None = None,
    length_penalty: float | jax.Array = 0.6,
    keep: int | None = None,
    patience: float | jax.Array = 1.0,
    vocab_size: int | None = None,
    pad: int = 0,
) -> Decoded:
    """The most probable hypotheses under a length penalty, by beam search.

    Args:
        step: reads one token per hypothesis, see `seqzoo.decoding.base`.
        cache: what `step` expects at the first token, for `beams` hypotheses per row.
        batch: number of rows.
        bos: the token read first; `[batch]` where rows differ (the last token of a prompt).
        eos: the token that ends a hypothesis.
        beams: how many hypotheses of a row are followed.
        max_length: static room for the tokens of a hypothesis, EOS included.
        limits: `[batch]` int32, the most tokens of each row, EOS included; `None`: `max_length` for
            all.
        length_penalty: alpha of `length_normalizer`.
        keep: how many hypotheses of a row to return; `None`: `beams`. With 1 the search may stop
            earlier, and the best hypothesis is the same.
        patience: a row is done when `patience * beams` of its hypotheses have ended and the best of
            them leads; `math.inf`: only when none can still improve the result.
        vocab_size: true size of the vocabulary where the logits have more columns.
        pad: fills `tokens` behind EOS.

    Returns:
        The best `keep` hypotheses of each row, best first.

    Raises:
        UserError: a setting under which no search makes sense.
    """
    check_search(max_length=max_length, beams=beams, length_penalty=length_penalty)
    keep = beams if keep is None else keep
    if not 1 <= keep <= beams:
        raise UserError(
            f'keep is {keep}; a search with {beams} beams returns 1 to {beams} hypotheses'
        )
    if is_below(patience, 1):
        raise UserError(f'patience is {patience}; choose 1 or more')
    limits = row_limits(limits, batch, max_length)
    best_normalizer = length_normalizer(limits, length_penalty)

    def body(state: _State) -> _State:
        logits, cache = step(state.alive.tokens, state.alive.parents, state.cache)
        logits = mask_vocab(logits, vocab_size)
        length = state.time + 1
        candidates = _select(
            limits == length,
            _forced_end(state.alive.log_probs, logits, eos, 2 * beams),
            best_extensions(state.alive.log_probs, logits, 2 * beams),
        )
        ends = candidates.tokens == eos
        # Frozen rows go through the motions: they may neither finish nor follow anything more.
        ending = jax.tree.map(lambda x: x[:, :beams], candidates)
        may_end = (ends & ~state.done[:, None])[:, :beams]
        ending = replace(ending, log_probs=jnp.where(may_end, ending.log_probs, -jnp.inf))
        finished = _merge(state.finished, ending, length, length_penalty)
        ended = state.ended + jnp.sum(ending.log_probs > -jnp.inf, axis=1, dtype=jnp.int32)
        going_on = jnp.where(ends | state.done[:, None], -jnp.inf, candidates.log_probs)
        log_probs, order = lax.top_k(going_on, beams)
        alive = replace(_take(candidates, order), log_probs=log_probs)
        within_reach = log_probs[:, 0] / best_normalizer > finished.scores[:, -1]
        now = log_probs[:, 0] / length_normalizer(length, length_penalty)
        enough = (ended >= patience * beams) & (now <= finished.scores[:, 0])
        return _State(
            time=length,
            alive=alive,
            finished=finished,
            ended=ended,
            done=state.done | enough | ~within_reach,
            token_history=state.token_history.at[state.time].set(alive.tokens),
            parent_history=state.parent_history.at[state.time].set(alive.parents),
            cache=cache,
        )

    first = _first_state(cache, first_tokens(bos, batch, beams), keep, max_length)
    with loop_over('decode_loop'):
        last = lax.while_loop(
            lambda state: (state.time < max_length) & ~jnp.all(state.done), body, first
        )
    return Decoded(
        tokens=_trace_back(last, eos, pad),
        scores=last.finished.scores,
        log_probs=last.finished.log_probs,
        lengths=last.finished.lengths,
        steps=last.time,
    )
