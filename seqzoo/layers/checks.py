"""Checks of hyperparameters that many configurations share."""

from typing import Any

from seqzoo.errors import ConfigError


def check_tie(config: Any) -> None:
    """Raises `ConfigError` if `tie` is no way of sharing tables between two vocabularies."""
    if config.tie not in ('all', 'decoder', 'none'):
        raise ConfigError(f"tie is {config.tie!r}: choose 'all', 'decoder' or 'none'")
    if config.tie == 'all' and config.source_vocab_size not in (None, config.vocab_size):
        raise ConfigError(
            f"tie 'all' shares one table, but source_vocab_size {config.source_vocab_size} differs "
            f"from vocab_size {config.vocab_size}: use tie 'decoder' or one vocabulary"
        )


def check_heads(config: Any, widths: str = '') -> None:
    """Raises `ConfigError` if heads do not share `embed_dim` evenly.

    Args:
        config: has `embed_dim` and `num_heads`.
        widths: fields that may say otherwise how wide heads are.
    """
    if config.embed_dim % config.num_heads:
        raise ConfigError(
            f'embed_dim {config.embed_dim} is not a multiple of num_heads {config.num_heads}: '
            f'change one of them{widths and f", or set {widths}"}'
        )


def check_attention_dropout(config: Any) -> None:
    """Raises `ConfigError` if `attention_implementation` has no `attention_dropout_rate`."""
    if config.attention_dropout_rate and config.attention_implementation in ('splash', 'cudnn'):
        raise ConfigError(
            f'attention_implementation {config.attention_implementation!r} cannot drop attention '
            "weights: set attention_dropout_rate to 0 or attention_implementation to 'auto'"
        )
