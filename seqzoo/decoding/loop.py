"""The loop of greedy search and sampling: hypotheses that never change places.

It runs to the end at once, or in groups of steps between which the text so far can be looked at.
"""

from collections.abc import Callable

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
    length_normalizer,
    mask_vocab,
    row_limits,
    same_parents,
)
from seqzoo.parallel.loops import loop_over

# (logits [batch, beams, vocab], time []) -> tokens [batch, beams]
Choose = Callable[[jax.Array, jax.Array], jax.Array]


@flax.struct.dataclass
class Unfinished:
    """Hypotheses that may still grow: what a search by groups of steps hands from one to the next.

    Attributes:
        time: scalar int32, how many steps were made.
        last: `[batch, beams]` int32, the tokens to read next.
        tokens: `[batch, beams, max_length]` int32, what has been chosen.
        log_probs: `[batch, beams]` float32.
        lengths: `[batch, beams]` int32.
        done: `[batch, beams]`, whether a hypothesis has ended.
        cache: what the step expects next.
    """

    time: jax.Array
    last: jax.Array
    tokens: jax.Array
    log_probs: jax.Array
    lengths: jax.Array
    done: jax.Array
    cache: Cache


def begin(
    cache: Cache, *, batch: int, bos: int | jax.Array, beams: int, max_length: int, pad: int
) -> Unfinished:
    """Hypotheses without a token yet; see `greedy_search` for the arguments."""
    return Unfinished(
        time=jnp.zeros((), jnp.int32),
        last=first_tokens(bos, batch, beams),
        tokens=jnp.full((batch, beams, max_length), pad, jnp.int32),
        log_probs=jnp.zeros((batch, beams)),
        lengths=jnp.zeros((batch, beams), jnp.int32),
        done=jnp.zeros((batch, beams), bool),
        cache=cache,
    )


def advance(
    choose: Choose,
    step: BeamStep,
    unfinished: Unfinished,
    *,
    eos: int | None,
    limits: jax.Array | None,
    force_eos: bool,
    vocab_size: int | None,
    pad: int,
    steps: int | None = None,
) -> Unfinished:
    """Extends each hypothesis by what `choose` picks, until EOS or the limit of its row.

    The log-probabilities are the model's own, whatever `choose` does to the logits. With `steps` it
    stops after so many, to be called again with what it returns; in how many calls a text grows
    does not change it. See `greedy_search` for the other arguments.
    """
    batch, beams, max_length = unfinished.tokens.shape
    limits = row_limits(limits, batch, max_length)[:, None]
    parents = same_parents(batch, beams)
    until = None if steps is None else unfinished.time + steps

    def body(state: Unfinished) -> Unfinished:
        logits, cache = step(state.last, parents, state.cache)
        logits = mask_vocab(logits, vocab_size)
        tokens = choose(logits, state.time).astype(jnp.int32)
        at_limit = state.time + 1 >= limits
        if eos is not None and force_eos:
            tokens = jnp.where(at_limit, eos, tokens)
        chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
        gain = chosen - jax.nn.logsumexp(logits, axis=-1)
        done = state.done | at_limit
        if eos is not None:
            done |= tokens == eos
        return Unfinished(
            time=state.time + 1,
            last=tokens,
            tokens=state.tokens.at[:, :, state.time].set(jnp.where(state.done, pad, tokens)),
            log_probs=jnp.where(state.done, state.log_probs, state.log_probs + gain),
            lengths=state.lengths + ~state.done,
            done=done,
            cache=cache,
        )

    def goes_on(state: Unfinished) -> jax.Array:
        more = ~jnp.all(state.done)
        return more if until is None else more & (state.time < until)

    with loop_over('decode_loop'):
        return lax.while_loop(goes_on, body, unfinished)


def result(unfinished: Unfinished, length_penalty: float | jax.Array = 0.0) -> Decoded:
    """Hypotheses as a search returns them, however far they are."""
    return Decoded(
        tokens=unfinished.tokens,
        scores=unfinished.log_probs / length_normalizer(unfinished.lengths, length_penalty),
        log_probs=unfinished.log_probs,
        lengths=unfinished.lengths,
        steps=unfinished.time,
    )


def decode_independently(
    choose: Choose,
    step: BeamStep,
    cache: Cache,
    *,
    batch: int,
    bos: int | jax.Array,
    eos: int | None,
    beams: int,
    max_length: int,
    limits: jax.Array | None,
    length_penalty: float | jax.Array,
    force_eos: bool,
    vocab_size: int | None,
    pad: int,
) -> Decoded:
    """`begin` and `advance` to the end."""
    check_search(max_length=max_length, beams=beams, length_penalty=length_penalty)
    unfinished = begin(cache, batch=batch, bos=bos, beams=beams, max_length=max_length, pad=pad)
    unfinished = advance(
        choose,
        step,
        unfinished,
        eos=eos,
        limits=limits,
        force_eos=force_eos,
        vocab_size=vocab_size,
        pad=pad,
    )
    return result(unfinished, length_penalty)
