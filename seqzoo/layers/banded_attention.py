"""Locally banded causal attention (Child et al. 2019, "Sparse Transformers"): a query sees the
`band` keys up to its own.

The length is cut into blocks of `band`. The queries of a block see keys of their own block and of
the one before it, so that the scores are `[length, 2 band]` where dense attention has `[length,
length]`, in time and in memory.
"""

import jax
import jax.numpy as jnp

from seqzoo.layers.dropout import dropout
from seqzoo.layers.masks import MASKED


def keys_in_reach(length: int, band: int) -> int:
    """How many scores a query costs: two blocks of keys, or all where that is not fewer."""
    return 2 * band if 2 * band < length else length


def banded_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    band: int,
    *,
    segments: jax.Array | None = None,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Causal self-attention within a band.

    Args:
        query: `[batch, length, heads, key_dim]`.
        key: the same shape.
        value: `[batch, length, heads, value_dim]`.
        band: how many keys a query sees, its own among them.
        segments: `[batch, length]` packing ids; a query sees keys of its own segment.
        dropout_rate: probability of dropping an attention weight.
        dropout_key: its random key; `None` drops nothing.

    Returns:
        `[batch, length, heads, value_dim]`.
    """
    length = query.shape[1]
    scale = jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
    query, key, value = (_blocks(x, band) for x in (query * scale, key, value))
    key, value = _with_block_before(key), _with_block_before(value)
    # [batch, blocks, band, heads, kv] x [batch, blocks, 2 band, heads, kv]
    scores = jnp.einsum('bnqhd,bnkhd->bhnqk', query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(_visible(scores.shape, segments), scores, MASKED), axis=-1)
    if dropout_rate > 0.0 and dropout_key is not None:
        weights = dropout(weights, dropout_rate, dropout_key)
    result = jnp.einsum('bhnqk,bnkhd->bnqhd', weights.astype(value.dtype), value)
    return result.reshape(result.shape[0], -1, *result.shape[3:])[:, :length]


def _visible(shape: tuple[int, ...], segments: jax.Array | None) -> jax.Array:
    """`[batch or 1, 1, blocks, band, 2 band]`."""
    blocks, band = shape[2], shape[3]
    own, keys = jnp.arange(band)[:, None], jnp.arange(2 * band)[None, :] - band
    near = (keys <= own) & (keys > own - band)
    exists = (jnp.arange(blocks)[:, None] > 0) | (keys >= 0)  # before the first block is nothing
    visible = near & exists[:, None, :]
    if segments is None:
        return visible[None, None]
    queries = _blocks(segments, band)
    same = queries[..., None] == _with_block_before(queries)[:, :, None, :]
    return (visible & same)[:, None]


def _blocks(x: jax.Array, band: int) -> jax.Array:
    """`[batch, length, ...]` -> `[batch, blocks, band, ...]`, zeros at the end."""
    filling = [(0, 0)] * x.ndim
    filling[1] = (0, -x.shape[1] % band)
    return jnp.pad(x, filling).reshape(x.shape[0], -1, band, *x.shape[2:])


def _with_block_before(x: jax.Array) -> jax.Array:
    """`[batch, blocks, band, ...]` -> `[batch, blocks, 2 band, ...]`."""
    before = jnp.concatenate([jnp.zeros_like(x[:, :1]), x[:, :-1]], axis=1)
    return jnp.concatenate([before, x], axis=2)
