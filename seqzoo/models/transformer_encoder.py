"""The encoder of the Transformer (Vaswani et al. 2017) over any kind of input: below a head of
`models.labeler` it classifies, tags or regresses, as the recurrent and convolutional encoders do.

    x_t = what stands at position t, scaled to the width     `layers.inputs`
    x   = Dropout(x + sinusoids)
    x   = layers of self-attention and feed-forward          `layers.transformer_layers`
    pooled = the mean of x over the sequence, or, where it reads forward, its last position

With `direction='forward'` a position sees itself and what stands before it, so that the encoder can
answer step by step like a recurrent network.

Deviations from the paper's encoder: pre-norm by default (Xiong et al. 2020), which small models
trained from scratch on a few thousand updates need; numbers, and tables of another width, go
through a matrix to the width of the stream.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.configuration.checks import check_rates, check_sizes
from seqzoo.layers.attention import Implementation
from seqzoo.layers.checks import check_attention_dropout, check_heads
from seqzoo.layers.dropout import Dropout
from seqzoo.layers.feedforward import Activation
from seqzoo.layers.inputs import Inputs, Tokens, embed
from seqzoo.layers.linear import Linear
from seqzoo.layers.normalization import LayerNorm
from seqzoo.layers.positions import positions_in_segments, sinusoids
from seqzoo.layers.stack import Remat, Stack
from seqzoo.layers.transformer_layers import CausalLayer, Context, EncoderLayer, LayerConfig, Norm
from seqzoo.models.base import EncoderConfig, EncoderOutput
from seqzoo.models.flops import Flops, attention_layer_flops, inputs_flops, matmul_flops
from seqzoo.parallel.axes import constrain


@dataclass(frozen=True, kw_only=True)
class TransformerEncoderConfig(EncoderConfig):
    """Hyperparameters of the encoder.

    Attributes:
        inputs: what it reads.
        direction: whether a position sees `'both'` sides, or reads `'forward'`.
        num_layers: depth.
        embed_dim: width of the residual stream.
        mlp_dim: hidden width of the feed-forward layers; `None` is four times `embed_dim`.
        num_heads: attention heads.
        dropout_rate: on each sublayer's output and on what enters the layers.
        attention_dropout_rate: of attention weights.
        norm: `'pre'` with a norm behind the last layer, or `'post'`.
        norm_epsilon: added to the variance in layer normalisation.
        mlp_activation: non-linearity of the feed-forward layers.
        scan_layers: run the layers as a loop or unrolled; the parameters are the same.
        remat: what the backward pass computes again: nothing, everything in a layer, or all but its
            matrix products (`'dots'`).
        attention_implementation: see `layers.attention`.
    """

    inputs: Inputs = field(default_factory=Tokens)
    direction: Literal['both', 'forward'] = 'both'
    num_layers: int = 4
    embed_dim: int = 128
    mlp_dim: int | None = None
    num_heads: int = 4
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.0
    norm: Norm = 'pre'
    norm_epsilon: float = 1e-6
    mlp_activation: Activation = 'relu'
    scan_layers: bool = True
    remat: Remat = 'none'
    attention_implementation: Implementation = 'auto'

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        check_sizes(self, 'num_layers', 'embed_dim', 'num_heads', 'mlp_dim')
        check_sizes(self, 'norm_epsilon', least=0)
        check_rates(self, 'dropout_rate', 'attention_dropout_rate')
        check_heads(self)
        check_attention_dropout(self)

    @property
    def features_dim(self) -> int:
        """The width of the residual stream."""
        return self.embed_dim

    @property
    def causal(self) -> bool:
        """Whether it reads forward."""
        return self.direction == 'forward'

    def build(self) -> 'TransformerEncoder':
        """The module. Raises `ConfigError` while a size of the inputs is open."""
        return TransformerEncoder(self)

    def layer(self) -> LayerConfig:
        """What concerns a single layer."""
        head_dim = self.embed_dim // self.num_heads
        return LayerConfig(
            embed_dim=self.embed_dim,
            mlp_dim=self.mlp_dim or 4 * self.embed_dim,
            num_heads=self.num_heads,
            key_dim=head_dim,
            value_dim=head_dim,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            mlp_dropout_rate=0.0,
            norm=self.norm,
            norm_epsilon=self.norm_epsilon,
            attention_bias=False,
            mlp_activation=self.mlp_activation,
            dtype=jnp.dtype(self.dtype),
            attention_implementation=self.attention_implementation,
        )

    @classmethod
    def tiny(cls) -> Self:
        """Two layers, 16 wide, reading forward."""
        inputs = Tokens(vocab_size=16, embed_dim=8)
        return cls(inputs=inputs, direction='forward', num_layers=2, embed_dim=16, num_heads=2)

    def example_inputs(self, batch: int = 2, length: int = 8) -> tuple[Any, ...]:
        """What `inputs` reads."""
        return (self.inputs.example(batch, length),)

    def flops(self, batch: int, length: int) -> Flops:
        """What reads the input, and the layers, all pairs of positions computed."""
        tokens, width = batch * length, self.inputs.output_dim
        total = inputs_flops(self.inputs, tokens=tokens)
        if width != self.embed_dim:
            total += Flops(embedding=matmul_flops(tokens, self.embed_dim, width))
        layer = attention_layer_flops(self.layer(), batch=batch, length=length)
        return total + self.num_layers * layer


class TransformerEncoder(nn.Module):
    """The network, a `models.base.Encoder`. `TransformerEncoderConfig(...).build()` makes it."""

    config: TransformerEncoderConfig

    def setup(self) -> None:
        """Declares what reads the input, and the layers."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        self.reader = c.inputs.build(dtype)
        if c.inputs.output_dim != c.embed_dim:
            self.projection = Linear((c.embed_dim,), ('hidden',), ('embed',), True, dtype)
        self.dropout = Dropout(c.dropout_rate)
        kind = CausalLayer if c.causal else EncoderLayer
        self.stack = Stack(kind(c.layer()), c.num_layers, c.scan_layers, c.remat)
        if c.norm == 'pre':
            self.norm = LayerNorm(c.norm_epsilon)

    def __call__(
        self, inputs: Any, *, segments: jax.Array | None = None, train: bool = False
    ) -> EncoderOutput:
        """Features of every position, and a vector of the sequence.

        Args:
            inputs: as `config.inputs` says.
            segments: `[batch, length]`: 1, 2, ... for packed sequences, 0 for padding; `None`: all
                real.
            train: whether dropout is on (it draws from the `'dropout'` stream).
        """
        c = self.config
        x = embed(self.reader, inputs, segments, train)
        if c.inputs.output_dim != c.embed_dim:
            x = self.projection(x)
        real = jnp.ones(x.shape[:2], jnp.int32) if segments is None else segments
        where = sinusoids(positions_in_segments(real), c.embed_dim)
        x = self.dropout(x + where.astype(x.dtype), train)
        x = self.stack(constrain(x, 'batch', 'length', 'embed'), Context(segments, train=train))
        x = self.norm(x) if c.norm == 'pre' else x
        x = jnp.where(real[..., None] > 0, x, 0)
        return EncoderOutput(features=x, pooled=self._pool(x, real > 0))

    def _pool(self, x: jax.Array, real: jax.Array) -> jax.Array:
        """`[batch, length, embed]`, zero at padding -> `[batch, embed]`."""
        if self.config.causal:
            last = jnp.max(jnp.where(real, jnp.arange(x.shape[1]), 0), axis=1)
            return jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
        number = jnp.maximum(jnp.sum(real, axis=1), 1)[:, None]
        return (jnp.sum(x.astype(jnp.float32), axis=1) / number).astype(x.dtype)
