"""Layers of Transformers: attention and feed-forward layers inside residual connections.

With post-norm (Vaswani et al. 2017, section 5.4) every sublayer computes

    x <- LayerNorm(x + Dropout(Sublayer(x)))

and with pre-norm (Xiong et al. 2020, arXiv:2002.04745), which trains without warm-up and deeper,

    x <- x + Dropout(Sublayer(LayerNorm(x)))

or, with both sublayers of a pre-norm layer in parallel (Wang and Komatsuzaki 2021, GPT-J),

    x <- x + Dropout(Attention(LayerNorm_1(x))) + Dropout(FeedForward(LayerNorm_2(x)))
"""

from dataclasses import dataclass
from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.layers.attention import Implementation
from seqzoo.layers.dropout import Dropout
from seqzoo.layers.feedforward import Activation, FeedForward
from seqzoo.layers.multi_head_attention import KeysValues, MultiHeadAttention
from seqzoo.layers.normalization import LayerNorm
from seqzoo.layers.positions import Rotary
from seqzoo.parallel.axes import constrain

Norm = Literal['post', 'pre']


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """Hyperparameters of one layer. A model's configuration documents them and fills them in.

    Attributes:
        embed_dim: width of the residual stream.
        mlp_dim: hidden width of the feed-forward layer.
        num_heads: attention heads.
        key_dim: width of queries and keys per head.
        value_dim: width of values per head.
        dropout_rate: dropout on each sublayer's output.
        attention_dropout_rate: dropout of attention weights.
        mlp_dropout_rate: dropout of the hidden feed-forward units.
        norm: `'post'` normalises after each residual sum, `'pre'` before each sublayer.
        norm_epsilon: added to the variance in layer normalisation.
        attention_bias: biases in the four attention projections.
        mlp_activation: non-linearity of the feed-forward layer.
        dtype: dtype of activations.
        attention_implementation: see `dot_product_attention`.
        mlp_bias: biases in the feed-forward layer.
        norm_bias: biases in layer normalisation.
        kernel_init: how kernels start; `None`: Glorot uniform.
        output_init: how those start whose products enter the residual stream; `None`: alike.
        parallel_residual: both sublayers of a causal layer read the same stream; needs `'pre'`.
        rotary: position embedding of queries and keys in causal layers.
        band: how many keys a query of a causal layer sees; `None`: all before it.
    """

    embed_dim: int
    mlp_dim: int
    num_heads: int
    key_dim: int
    value_dim: int
    dropout_rate: float
    attention_dropout_rate: float
    mlp_dropout_rate: float
    norm: Norm
    norm_epsilon: float
    attention_bias: bool
    mlp_activation: Activation
    dtype: jnp.dtype
    attention_implementation: Implementation
    mlp_bias: bool = True
    norm_bias: bool = True
    kernel_init: nn.initializers.Initializer | None = None
    output_init: nn.initializers.Initializer | None = None
    parallel_residual: bool = False
    rotary: Rotary | None = None
    band: int | None = None


@flax.struct.dataclass
class Context:
    """What every layer of a stack is given besides the stream it transforms.

    Attributes:
        segments: `[batch, length]` of the stream, or `None`: every position is real.
        memory: decoder only: `[batch, source_length, embed]`, the encoder's output.
        memory_segments: `[batch, source_length]`, or `None`.
        positions: `[batch or 1, length]` of the stream, for rotary embeddings.
        train: whether dropout is on.
    """

    segments: jax.Array | None = None
    memory: jax.Array | None = None
    memory_segments: jax.Array | None = None
    positions: jax.Array | None = None
    train: bool = flax.struct.field(pytree_node=False, default=False)


class Residual(nn.Module):
    """One residual connection around a sublayer, pre-norm or post-norm.

    Use: `update = sublayer(residual.read(x))`, then `x = residual.write(x, update, train)`.
    """

    config: LayerConfig

    def setup(self) -> None:
        """Declares the sublayers."""
        self.layer_norm = LayerNorm(self.config.norm_epsilon, self.config.norm_bias)
        self.dropout = Dropout(self.config.dropout_rate)

    def read(self, x: jax.Array) -> jax.Array:
        """What the sublayer sees of the stream."""
        return self.layer_norm(x) if self.config.norm == 'pre' else x

    def write(self, x: jax.Array, update: jax.Array, train: bool = False) -> jax.Array:
        """The stream after the sublayer."""
        x = x + self.dropout(update, train)
        x = self.layer_norm(x) if self.config.norm == 'post' else x
        return constrain(x, 'batch', 'length', 'embed')


class SelfAttentionLayer(nn.Module):
    """What layers of self-attention and a feed-forward layer share."""

    config: LayerConfig

    def setup(self) -> None:
        """Declares the sublayers."""
        self.self_attention = _attention(self.config)
        self.self_attention_residual = Residual(self.config)
        self.feed_forward = _feed_forward(self.config)
        self.feed_forward_residual = Residual(self.config)

    def _finish(self, x: jax.Array, attended: jax.Array, train: bool = False) -> jax.Array:
        """The stream after both sublayers."""
        if self.config.parallel_residual:
            h = self.feed_forward(self.feed_forward_residual.read(x), train)
            x = self.self_attention_residual.write(x, attended, train)
        else:
            x = self.self_attention_residual.write(x, attended, train)
            h = self.feed_forward(self.feed_forward_residual.read(x), train)
        return self.feed_forward_residual.write(x, h, train)


class EncoderLayer(SelfAttentionLayer):
    """Self-attention and a feed-forward layer."""

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """`[batch, length, embed]` to the same shape."""
        h = self.self_attention_residual.read(x)
        h = self.self_attention(
            h,
            h,
            query_segments=context.segments,
            key_segments=context.segments,
            train=context.train,
        )
        return self._finish(x, h, context.train)


class CausalLayer(SelfAttentionLayer):
    """Causal self-attention and a feed-forward layer, one after the other or in parallel."""

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """`[batch, length, embed]` to the same shape."""
        h = self.self_attention_residual.read(x)
        h = self.self_attention(
            h,
            h,
            query_segments=context.segments,
            key_segments=context.segments,
            causal=True,
            positions=context.positions,
            train=context.train,
        )
        return self._finish(x, h, context.train)

    def empty_cache(self, batch: int, slots: int) -> KeysValues:
        """Room for `slots` tokens."""
        return self.self_attention.empty_cache(batch, slots)

    def extend(
        self,
        x: jax.Array,
        cache: KeysValues,
        slot: jax.Array,
        mask: jax.Array,
        positions: jax.Array,
        lengths: jax.Array | None = None,
    ) -> tuple[jax.Array, KeysValues]:
        """`[batch, n, embed]` new tokens; see `MultiHeadAttention.extend`."""
        h = self.self_attention_residual.read(x)
        h, cache = self.self_attention.extend(
            h, cache, slot, mask, positions=positions, lengths=lengths
        )
        return self._finish(x, h), cache


class LayerGroup(nn.Module):
    """Layers of several kinds that a stack repeats together, such as dense and banded in turn.

    Attributes:
        layers: the kinds, in their order.
    """

    layers: tuple[nn.Module, ...]

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """`[batch, length, embed]` to the same shape."""
        for layer in self.layers:
            x = layer(x, context)  # pyright: ignore[reportCallIssue]
        return x


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the memory, and a feed-forward layer."""

    config: LayerConfig

    def setup(self) -> None:
        """Declares the sublayers."""
        self.self_attention = _attention(self.config)
        self.self_attention_residual = Residual(self.config)
        self.cross_attention = _attention(self.config)
        self.cross_attention_residual = Residual(self.config)
        self.feed_forward = _feed_forward(self.config)
        self.feed_forward_residual = Residual(self.config)

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """`[batch, length, embed]` to the same shape, the whole target at once."""
        h = self.self_attention_residual.read(x)
        h = self.self_attention(
            h,
            h,
            query_segments=context.segments,
            key_segments=context.segments,
            causal=True,
            train=context.train,
        )
        x = self.self_attention_residual.write(x, h, context.train)
        assert context.memory is not None
        h = self.cross_attention(
            self.cross_attention_residual.read(x),
            context.memory,
            query_segments=None if context.memory_segments is None else context.segments,
            key_segments=context.memory_segments,
            train=context.train,
        )
        x = self.cross_attention_residual.write(x, h, context.train)
        h = self.feed_forward(self.feed_forward_residual.read(x), context.train)
        return self.feed_forward_residual.write(x, h, context.train)

    def project_memory(self, features: jax.Array) -> KeysValues:
        """Keys and values of the encoder's output, for `extend`."""
        return self.cross_attention.project(features)

    def empty_cache(self, batch: int, slots: int) -> KeysValues:
        """Room for `slots` decoded tokens."""
        return self.self_attention.empty_cache(batch, slots)

    def extend(
        self,
        x: jax.Array,
        memory: KeysValues,
        memory_mask: jax.Array | None,
        cache: KeysValues,
        slot: jax.Array,
        mask: jax.Array,
    ) -> tuple[jax.Array, KeysValues]:
        """`[batch, n, embed]` new tokens; `mask` says what they see of the cache."""
        h = self.self_attention_residual.read(x)
        h, cache = self.self_attention.extend(h, cache, slot, mask)
        x = self.self_attention_residual.write(x, h)
        h = self.cross_attention_residual.read(x)
        h = self.cross_attention.attend(h, memory, memory_mask)
        x = self.cross_attention_residual.write(x, h)
        h = self.feed_forward(self.feed_forward_residual.read(x))
        return self.feed_forward_residual.write(x, h), cache


def _attention(c: LayerConfig) -> MultiHeadAttention:
    return MultiHeadAttention(
        num_heads=c.num_heads,
        key_dim=c.key_dim,
        value_dim=c.value_dim,
        embed_dim=c.embed_dim,
        use_bias=c.attention_bias,
        dropout_rate=c.attention_dropout_rate,
        implementation=c.attention_implementation,
        dtype=c.dtype,
        rotary=c.rotary,
        band=c.band,
        kernel_init=c.kernel_init,
        output_init=c.output_init or c.kernel_init,
    )


def _feed_forward(c: LayerConfig) -> FeedForward:
    return FeedForward(
        c.mlp_dim,
        c.mlp_activation,
        c.mlp_dropout_rate,
        c.dtype,
        use_bias=c.mlp_bias,
        kernel_init=c.kernel_init,
        output_init=c.output_init or c.kernel_init,
    )
