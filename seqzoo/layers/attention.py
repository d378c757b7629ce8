"""Scaled dot-product attention (Vaswani et al. 2017, equation 1), in several implementations.

    Attention(Q, K, V) = softmax(Q K^T / sqrt(key_dim)) V

`'xla'` runs everywhere and is the reference; the fused kernels live in `attention_kernels.py`, the
ring over devices that split the length in `ring_attention.py`, and attention within a band in
`banded_attention.py`.

On a mesh that splits the length (context parallelism) every device keeps its own queries. All but
the ring gather the keys and values, `[length]`, and form `[length / n, length]` scores; the ring
passes them on block by block and forms `[length / n, length / n]`.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from seqzoo.errors import ConfigError
from seqzoo.layers import attention_kernels
from seqzoo.layers.banded_attention import banded_attention, keys_in_reach
from seqzoo.layers.dropout import dropout
from seqzoo.layers.masks import (
    MASKED,
    banded_mask,
    causal_mask,
    combine_masks,
    segment_mask,
)
from seqzoo.layers.ring_attention import ring_attention
from seqzoo.parallel import shards
from seqzoo.parallel.axes import constrain, target_platform

Implementation = Literal['auto', 'xla', 'splash', 'cudnn', 'ring']

# Below this many keys the scores are small, and neither a fused kernel nor a ring gains anything.
FUSED_FROM_LENGTH = 256


def dot_product_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    mask: jax.Array | None = None,
    query_segments: jax.Array | None = None,
    key_segments: jax.Array | None = None,
    causal: bool = False,
    band: int | None = None,
    implementation: Implementation = 'auto',
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Each query's mean of the values, weighted by how well it matches their keys.

    Args:
        query: `[batch, query_length, heads, key_dim]`.
        key: `[batch, key_length, heads, key_dim]`.
        value: `[batch, key_length, heads, value_dim]`.
        mask: boolean, broadcastable to `[batch, heads, query_length, key_length]`, `True` = attend.
        query_segments: `[batch, query_length]` packing ids; a query sees only the keys of its own
            segment.
        key_segments: `[batch, key_length]`, given together with `query_segments`.
        causal: query `i` sees the keys `0..i`.
        band: of these only the last so many, the key `i` among them; for causal self-attention.
            `'xla'` computes two bands of scores for a query, `'splash'` leaves out the blocks
            outside, `'cudnn'` computes and masks them. A ring is not taken: every device needs
            little of what the others hold, and gathers it.
        implementation: `'xla'`; `'splash'` (TPU) and `'cudnn'` (GPU, 16-bit) are fused and never
            form the weights; `'ring'` passes keys and values round the devices that split the
            length; `'auto'` takes the ring for long inputs that are split, else the fused kernel of
            the platform where it can do what is asked, else `'xla'`. Where nothing splits the
            length, `'ring'` is `'auto'`.
        dropout_rate: probability of dropping an attention weight; needs `'xla'` or `'ring'`.
        dropout_key: its random key; `None` drops nothing.

    Returns:
        `[batch, query_length, heads, value_dim]` in the dtype of `value`. A query that sees no key
        at all gets something finite and meaningless.

    Raises:
        ConfigError: a fused kernel was chosen for what it cannot do, or for another platform; or a
            ring for a length that the mesh does not divide.
        ValueError: only one side has segments, or a band is not causal.
    """
    if band is not None and not causal:
        raise ValueError('a band of keys is for causal self-attention')
    if (query_segments is None) != (key_segments is None):
        raise ValueError('query_segments and key_segments are given together or not at all')
    rate = 0.0 if dropout_key is None else dropout_rate
    chosen = choose_implementation(implementation, query, key, value, mask, rate, causal)
    if chosen == 'ring' and band is None:
        return ring_attention(
            query,
            key,
            value,
            mask=mask,
            query_segments=query_segments,
            key_segments=key_segments,
            causal=causal,
            dropout_rate=rate,
            dropout_key=dropout_key,
        )
    if shards.ways('length') > 1:
        query = constrain(query, 'batch', 'length', 'heads', 'kv')
        key, value = (constrain(x, 'batch', None, 'heads', 'kv') for x in (key, value))
    if chosen == 'splash':
        return attention_kernels.splash_attention(
            query, key, value, query_segments, key_segments, causal, band
        )
    short = band is None or keys_in_reach(key.shape[1], band) == key.shape[1]
    if band is not None and not short and chosen != 'cudnn' and mask is None:
        return banded_attention(
            query,
            key,
            value,
            band,
            segments=query_segments,
            dropout_rate=rate,
            dropout_key=dropout_key,
        )
    segments = None
    if query_segments is not None and key_segments is not None:
        segments = segment_mask(query_segments, key_segments)
    near = None if band is None else banded_mask(query.shape[1], key.shape[1], band)
    if chosen == 'cudnn':
        mask = combine_masks(mask, segments, near)
        return attention_kernels.cudnn_attention(query, key, value, mask, causal)
    visible = causal_mask(query.shape[1], key.shape[1]) if causal else None
    weights = attention_weights(query, key, combine_masks(mask, segments, visible, near))
    if rate > 0.0 and dropout_key is not None:
        weights = dropout(weights, rate, dropout_key)
    return weighted_values(weights, value)


def attention_weights(query: jax.Array, key: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Softmax of the scaled scores: `[batch, heads, query_length, key_length]` float32."""
    query = query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
    scores = jnp.einsum('bqhd,bkhd->bhqk', query, key, preferred_element_type=jnp.float32)
    if mask is not None:
        scores = jnp.where(mask, scores, MASKED)
    return jax.nn.softmax(scores, axis=-1)


def weighted_values(weights: jax.Array, value: jax.Array) -> jax.Array:
    """Weights as from `attention_weights` -> `[batch, query_length, heads, value_dim]`."""
    return jnp.einsum('bhqk,bkhd->bqhd', weights.astype(value.dtype), value)


def choose_implementation(
    implementation: Implementation,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    dropout_rate: float,
    causal: bool,
) -> Literal['xla', 'splash', 'cudnn', 'ring']:
    """The implementation that will run; never one that leaves out something that was asked for."""
    if implementation == 'xla':
        return 'xla'
    ways, lengths = shards.ways('length'), (query.shape[1], key.shape[1])
    even = not any(length % ways for length in lengths)
    if ways > 1 and implementation == 'auto':
        return 'ring' if even and key.shape[1] >= FUSED_FROM_LENGTH else 'xla'
    if ways > 1 and implementation == 'ring':
        if even:
            return 'ring'
        raise ConfigError(
            f'ring attention splits lengths over {ways} devices (mesh.sequence), which does not '
            f'divide {" and ".join(map(str, lengths))}: set --batch.length-multiple and '
            f'--batch.max-length to multiples of {ways}, or --model.attention-implementation auto'
        )
    implementation = 'auto' if implementation == 'ring' else implementation
    obstacles = {
        'splash': attention_kernels.splash_obstacle(mask, dropout_rate),
        'cudnn': attention_kernels.cudnn_obstacle(query, key, value, dropout_rate),
    }
    if implementation == 'auto':
        fused = {'tpu': 'splash', 'gpu': 'cudnn'}.get(target_platform())
        if fused is None or obstacles[fused] or key.shape[1] < FUSED_FROM_LENGTH:
            return 'xla'
        return 'splash' if fused == 'splash' else 'cudnn'
    if implementation not in obstacles:
        raise ConfigError(
            f'no attention implementation is called {implementation!r}; '
            "choose 'auto', 'xla', 'splash', 'cudnn' or 'ring'"
        )
    obstacle = obstacles[implementation] or attention_kernels.platform_obstacle(implementation)
    if obstacle:
        raise ConfigError(
            f"attention implementation {implementation!r} {obstacle}; choose 'xla' or 'auto'"
        )
    if causal and ways > 1:
        raise ConfigError(
            f'attention implementation {implementation!r} cannot be causal where {ways} devices '
            "(mesh.sequence) split the length; choose 'ring' or 'auto'"
        )
    return implementation
