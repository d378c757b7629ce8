"""What every search shares: the step it drives, the result it returns, and how it ends.

A search knows no model. It drives a *step*, which reads one token per hypothesis and returns the
logits of the next,

    logits, cache = step(tokens, parents, cache)

    tokens:  [batch, beams] int32, what each hypothesis has just been extended by (BOS at first)
    parents: [batch, beams] int32, the beam of the previous call that each hypothesis extends (0, 1,
        2, ... at first)
    logits:  [batch, beams, vocab] float32
    cache:   any pytree; only the step looks inside

Following the parents is left to the step because moving a large cache of keys and values at every
token costs more than the matrix products of the decoder: a step may gather its cache
(`map_over_beams` does that for any model), or keep a table of ancestors and leave the cache where
it is. What all beams share, such as the encoder's memory, does not belong into the cache: the step
closes over it.

All searches are pure functions with static shapes, to be called under `jit`; they stop as soon as
every row is done. Length penalty, patience and temperature may be traced, to change them without
compiling anew.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from seqzoo.errors import UserError

Cache = Any
Step = Callable[[jax.Array, Cache], tuple[jax.Array, Cache]]
BeamStep = Callable[[jax.Array, jax.Array, Cache], tuple[jax.Array, Cache]]


@flax.struct.dataclass
class Decoded:
    """What a search found.

    A slot that holds no hypothesis (there were fewer than asked for) has length 0 and scores of
    minus infinity.

    Attributes:
        tokens: `[batch, beams, max_length]` int32, without BOS, with EOS, `pad` behind it.
        scores: `[batch, beams]` float32, log-probability over length penalty; beam search sorts by
            it, best first.
        log_probs: `[batch, beams]` float32, the sum of the model's log-probabilities of the tokens,
            EOS included.
        lengths: `[batch, beams]` int32, number of tokens, EOS included.
        steps: scalar int32, how many times the step was called.
    """

    tokens: jax.Array
    scores: jax.Array
    log_probs: jax.Array
    lengths: jax.Array
    steps: jax.Array


def length_normalizer(lengths: jax.Array, alpha: float | jax.Array) -> jax.Array:
    """`((5 + length) / 6) ** alpha`, what a log-probability is divided by.

    Source: Wu et al. 2016, equation 14.

    Args:
        lengths: int32 of any shape, EOS included.
        alpha: 0 scores by the plain log-probability; larger values favour longer hypotheses.
    """
    return ((5.0 + lengths.astype(jnp.float32)) / 6.0) ** alpha


def mask_vocab(logits: jax.Array, vocab_size: int | None) -> jax.Array:
    """Float32 logits in which the columns that only fill up a stored table can never be chosen.

    Args:
        logits: `[..., vocab]`.
        vocab_size: the tokenizer's size; `None` where the table has no filling.
    """
    logits = logits.astype(jnp.float32)
    if vocab_size is None or vocab_size == logits.shape[-1]:
        return logits
    return jnp.where(jnp.arange(logits.shape[-1]) < vocab_size, logits, -jnp.inf)


def most_probable(logits: jax.Array) -> jax.Array:
    """`[...]` int32: the column of the largest of `[..., vocab]` logits, the lowest of equals.

    `jnp.argmax`, as a maximum and a minimum: XLA vectorises these on CPU, which makes them five
    times as fast, and the maximum is shared with the softmax.
    """
    columns = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    largest = logits.max(axis=-1, keepdims=True)
    return jnp.min(jnp.where(logits == largest, columns, columns[-1]), axis=-1)


def is_below(value: float | jax.Array, least: float) -> bool:
    """Whether a setting is too small. An array may be traced, and passes."""
    return isinstance(value, int | float) and value < least


def check_search(
    *, max_length: int, beams: int = 1, length_penalty: float | jax.Array = 0.0
) -> None:
    """Raises `UserError` for settings under which no search makes sense."""
    if max_length < 1:
        raise UserError(f'max_length is {max_length}; a search needs room for one token at least')
    if beams < 1:
        raise UserError(f'beams is {beams}; ask for 1 (greedy) or more')
    if is_below(length_penalty, 0):
        raise UserError(f'length_penalty is {length_penalty}; choose 0 (off) or more, 0.6 is usual')


def row_limits(limits: jax.Array | None, batch: int, max_length: int) -> jax.Array:
    """`[batch]` int32: the most tokens of each row, EOS included, from 1 to `max_length`."""
    if limits is None:
        return jnp.full((batch,), max_length, jnp.int32)
    return jnp.clip(jnp.broadcast_to(limits, (batch,)).astype(jnp.int32), 1, max_length)


def first_tokens(bos: int | jax.Array, batch: int, beams: int) -> jax.Array:
    """`[batch, beams]` int32: `bos`, one for all or one for each row, for every beam."""
    rows = jnp.broadcast_to(jnp.asarray(bos, jnp.int32), (batch,))
    return jnp.broadcast_to(rows[:, None], (batch, beams))


def same_parents(batch: int, beams: int) -> jax.Array:
    """`[batch, beams]` int32: every hypothesis extends itself."""
    return jnp.broadcast_to(jnp.arange(beams, dtype=jnp.int32), (batch, beams))


def replicate_for_beams(cache: Cache, beams: int) -> Cache:
    """Gives every array of an initial cache a leading axis of equal beams; scalars stay shared.

    Args:
        cache: a pytree without a beam axis.
        beams: how many hypotheses of each row will be followed.
    """
    return jax.tree.map(
        lambda x: x if jnp.ndim(x) == 0 else jnp.broadcast_to(x, (beams, *x.shape)), cache
    )


def map_over_beams(step: Step, *, batch_axis: Any = 0, reorder: bool = True) -> BeamStep:
    """A search's step from a model's step that knows nothing of beams.

    The cache of the result has a beam axis in front of every leaf (`replicate_for_beams`), except
    scalars such as a position, which all beams share. Arrays that `step` closes over are not mapped
    and therefore never copied.

    Args:
        step: `(tokens [batch] int32, cache) -> (logits [batch, vocab], cache)`.
        batch_axis: the axis of the batch in a leaf of `step`'s own cache: one for all leaves (0; 1
            where caches are stacked over layers), or a pytree of them whose structure is a prefix
            of the cache's.
        reorder: whether parents are followed, by a gather of the whole cache. Sampling has no need
            of it.
    """

    def follow(leaf: jax.Array, axis: int, parents: jax.Array) -> jax.Array:
        if jnp.ndim(leaf) == 0:
            return leaf
        return jax.vmap(lambda beams, p: beams[p], in_axes=(axis + 1, 0), out_axes=axis + 1)(
            leaf, parents
        )

    def beam_step(tokens: jax.Array, parents: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        if reorder:
            axes = jax.tree.broadcast(batch_axis, cache)
            cache = jax.tree.map(lambda leaf, axis: follow(leaf, axis, parents), cache, axes)
        mapped = jax.tree.map(lambda x: None if jnp.ndim(x) == 0 else 0, cache)
        # logits [batch, vocab] per beam -> [batch, beams, vocab]
        return jax.vmap(step, in_axes=(1, mapped), out_axes=(1, mapped))(tokens, cache)

    return beam_step


def one_beam(step: Step) -> BeamStep:
    """The step of a search over one hypothesis per row; the cache has no beam axis."""

    def beam_step(tokens: jax.Array, parents: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        del parents  # there is only one
        logits, cache = step(tokens[:, 0], cache)
        return logits[:, None], cache

    return beam_step
