"""The loop of greedy search and sampling: hypotheses that never change places."""

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
class _State:
    time: jax.Array  # []
    last: jax.Array  # [batch, beams] the tokens to read next
    tokens: jax.Array  # [batch, beams, max_length]
    log_probs: jax.Array  # [batch, beams]
    lengths: jax.Array  # [batch, beams]
    done: jax.Array  # [batch, beams] bool
    cache: Cache


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
    """Extends each hypothesis by what `choose` picks, until EOS or the limit of its row.

    The log-probabilities are the model's own, whatever `choose` does to the logits. See
    `greedy_search` for the other arguments.
    """
    check_search(max_length=max_length, beams=beams, length_penalty=length_penalty)
    limits = row_limits(limits, batch, max_length)[:, None]
    parents = same_parents(batch, beams)

    def body(state: _State) -> _State:
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
        return _State(
            time=state.time + 1,
            last=tokens,
            tokens=state.tokens.at[:, :, state.time].set(jnp.where(state.done, pad, tokens)),
            log_probs=jnp.where(state.done, state.log_probs, state.log_probs + gain),
            lengths=state.lengths + ~state.done,
            done=done,
            cache=cache,
        )

    first = _State(
        time=jnp.zeros((), jnp.int32),
        last=first_tokens(bos, batch, beams),
        tokens=jnp.full((batch, beams, max_length), pad, jnp.int32),
        log_probs=jnp.zeros((batch, beams)),
        lengths=jnp.zeros((batch, beams), jnp.int32),
        done=jnp.zeros((batch, beams), bool),
        cache=cache,
    )
    with loop_over('decode_loop'):
        last = lax.while_loop(lambda state: ~jnp.all(state.done), body, first)
    return Decoded(
        tokens=last.tokens,
        scores=last.log_probs / length_normalizer(last.lengths, length_penalty),
        log_probs=last.log_probs,
        lengths=last.lengths,
        steps=last.time,
    )
