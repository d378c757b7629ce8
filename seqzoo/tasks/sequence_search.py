"""Decoding with an encoder-decoder: a model's methods joined to a search, compiled once per bucket.

The searches know no model, and models know no search; this is where they meet.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.decoding.base import BeamStep, Decoded, map_over_beams, replicate_for_beams
from seqzoo.decoding.beam import beam_search
from seqzoo.decoding.greedy import greedy_search
from seqzoo.decoding.sampling import sample
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
    config: Any = getattr(model, 'config', None)
    return config.max_length if getattr(config, 'positions', None) == 'learned' else None


def seq2seq_search(
    model: nn.Module, decoding: Decoding, special: SpecialTokens, source_length: int
) -> Callable[[Any, dict[str, jax.Array]], Decoded]:
    """A pure function `(variables, batch) -> Decoded` for sources padded to `source_length`.

    `batch` holds `source`, `source_segments` `[rows, source_length]`, and `rows` `[rows]`.
    An output may have `decoding.extra_length` tokens more than its source (Vaswani et al. 2017,
    section 6.1).
    """
    max_length = source_length + decoding.extra_length
    if (limit := position_limit(model)) is not None:
        max_length = min(max_length, limit)

    def search(variables: Any, batch: dict[str, jax.Array]) -> Decoded:
        call = functools.partial(model.apply, variables)
        memory = call(batch['source'], source_segments=batch['source_segments'], method='encode')
        rows = batch['source'].shape[0]
        lengths = jnp.sum(batch['source_segments'] > 0, axis=-1)
        common: dict[str, Any] = {
            'batch': rows,
            'bos': special.bos,
            'eos': special.eos,
            'pad': special.pad,
            'vocab_size': special.vocab_size,
            'max_length': max_length,
            'limits': jnp.minimum(lengths + decoding.extra_length, max_length),
        }

        width = {'beam': decoding.beams, 'greedy': 1, 'sample': decoding.n_best}[decoding.method]
        step, cache = _step_and_cache(model, variables, memory, max_length, width)
        if decoding.method == 'beam':
            return beam_search(
                step, cache, beams=width, length_penalty=decoding.length_penalty, **common
            )
        if decoding.method == 'greedy':
            return greedy_search(step, cache, **common)
        # The numbers of the examples, so that a line draws the same in whatever batch it stands.
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(decoding.seed), batch['rows'])
        return sample(
            step,
            cache,
            key=keys,
            samples=width,
            temperature=decoding.temperature,
            top_k=decoding.top_k,
            top_p=decoding.top_p,
            **common,
        )

    return search


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
