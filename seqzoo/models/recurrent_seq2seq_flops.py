"""Operations of a recurrent encoder-decoder, by formula; see `models.flops` for what counts."""

import math

from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_attention import Attention
from seqzoo.models.flops import Flops, logits_flops, matmul_flops, recurrent_flops
from seqzoo.models.recurrent_seq2seq import RecurrentSeq2SeqConfig


def recurrent_seq2seq_flops(
    config: RecurrentSeq2SeqConfig, *, batch: int, source_length: int, target_length: int
) -> Flops:
    """One forward pass over a batch, logits at every target position.

    Raises:
        ValueError: the configuration leaves its vocabulary open.
    """
    if config.vocab_size is None:
        raise ValueError('vocab_size is still open; FLOPs need the size of the vocabulary')
    encoder, decoder = config.encoder(), config.decoder()
    queries, attention = batch * target_length, decoder.attention
    total = logits_flops(
        tokens=queries, embed_dim=config.features_dim, vocab_size=config.vocab_size
    )
    total += recurrent_flops(encoder, tokens=batch * source_length, input_dim=config.embed_dim)
    context, fed = 0, 0
    if attention is not None:
        total += cross_attention_flops(
            attention, batch=batch, query_length=target_length, key_length=source_length
        )
        if config.attention_state == 'previous':
            context = attention.memory_dim
        else:
            joined = attention.memory_dim + config.features_dim
            total += Flops(attention_projections=matmul_flops(queries, config.features_dim, joined))
            fed = config.features_dim if config.input_feeding else 0
    width = config.embed_dim + fed
    for cell in decoder.layers.cells:
        alone = RecurrentConfig(cell=cell)
        total += recurrent_flops(alone, tokens=queries, input_dim=width + context)
        width = cell.output_dim
    if config.initial_state == 'projected':
        first = config.num_layers * matmul_flops(batch, width, width)
        total += Flops(recurrent=first)
    if config.maxout_dim is not None:
        joined = width + config.embed_dim + context
        total += Flops(feed_forward=matmul_flops(queries, 2 * config.maxout_dim, joined))
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
