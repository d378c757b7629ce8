"""Multi-head attention (Vaswani et al. 2017, section 3.2.2), at once or token by token."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.layers.attention import (
    Implementation,
    attention_weights,
    dot_product_attention,
    weighted_values,
)
from seqzoo.layers.dropout import dropout
from seqzoo.layers.linear import Linear
from seqzoo.layers.masks import MASKED, causal_mask, combine_masks, segment_mask
from seqzoo.parallel.axes import constrain


@flax.struct.dataclass
class KeysValues:
    """What decoding attends to: heads before time, so that a step reads it without a transpose.

    Attributes:
        keys: `[batch, heads, time, key_dim]`.
        values: `[batch, heads, time, value_dim]`.
    """

    keys: jax.Array
    values: jax.Array


class MultiHeadAttention(nn.Module):
    """`Concat(head_1, ..., head_h) W_O` with `head_i = Attention(x W_Q_i, m W_K_i, m W_V_i)`.

    When the collection `'intermediates'` is mutable, the weights `[batch, heads, query_length,
    key_length]` come out of it as `'attention_weights'`.

    Attributes:
        num_heads: heads.
        key_dim: width of queries and keys per head.
        value_dim: width of values per head.
        embed_dim: width of the result.
        use_bias: whether the four projections have biases; the paper has none.
        dropout_rate: dropout of attention weights; the paper has none.
        implementation: see `dot_product_attention`.
        dtype: dtype of the computation.
        kernel_init: how the four kernels start; `None`: Glorot uniform.
    """

    num_heads: int
    key_dim: int
    value_dim: int
    embed_dim: int
    use_bias: bool
    dropout_rate: float
    implementation: Implementation
    dtype: jnp.dtype
    kernel_init: nn.initializers.Initializer | None = None

    def setup(self) -> None:
        """Declares the projections."""
        options: Any = {'dtype': self.dtype, 'kernel_init': self.kernel_init}

        def heads(width: int) -> Linear:
            size, names = (self.num_heads, width), ('heads', 'kv')
            return Linear(size, ('embed',), names, self.use_bias, **options)

        self.query = heads(self.key_dim)
        self.key = heads(self.key_dim)
        self.value = heads(self.value_dim)
        self.output = Linear(
            (self.embed_dim,), ('heads', 'kv'), ('embed',), self.use_bias, **options
        )

    def __call__(
        self,
        x: jax.Array,
        memory: jax.Array,
        *,
        query_segments: jax.Array | None = None,
        key_segments: jax.Array | None = None,
        causal: bool = False,
        train: bool = False,
    ) -> jax.Array:
        """`x` `[batch, query_length, embed]` attends to `memory` `[batch, key_length, embed]`."""
        names = ('batch', 'length', 'heads', 'kv')
        query = constrain(self.query(x), *names)
        key = constrain(self.key(memory), *names)
        value = constrain(self.value(memory), *names)
        drop = train and self.dropout_rate > 0.0
        dropout_key = self.make_rng('dropout') if drop else None
        if self.is_mutable_collection('intermediates'):
            visible = causal_mask(x.shape[1], memory.shape[1]) if causal else None
            segments = None
            if query_segments is not None and key_segments is not None:
                segments = segment_mask(query_segments, key_segments)
            weights = attention_weights(query, key, combine_masks(segments, visible))
            self.sow('intermediates', 'attention_weights', weights)
            if dropout_key is not None:
                weights = dropout(weights, self.dropout_rate, dropout_key)
            result = weighted_values(weights, value)
        else:
            result = dot_product_attention(
                query,
                key,
                value,
                query_segments=query_segments,
                key_segments=key_segments,
                causal=causal,
                implementation=self.implementation,
                dropout_rate=self.dropout_rate,
                dropout_key=dropout_key,
            )
        return self.output(constrain(result, *names))

    def project(self, memory: jax.Array) -> KeysValues:
        """Keys and values of `memory` `[batch, time, embed]`, to `attend` to many times."""
        # [batch, time, heads, kv] -> [batch, heads, time, kv]
        return KeysValues(self.key(memory).swapaxes(1, 2), self.value(memory).swapaxes(1, 2))

    def empty_cache(self, batch: int, slots: int) -> KeysValues:
        """Room for the keys and values of `slots` tokens."""
        shape = (batch, self.num_heads, slots)
        return KeysValues(
            jnp.zeros((*shape, self.key_dim), self.dtype),
            jnp.zeros((*shape, self.value_dim), self.dtype),
        )

    def attend(self, x: jax.Array, memory: KeysValues, mask: jax.Array | None) -> jax.Array:
        """`x` `[batch, query_length, embed]` attends to projected memory under a boolean mask."""
        # The same mathematics as `dot_product_attention`, in the layout of the cache. The keys
        # stand on the left of their product: XLA on CPU takes three times as long for Q K^T.
        query = self.query(x).swapaxes(1, 2) * jnp.asarray(self.key_dim**-0.5, self.dtype)
        scores = jnp.einsum(
            'bhkd,bhqd->bhkq', memory.keys, query, preferred_element_type=jnp.float32
        )
        # The barrier keeps XLA from turning the product around again.
        scores = jax.lax.optimization_barrier(scores).swapaxes(2, 3)
        if mask is not None:
            scores = jnp.where(mask, scores, MASKED)
        weights = jax.nn.softmax(scores, axis=-1)
        self.sow('intermediates', 'attention_weights', weights)
        result = jnp.einsum('bhqk,bhkd->bhqd', weights.astype(self.dtype), memory.values)
        return self.output(result.swapaxes(1, 2))

    def extend(
        self, x: jax.Array, cache: KeysValues, slot: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, KeysValues]:
        """Writes keys and values of `x` into slots `slot..slot + n - 1`, then attends.

        Args:
            x: `[batch, n, embed]`, new tokens.
            cache: earlier tokens; written in place where the caller donates it.
            slot: int32 scalar, the first free slot.
            mask: what the new tokens see of all slots, `[batch or 1, 1, n, slots]`.
        """
        new = self.project(x)
        start = (0, 0, slot, 0)
        cache = KeysValues(
            jax.lax.dynamic_update_slice(cache.keys, new.keys, start),
            jax.lax.dynamic_update_slice(cache.values, new.values, start),
        )
        return self.attend(x, cache, mask), cache
