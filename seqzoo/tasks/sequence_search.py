"""Decoding with a model: its methods joined to a search, compiled once per bucket.

The searches know no model, and models know no search; this is where they meet.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.decoding.base import (
    BeamStep,
    Cache,
    Decoded,
    map_over_beams,
    one_beam,
    replicate_for_beams,
)
from seqzoo.decoding.beam import beam_search
from seqzoo.decoding.greedy import greedy_search
from seqzoo.decoding.sampling import sample
from seqzoo.errors import UserError
from seqzoo.tasks.base import Decoding


@dataclass(frozen=True)
class SpecialTokens:
    """Ids that searches need.

    Attributes:
        bos, eos, pad: begin, end, filling.
        vocab_size: true size; logits of a padded table above it are never chosen.
    """

    bos: int
    eos: int
    pad: int
    vocab_size: int


def position_limit(model: nn.Module) -> int | None:
    """The longest sequence that a model has positions for; `None` if any length will do."""
    return getattr(getattr(model, 'config', None), 'longest_row', None)


def seq2seq_search(
    model: nn.Module, decoding: Decoding, special: SpecialTokens, source_length: int
) -> Callable[[Any, dict[str, jax.Array]], Decoded]:
    """A pure function `(variables, batch) -> Decoded` for sources padded to `source_length`.

    `batch` holds `source`, `source_segments` `[rows, source_length]`, and `rows` `[rows]`.
    An output may have `decoding.extra_length` tokens more than its source (Vaswani et al. 2017,
    section 6.1).
    """
    if not decoding.stop_at_end:
        raise UserError(
            'decode.stop_at_end is for language models; a translation ends where the model ends it.'
        )
    _refuse_few_beams(decoding)
    max_length = source_length + decoding.extra_length
    if (limit := position_limit(model)) is not None:
        max_length = min(max_length, limit)

    def search(variables: Any, batch: dict[str, jax.Array]) -> Decoded:
        call = functools.partial(model.apply, variables)
        real = batch['source_segments'] > 0  # one sentence a row
        memory = call(batch['source'], source_segments=real, method='encode')
        lengths = jnp.sum(real, axis=-1)
        step, cache = _step_and_cache(model, variables, memory, max_length, _width(decoding))
        return _run(
            decoding,
            step,
            cache,
            batch['rows'],
            bos=special.bos,
            eos=special.eos,
            pad=special.pad,
            vocab_size=special.vocab_size,
            max_length=max_length,
            limits=jnp.minimum(lengths + decoding.extra_length, max_length),
        )

    return search


def causal_search(
    model: nn.Module,
    decoding: Decoding,
    vocab_size: int,
    stop: int | None,
    *,
    condition: Callable[[dict[str, jax.Array]], Any] | None = None,
) -> Callable[[Any, dict[str, jax.Array]], Decoded]:
    """A pure function `(variables, batch) -> Decoded` that continues prompts.

    `batch` holds `tokens`, `segments` `[rows, length]`, prompts of unequal lengths padded on the
    right, and `rows` `[rows]`. A prompt is read at once but for its last token, with which the
    search begins; a continuation has at most `decoding.extra_length` tokens beside its end.

    Args:
        model: a `models.base.CausalLM`.
        decoding: how to search.
        vocab_size: true size; logits of a padded table above it are never chosen.
        stop: the token that ends a continuation, the last of it; `None`: it ends when there is no
            room. A beam search then closes it with the id `vocab_size`, which costs nothing.
        condition: what a conditioned model is told of a batch, beside the prompts.
    """
    _refuse_few_beams(decoding)
    room = decoding.extra_length

    def search(variables: Any, batch: dict[str, jax.Array]) -> Decoded:
        variables = for_decoding(model, variables)
        cache, last = read_prompts(model, decoding, variables, batch, condition)
        step = continuing_step(model, decoding, variables)
        common: dict[str, Any] = {'bos': last, 'pad': 0, 'vocab_size': vocab_size}
        if decoding.method != 'beam':
            common |= {'eos': stop, 'max_length': room, 'force_eos': False}
        elif stop is not None:
            common |= {'eos': stop, 'max_length': room + 1}
        else:
            step, cache = _endless(step, cache, vocab_size, room)
            common |= {'eos': vocab_size, 'max_length': room + 1, 'vocab_size': None}
        return _run(decoding, step, cache, batch['rows'], **common)

    return search


def for_decoding(model: nn.Module, variables: Any) -> Any:
    """The variables as the model decodes fastest, to be made once before many tokens."""
    made = getattr(model, 'for_decoding', None)
    return variables if made is None else made(variables)


def read_prompts(
    model: nn.Module,
    decoding: Decoding,
    variables: Any,
    batch: dict[str, jax.Array],
    condition: Callable[[dict[str, jax.Array]], Any] | None = None,
) -> tuple[Cache, jax.Array]:
    """Reads prompts but for their last tokens: a cache for the hypotheses, and these `[rows]`."""
    given = () if condition is None else (condition(batch),)
    call = functools.partial(model.apply, variables)
    tokens, width, room = batch['tokens'], _width(decoding), decoding.extra_length
    before_last = jnp.maximum(jnp.sum(batch['segments'] > 0, axis=-1) - 1, 0)
    last = jnp.take_along_axis(tokens, before_last[:, None], axis=1)[:, 0]
    rows, length = tokens.shape
    own = hasattr(model, 'extend_beams')  # beams that share the cache of the prompt
    most = length if own else length + room
    if (limit := position_limit(model)) is not None:
        most = min(most, limit)
    cache = call(rows, most, *given, method='init_cache')
    _, cache = call(tokens, before_last, cache, method='extend')
    if own:
        # A beam search reads once more, to close what is full.
        return call(cache, room + 1, width, method='init_beam_cache'), last
    return cache if width == 1 else replicate_for_beams(cache, width), last


def continuing_step(model: nn.Module, decoding: Decoding, variables: Any) -> BeamStep:
    """What extends hypotheses, with a cache of `read_prompts`: the model's own way with several, or
    a map over them.
    """
    call = functools.partial(model.apply, variables)
    if hasattr(model, 'extend_beams'):

        def own(tokens: jax.Array, parents: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
            return call(tokens, parents, cache, method='extend_beams')

        return own

    def one(tokens: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        logits, cache = call(tokens[:, None], jnp.ones_like(tokens), cache, method='extend')
        return logits[:, 0], cache

    if _width(decoding) == 1:
        return one_beam(one)
    return map_over_beams(one, reorder=decoding.method == 'beam')


def _endless(
    step: BeamStep, cache: Cache, vocab_size: int, room: int
) -> tuple[BeamStep, tuple[Cache, jax.Array]]:
    """Beam search for text without an end: one more token, `vocab_size`, that ends it.

    It is impossible until `room` tokens are there, and then certain.
    """

    def endless(
        tokens: jax.Array, parents: jax.Array, cache: tuple[Cache, jax.Array]
    ) -> tuple[jax.Array, tuple[Cache, jax.Array]]:
        inner, time = cache
        # A dead hypothesis may have been given the end, which the model does not know.
        logits, inner = step(jnp.minimum(tokens, vocab_size - 1), parents, inner)
        is_full = time >= room
        # [batch, beams, vocab] -> [batch, beams, vocab_size + 1]
        text = jnp.where(is_full, -jnp.inf, logits[..., :vocab_size].astype(jnp.float32))
        end = jnp.full((*text.shape[:-1], 1), jnp.where(is_full, 0.0, -jnp.inf))
        return jnp.concatenate([text, end], axis=-1), (inner, time + 1)

    return endless, (cache, jnp.zeros((), jnp.int32))


def _width(decoding: Decoding) -> int:
    """How many hypotheses of each row are followed."""
    return {'beam': decoding.beams, 'greedy': 1, 'sample': decoding.n_best}[decoding.method]


def _refuse_few_beams(decoding: Decoding) -> None:
    if decoding.method == 'beam' and decoding.n_best > decoding.beams:
        raise UserError(
            f'decode.n_best is {decoding.n_best}, more than the {decoding.beams} beams; raise '
            'decode.beams.'
        )


def _run(
    decoding: Decoding, step: BeamStep, cache: Cache, rows: jax.Array, **common: Any
) -> Decoded:
    """The search that `decoding` asks for; `rows`: `[rows]` numbers of the examples."""
    common['batch'] = rows.shape[0]
    if decoding.banned:
        step = without_tokens(step, decoding.banned)
    if decoding.method == 'beam':
        penalty = decoding.length_penalty
        return beam_search(step, cache, beams=decoding.beams, length_penalty=penalty, **common)
    if decoding.method == 'greedy':
        return greedy_search(step, cache, **common)
    return sample(
        step,
        cache,
        key=row_keys(decoding, rows),
        samples=decoding.n_best,
        temperature=decoding.temperature,
        top_k=decoding.top_k,
        top_p=decoding.top_p,
        **common,
    )


def row_keys(decoding: Decoding, rows: jax.Array) -> jax.Array:
    """A key for each row, from the number of its example: a line draws the same in whatever batch
    it stands.
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(decoding.seed), rows)


def without_tokens(step: BeamStep, banned: tuple[int, ...]) -> BeamStep:
    """A step that gives some tokens no probability."""

    def restricted(tokens: jax.Array, parents: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        logits, cache = step(tokens, parents, cache)
        return logits.astype(jnp.float32).at[..., jnp.asarray(banned)].set(-jnp.inf), cache

    return restricted


def _step_and_cache(
    model: nn.Module, variables: Any, memory: Any, max_length: int, width: int
) -> tuple[BeamStep, Any]:
    """What the searches drive: the model's own way with several hypotheses, or a map over them."""
    call = functools.partial(model.apply, variables)
    if hasattr(model, 'extend_beams'):
        cache = call(memory, max_length, width, method='init_beam_cache')

        def own(tokens: jax.Array, parents: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
            return call(tokens, parents, memory, cache, method='extend_beams')

        return own, cache

    def one(tokens: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
        logits, cache = call(tokens[:, None], memory, cache, method='extend')
        return logits[:, 0], cache

    cache = call(memory, max_length, method='init_cache')
    return map_over_beams(one), replicate_for_beams(cache, width)
