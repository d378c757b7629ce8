"""Greedy search: always the most probable next token."""

import jax

from seqzoo.decoding.base import BeamStep, Cache, Decoded, most_probable
from seqzoo.decoding.loop import decode_independently


def choose_greedily(logits: jax.Array, time: jax.Array) -> jax.Array:
    """The most probable token of each hypothesis, a `decoding.loop.Choose`."""
    del time
    return most_probable(logits)


def greedy_search(
    step: BeamStep,
    cache: Cache,
    *,
    batch: int,
    bos: int | jax.Array,
    eos: int | None,
    max_length: int,
    limits: jax.Array | None = None,
    length_penalty: float | jax.Array = 0.0,
    force_eos: bool = True,
    vocab_size: int | None = None,
    pad: int = 0,
) -> Decoded:
    """Follows the most probable token (the lowest of equals) until EOS or the limit of the row.

    Args:
        step: reads one token per hypothesis, with one beam: a model's `[batch]` step in `one_beam`,
            or any `BeamStep`.
        cache: what `step` expects at the first token.
        batch: number of rows.
        bos: the token read first; `[batch]` where rows differ (the last token of a prompt).
        eos: the token that ends a hypothesis; `None` where nothing does.
        max_length: static room for tokens, EOS included.
        limits: `[batch]` int32, the most tokens of each row, EOS included; `None`: `max_length` for
            all.
        length_penalty: alpha of the normalizer in `scores`; it changes no token.
        force_eos: the last token within the limit is EOS, as in beam search; otherwise a hypothesis
            is cut off there.
        vocab_size: true size of the vocabulary where the logits have more columns.
        pad: fills `tokens` behind EOS.

    Returns:
        One hypothesis per row (`beams` = 1).

    Raises:
        UserError: a setting under which no search makes sense.
    """
    return decode_independently(
        choose_greedily,
        step,
        cache,
        batch=batch,
        bos=bos,
        eos=eos,
        beams=1,
        max_length=max_length,
        limits=limits,
        length_penalty=length_penalty,
        force_eos=force_eos,
        vocab_size=vocab_size,
        pad=pad,
    )
