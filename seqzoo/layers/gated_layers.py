"""Layers of convolutional encoder-decoders (Gehring et al. 2017): gated windows, steps that attend.

All are weight-normalised, and start so that variances stay as they are (section 3.5): a matrix of n
rows normal with standard deviation `sqrt((1 - p) / n)` behind dropout p, a window of k taps on n
channels below a gate, which halves, with `sqrt(4 (1 - p) / (k n))`.
"""

import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.layers.convolution import Rows, SequenceConvolution, glu
from seqzoo.layers.dropout import Dropout
from seqzoo.layers.masks import MASKED
from seqzoo.parallel.axes import constrain
from seqzoo.parallel.storage import padded, without_padding

HALF = math.sqrt(0.5)  # keeps the variance of a sum of two


@flax.struct.dataclass
class GatedMemory:
    """An encoded source.

    Attributes:
        keys, values: `[batch, source_length, embed]`.
        segments: `[batch, source_length]`, or `None`: every position is real.
    """

    keys: jax.Array
    values: jax.Array
    segments: jax.Array | None


def _start(gain: float) -> nn.initializers.Initializer:
    """Normal with variance `gain / fan in`; `[window, channels_in, channels_out]`."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.normal(key, shape, dtype) * math.sqrt(gain / (shape[0] * shape[1]))

    return init


class Projection(nn.Module):
    """A weight-normalised matrix.

    Attributes:
        features: columns.
        rate: the dropout before it, which decides how it starts.
        names: of the axes.
        dtype: of the computation.
    """

    features: int
    rate: float
    names: tuple[str, str]
    dtype: Any

    def setup(self) -> None:
        """Declares it, as a window of one."""
        self.matrix = SequenceConvolution(
            self.features,
            1,
            self.dtype,
            weight_norm=True,
            kernel_init=_start(1 - self.rate),
            names=self.names,
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[batch, length, channels]` -> `[batch, length, features]`."""
        return self.matrix(x)[0]


class GatedConvolution(nn.Module):
    """`GLU(conv(D(x)))` and the residual beside it.

    Attributes:
        features: channels that come out.
        window: taps.
        causal: whether the window lies behind a place.
        dropout_rate: of its input (D).
        dtype: of the computation.
    """

    features: int
    window: int
    causal: bool
    dropout_rate: float
    dtype: Any

    @nn.compact
    def __call__(
        self, x: jax.Array, rows: Rows | None, before: jax.Array | None, train: bool
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """`[batch, length, channels]` -> `[batch, length, features]` twice: what the convolution
        gives, and the residual; and the history.
        """
        residual, rate = x, self.dropout_rate
        if x.shape[-1] != self.features:
            names = ('embed', 'channels_out')
            residual = Projection(self.features, 0.0, names, self.dtype, name='residual')(x)
        convolution = SequenceConvolution(
            2 * self.features,
            self.window,
            self.dtype,
            causal=self.causal,
            weight_norm=True,
            kernel_init=_start(4 * (1 - rate)),
            names=('embed', 'channels_out'),
            name='convolution',
        )
        y, after = convolution(Dropout(rate)(x, train), rows, before)
        return glu(y), residual, after


class StepAttention(nn.Module):
    """The attention of one decoder layer; sows its weights, `[batch, 1, target, source]`.

    Attributes:
        embed_dim: width of the embeddings and of the memory.
        dtype: of the computation.
    """

    embed_dim: int
    dtype: Any

    @nn.compact
    def __call__(
        self, x: jax.Array, target: jax.Array, memory: GatedMemory, seen: jax.Array | None
    ) -> jax.Array:
        """What a layer has found, with the context in it.

        Args:
            x: `[batch, length, channels]`, from the convolution.
            target: `[batch, length, embed]`, the target's own embeddings.
            memory: the source.
            seen: boolean, broadcastable to `[batch, 1, length, source_length]`; `None`: all.
        """
        dtype = self.dtype
        query = Projection(self.embed_dim, 0.0, ('channels_out', 'embed'), dtype, name='query')(x)
        query = (query + target) * HALF
        scores = jnp.einsum('bqe,bke->bqk', query, memory.keys, preferred_element_type=jnp.float32)[
            :, None
        ]
        if seen is None:
            number = jnp.asarray(memory.keys.shape[1], jnp.float32)
        else:
            scores = jnp.where(seen, scores, MASKED)
            number = jnp.sum(seen, axis=-1)[:, 0, :, None].astype(jnp.float32)
        weights = jax.nn.softmax(scores, axis=-1)
        self.sow('intermediates', 'attention_weights', weights)
        context = jnp.einsum('bqk,bke->bqe', weights[:, 0].astype(dtype), memory.values)
        context *= jnp.sqrt(number).astype(dtype)
        output = Projection(x.shape[-1], 0.0, ('embed', 'channels_out'), dtype, name='output')
        return (output(context) + x) * HALF


class GatedDecoderLayer(nn.Module):
    """A causal convolution and an attention.

    Attributes:
        features: channels.
        window: taps.
        embed_dim: width of the embeddings and of the memory.
        dropout_rate: of what the convolution reads.
        dtype: of the computation.
    """

    features: int
    window: int
    embed_dim: int
    dropout_rate: float
    dtype: Any

    def setup(self) -> None:
        """Declares both."""
        self.convolution = GatedConvolution(
            self.features, self.window, True, self.dropout_rate, self.dtype
        )
        self.cross_attention = StepAttention(self.embed_dim, self.dtype)

    def __call__(
        self,
        x: jax.Array,
        target: jax.Array,
        memory: GatedMemory,
        seen: jax.Array | None,
        rows: Rows | None,
        before: jax.Array | None,
        train: bool,
    ) -> tuple[jax.Array, jax.Array | None]:
        """`[batch, length, channels]` -> `[batch, length, features]`, and the history."""
        y, residual, after = self.convolution(x, rows, before, train)
        x = (self.cross_attention(y, target, memory, seen) + residual) * HALF
        return constrain(x, 'batch', 'length', 'embed'), after


class NormalisedOutput(nn.Module):
    """The weight-normalised matrix before the softmax, stored padded.

    Attributes:
        vocab_size: columns.
        multiple: they are stored padded to a multiple of this.
        dropout_rate: of the features, which decides how it starts.
        dtype: of the product.
    """

    vocab_size: int
    multiple: int
    dropout_rate: float
    dtype: Any

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """`[..., embed]` -> `[..., vocab]` float32."""
        shape, multiple = (features.shape[-1], self.vocab_size), self.multiple
        start = nn.initializers.normal(math.sqrt((1 - self.dropout_rate) / shape[0]))
        init = padded(start, 'embed', 'vocab', axis=1, multiple=multiple)
        kernel = without_padding(self.param('kernel', init, shape, jnp.float32), shape)
        length = jnp.sqrt(jnp.sum(jnp.square(kernel), axis=0))
        init = padded(lambda *_: length, 'vocab', axis=0, multiple=multiple)
        scale = without_padding(self.param('scale', init, shape[1:], jnp.float32), shape[1:])
        kernel = (kernel * (scale / length)).astype(self.dtype)
        return jnp.einsum(
            '...e,ev->...v', features.astype(self.dtype), kernel, preferred_element_type=jnp.float32
        )
