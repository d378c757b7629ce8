"""Sampling, with temperature, the k most probable tokens (top-k) and the nucleus (top-p).

Filters apply in this order: temperature, then top-k (Fan et al. 2018), then top-p (Holtzman et al.
2020) of what top-k left. What a row draws depends on its own key alone, not on its place in the
batch or on the other rows.
"""

import jax
import jax.numpy as jnp
from jax import lax

from seqzoo.decoding.base import BeamStep, Cache, Decoded, is_below, most_probable
from seqzoo.decoding.loop import Choose, decode_independently
from seqzoo.errors import UserError


def hypothesis_keys(key: jax.Array, batch: int, samples: int) -> jax.Array:
    """`[batch, samples]` keys from one for all or one for each row, typed or as key data."""
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    if key.ndim == 0:
        key = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))
    fold_samples = jax.vmap(jax.random.fold_in, (None, 0))
    return jax.vmap(fold_samples, (0, None))(key, jnp.arange(samples))


def _gumbel(keys: jax.Array, time: jax.Array | int, width: int) -> jax.Array:
    """`[batch, samples, width]` noise; with it, the largest logit is a draw from the softmax."""

    def draw(key: jax.Array) -> jax.Array:
        return jax.random.gumbel(jax.random.fold_in(key, time), (width,))

    return jax.vmap(jax.vmap(draw))(keys)


def draw_tokens(
    logits: jax.Array,
    keys: jax.Array,
    time: jax.Array | int,
    *,
    temperature: float | jax.Array = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> jax.Array:
    """`[batch, samples]` int32: one token per hypothesis.

    Args:
        logits: `[batch, samples, vocab]` float32.
        keys: `[batch, samples]` PRNG keys.
        time: the step; each draws anew from the same keys.
        temperature: divides the logits; a plain 0 takes the most probable token.
        top_k: draws from this many of the most probable tokens.
        top_p: draws from the fewest most probable tokens that together have this probability.
            Without `top_k` this sorts the vocabulary at every step.
    """
    if isinstance(temperature, int | float) and temperature == 0:
        return most_probable(logits)
    logits = logits / temperature
    vocab = logits.shape[-1]
    if top_k is None and top_p is None:
        return most_probable(logits + _gumbel(keys, time, vocab))
    logits, tokens = lax.top_k(logits, min(top_k or vocab, vocab))
    if top_p is not None:
        probabilities = jax.nn.softmax(logits, axis=-1)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities  # 0 at the first: it stays
        logits = jnp.where(before < top_p, logits, -jnp.inf)
    drawn = most_probable(logits + _gumbel(keys, time, logits.shape[-1]))
    return jnp.take_along_axis(tokens, drawn[..., None], axis=-1)[..., 0]


def sampler(
    key: jax.Array,
    batch: int,
    *,
    samples: int = 1,
    temperature: float | jax.Array = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Choose:
    """Draws the token of each hypothesis; see `sample` for the arguments.

    What it draws at a step depends on the number of the step, not on earlier calls.

    Raises:
        UserError: a setting under which no sampling makes sense.
    """
    if is_below(temperature, 0):
        raise UserError(f'temperature is {temperature}; choose 0 (greedy) or more')
    if top_k is not None and top_k < 1:
        raise UserError(f'top_k is {top_k}; choose 1 or more, or leave it out')
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f'top_p is {top_p}; choose one above 0 and up to 1, or leave it out')
    if samples < 1:
        raise UserError(f'samples is {samples}; ask for 1 or more')
    keys = hypothesis_keys(key, batch, samples)

    def choose(logits: jax.Array, time: jax.Array) -> jax.Array:
        return draw_tokens(logits, keys, time, temperature=temperature, top_k=top_k, top_p=top_p)

    return choose


def sample(
    step: BeamStep,
    cache: Cache,
    *,
    batch: int,
    bos: int | jax.Array,
    eos: int | None,
    key: jax.Array,
    max_length: int,
    samples: int = 1,
    temperature: float | jax.Array = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    limits: jax.Array | None = None,
    length_penalty: float | jax.Array = 0.0,
    force_eos: bool = False,
    vocab_size: int | None = None,
    pad: int = 0,
) -> Decoded:
    """Draws hypotheses token by token.

    Args:
        step: reads one token per hypothesis. A model's `[batch]` step fits through `one_beam` for
            one sample, and through `map_over_beams(step, reorder=False)` for several.
        cache: what `step` expects at the first token, for `samples` hypotheses per row.
        batch: number of rows.
        bos: the token read first; `[batch]` where rows differ (the last token of a prompt).
        eos: the token that ends a hypothesis; `None` where nothing does.
        key: one key, or `[batch]` keys (or their data, `[batch, words]` uint32), one for each row.
        max_length: static room for tokens, EOS included.
        samples: independent draws for each row.
        temperature: divides the logits; a plain 0 takes the most probable token.
        top_k: draws from this many of the most probable tokens.
        top_p: draws from the fewest most probable tokens that together have this probability.
        limits: `[batch]` int32, the most tokens of each row, EOS included; `None`: `max_length` for
            all.
        length_penalty: alpha of the normalizer in `scores`; it changes no token.
        force_eos: the last token within the limit is EOS; otherwise a hypothesis is cut off there.
        vocab_size: true size of the vocabulary where the logits have more columns.
        pad: fills `tokens` behind EOS.

    Returns:
        `samples` hypotheses per row, in the order of their draws, not of their scores.
        Log-probabilities are those of the model, before temperature and filters.

    Raises:
        UserError: a setting under which no sampling makes sense.
    """
    choose = sampler(key, batch, samples=samples, temperature=temperature, top_k=top_k, top_p=top_p)
    return decode_independently(
        choose,
        step,
        cache,
        batch=batch,
        bos=bos,
        eos=eos,
        beams=samples,
        max_length=max_length,
        limits=limits,
        length_penalty=length_penalty,
        force_eos=force_eos,
        vocab_size=vocab_size,
        pad=pad,
    )
