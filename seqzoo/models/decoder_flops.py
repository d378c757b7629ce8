"""Operations of recurrent decoders, by formula; see `models.flops` for what counts."""

import math

from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_attention import Attention
from seqzoo.layers.recurrent_decoders import DecoderConfig
from seqzoo.models.flops import Flops, matmul_flops, recurrent_flops


def decoder_flops(
    config: DecoderConfig,
    *,
    batch: int,
    source_length: int,
    target_length: int,
    previous: bool = False,
    feeding: bool = False,
) -> Flops:
    """One pass of a decoder of `layers.recurrent_decoders`.

    Args:
        config: the decoder.
        batch: rows.
        source_length: positions attended to.
        target_length: steps.
        previous: it is a `ContextDecoder`, whose layers all read the context.
        feeding: it is a `FeedingDecoder`, whose bottom layer reads the output of the step before.
    """
    tokens, attention = batch * target_length, config.attention
    cells, total = config.layers.cells, Flops()
    top = cells[-1].output_dim
    context = attention.memory_dim if attention is not None and previous else 0
    width = config.embed_dim + (top if feeding else 0)
    for cell in cells:
        alone = RecurrentConfig(cell=cell)
        total += recurrent_flops(alone, tokens=tokens, input_dim=width + context)
        width = cell.output_dim
    if attention is not None:
        total += cross_attention_flops(
            attention, batch=batch, query_length=target_length, key_length=source_length
        )
        if not previous:
            joined = matmul_flops(tokens, top, attention.memory_dim + top)
            total += Flops(attention_projections=joined)
    if config.maxout_dim is not None:
        joined = matmul_flops(tokens, 2 * config.maxout_dim, top + config.embed_dim + context)
        total += Flops(feed_forward=joined)
    return total


def cross_attention_flops(
    attention: Attention, *, batch: int, query_length: int, key_length: int
) -> Flops:
    """One attention, a query at a time; the source is projected once."""
    keys, queries = batch * key_length, batch * query_length
    sizes = {name: math.prod(weight.shape) for name, weight in attention.weights().items()}
    projections = 2 * keys * sizes.get('memory_kernel', 0)
    projections += 2 * queries * (sizes.get('query_kernel', 0) + sizes.get('place_kernel', 0))
    score_dim = attention.dim if attention.score == 'additive' else attention.query_dim
    pairs = batch * matmul_flops(query_length, key_length, score_dim + attention.memory_dim)
    return Flops(attention_projections=projections, attention_scores=pairs)
