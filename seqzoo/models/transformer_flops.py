"""Operations of the Transformer's forward pass, by formula."""

from typing import Protocol

from seqzoo.models.flops import Flops, attention_flops, feed_forward_flops, logits_flops


class Sizes(Protocol):
    """What of a `TransformerConfig` costs operations."""

    @property
    def vocab_size(self) -> int | None: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def num_encoder_layers(self) -> int | None: ...
    @property
    def num_decoder_layers(self) -> int | None: ...
    @property
    def embed_dim(self) -> int: ...
    @property
    def mlp_dim(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def key_dim(self) -> int | None: ...
    @property
    def value_dim(self) -> int | None: ...


def transformer_flops(
    config: Sizes, *, batch: int, source_length: int, target_length: int
) -> Flops:
    """The encoder-decoder of Vaswani et al. 2017 (section 3), logits at every target position.

    Raises:
        ValueError: the configuration leaves its vocabulary open.
    """
    if config.vocab_size is None:
        raise ValueError('vocab_size is still open; FLOPs need the size of the vocabulary')
    head_dim = config.embed_dim // config.num_heads
    key_dim = head_dim if config.key_dim is None else config.key_dim
    value_dim = head_dim if config.value_dim is None else config.value_dim
    encoder, decoder = (
        config.num_layers if override is None else override
        for override in (config.num_encoder_layers, config.num_decoder_layers)
    )

    def attention(query_length: int, key_length: int) -> Flops:
        return attention_flops(
            batch=batch,
            query_length=query_length,
            key_length=key_length,
            embed_dim=config.embed_dim,
            num_heads=config.num_heads,
            key_dim=key_dim,
            value_dim=value_dim,
        )

    def feed_forward(length: int) -> Flops:
        return feed_forward_flops(
            tokens=batch * length, embed_dim=config.embed_dim, mlp_dim=config.mlp_dim
        )

    encoder_layer = attention(source_length, source_length) + feed_forward(source_length)
    decoder_layer = (
        attention(target_length, target_length)
        + attention(target_length, source_length)
        + feed_forward(target_length)
    )
    logits = logits_flops(
        tokens=batch * target_length, embed_dim=config.embed_dim, vocab_size=config.vocab_size
    )
    return encoder * encoder_layer + decoder * decoder_layer + logits
