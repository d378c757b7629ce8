"""Multi-head attention (Vaswani et al. 2017, section 3.2.2), at once or token by token."""

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
from seqzoo.layers.masks import (
    MASKED,
    banded_mask,
    causal_mask,
    combine_masks,
    segment_mask,
)
from seqzoo.layers.positions import Rotary
from seqzoo.parallel.axes import constrain


@flax.struct.dataclass
class KeysValues:
    """What decoding attends to: heads before time, so that a step reads it without a transpose.

    A single row may lack its axis (`without_row`). XLA on CPU leaves that axis out of the products,
    and then keeps what it writes in two shapes and copies it at every step.

    Attributes:
        keys: `[batch, heads, time, key_dim]`.
        values: `[batch, heads, time, value_dim]`.
    """

    keys: jax.Array
    values: jax.Array

    @property
    def has_rows(self) -> bool:
        """Whether there is an axis `batch`."""
        return self.keys.ndim == 4

    def without_row(self) -> 'KeysValues':
        """The only row, without its axis."""
        return KeysValues(self.keys[0], self.values[0])


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
        rotary: turns queries and keys by their positions; `None`: not.
        band: how many keys a query of causal self-attention sees; `None`: all before it.
        kernel_init, output_init: how the kernels of the heads and of the output start, where not
            Glorot uniform.
    """

    num_heads: int
    key_dim: int
    value_dim: int
    embed_dim: int
    use_bias: bool
    dropout_rate: float
    implementation: Implementation
    dtype: jnp.dtype
    rotary: Rotary | None = None
    band: int | None = None
    kernel_init: nn.initializers.Initializer | None = None
    output_init: nn.initializers.Initializer | None = None

    def setup(self) -> None:
        """Declares the projections."""

        def heads(width: int) -> Linear:
            return Linear(
                (self.num_heads, width),
                ('embed',),
                ('heads', 'kv'),
                self.use_bias,
                self.dtype,
                kernel_init=self.kernel_init,
            )

        self.query = heads(self.key_dim)
        self.key = heads(self.key_dim)
        self.value = heads(self.value_dim)
        self.output = Linear(
            (self.embed_dim,),
            ('heads', 'kv'),
            ('embed',),
            self.use_bias,
            self.dtype,
            kernel_init=self.output_init,
        )

    def __call__(
        self,
        x: jax.Array,
        memory: jax.Array,
        *,
        query_segments: jax.Array | None = None,
        key_segments: jax.Array | None = None,
        causal: bool = False,
        positions: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """`x` `[batch, query_length, embed]` attends to `memory` `[batch, key_length, embed]`.

        `positions` `[batch or 1, length]` are those of both, for a rotary embedding.
        """
        names = ('batch', 'length', 'heads', 'kv')
        query = constrain(self._turned(self.query(x), positions), *names)
        key = constrain(self._turned(self.key(memory), positions), *names)
        value = constrain(self.value(memory), *names)
        drop = train and self.dropout_rate > 0.0
        dropout_key = self.make_rng('dropout') if drop else None
        if self.is_mutable_collection('intermediates'):
            visible, near = causal_mask(x.shape[1], memory.shape[1]) if causal else None, None
            if self.band is not None:
                near = banded_mask(x.shape[1], memory.shape[1], self.band)
            segments = None
            if query_segments is not None and key_segments is not None:
                segments = segment_mask(query_segments, key_segments)
            weights = attention_weights(query, key, combine_masks(segments, visible, near))
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
                band=self.band,
                implementation=self.implementation,
                dropout_rate=self.dropout_rate,
                dropout_key=dropout_key,
            )
        return self.output(constrain(result, *names))

    def _turned(self, x: jax.Array, positions: jax.Array | None) -> jax.Array:
        if self.rotary is None:
            return x
        assert positions is not None
        return self.rotary(x, positions)

    def project(self, memory: jax.Array, positions: jax.Array | None = None) -> KeysValues:
        """Keys and values of `memory` `[batch, time, embed]`, to `attend` to many times."""
        key = self._turned(self.key(memory), positions)
        # [batch, time, heads, kv] -> [batch, heads, time, kv]
        return KeysValues(key.swapaxes(1, 2), self.value(memory).swapaxes(1, 2))

    def empty_cache(self, batch: int, slots: int) -> KeysValues:
        """Room for the keys and values of `slots` tokens."""
        shape = (batch, self.num_heads, slots)
        return KeysValues(
            jnp.zeros((*shape, self.key_dim), self.dtype),
            jnp.zeros((*shape, self.value_dim), self.dtype),
        )

    def attend(
        self,
        x: jax.Array,
        memory: KeysValues,
        mask: jax.Array | None,
        positions: jax.Array | None = None,
    ) -> jax.Array:
        """`x` `[batch, query_length, embed]` attends to projected memory under a boolean mask."""
        # The same mathematics as `dot_product_attention`, in the layout of the cache. The keys
        # stand on the left of their product: XLA on CPU takes three times as long for Q K^T.
        query = self._turned(self.query(x), positions).swapaxes(1, 2)
        query *= jnp.asarray(self.key_dim**-0.5, self.dtype)
        query = query if memory.has_rows else query[0]
        scores = jnp.einsum(
            '...hkd,...hqd->...hkq', memory.keys, query, preferred_element_type=jnp.float32
        )
        # The barrier keeps XLA from turning the product around again.
        scores = jax.lax.optimization_barrier(scores).swapaxes(-1, -2)
        if mask is not None:
            scores = jnp.where(mask if memory.has_rows else mask[0], scores, MASKED)
        weights = jax.nn.softmax(scores, axis=-1)
        self.sow(
            'intermediates', 'attention_weights', weights if memory.has_rows else weights[None]
        )
        result = jnp.einsum('...hqk,...hkd->...hqd', weights.astype(self.dtype), memory.values)
        return self.output((result if memory.has_rows else result[None]).swapaxes(1, 2))

    def extend(
        self,
        x: jax.Array,
        cache: KeysValues,
        slot: jax.Array,
        mask: jax.Array,
        *,
        positions: jax.Array | None = None,
        lengths: jax.Array | None = None,
    ) -> tuple[jax.Array, KeysValues]:
        """Writes keys and values of `x` into slots `slot..slot + n - 1`, then attends.

        Args:
            x: `[batch, n, embed]`, new tokens.
            cache: earlier tokens; written in place where the caller donates it.
            slot: int32, the first free slot: a scalar, or `[batch]` where rows differ.
            mask: what the new tokens see of all slots, `[batch or 1, 1, n, slots]`.
            positions: `[batch or 1, n]` of the new tokens, for a rotary embedding.
            lengths: `[batch]`, how many of the new tokens each row keeps; with such slots.
        """
        new = self.project(x, positions)
        if slot.ndim == 0:
            start = (0, 0, slot, 0)
            if not cache.has_rows:
                new, start = new.without_row(), start[1:]
            cache = KeysValues(
                jax.lax.dynamic_update_slice(cache.keys, new.keys, start),
                jax.lax.dynamic_update_slice(cache.values, new.values, start),
            )
        else:
            assert lengths is not None
            cache = jax.tree.map(lambda old, own: _write_rows(old, own, slot, lengths), cache, new)
        return self.attend(x, cache, mask, positions), cache


def _write_rows(
    cache: jax.Array, new: jax.Array, slots: jax.Array, lengths: jax.Array
) -> jax.Array:
    """`cache` with the first `lengths` of `new` `[batch, heads, n, kv]` in each row's own slots."""
    n, room = new.shape[2], cache.shape[2]
    if n == 1:  # in place
        rows = jnp.arange(cache.shape[0])
        here = jnp.where(lengths > 0, slots, room)  # outside: nothing is written
        return cache.at[rows, :, here].set(new[:, :, 0], mode='drop')
    # A prompt: one pass over the cache, where a scatter would write token by token.
    number = jnp.arange(room, dtype=jnp.int32) - slots[:, None]  # [batch, room], of the new token
    taken = jnp.take_along_axis(new, jnp.clip(number, 0, n - 1)[:, None, :, None], axis=2)
    is_new = (number >= 0) & (number < lengths[:, None])
    return jnp.where(is_new[:, None, :, None], taken, cache)
