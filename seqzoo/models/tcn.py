"""The temporal convolutional network (Bai, Kolter, Koltun 2018, arXiv:1803.01271).

A residual block of dilation d has two causal convolutions, weight-normalised, in it:

    z = D(relu(W_1 *_d x + b_1))
    z = D(relu(W_2 *_d z + b_2))
    block(x) = relu(x' + z)        x' = x, or x through a 1x1 convolution where the widths differ

D drops whole channels, the same at every step. Block i (from 0) has dilation 2^i, so that n blocks
with windows of k see `1 + 2 (k - 1) (2^n - 1)` steps. As a language model (section 4.3) the network
stands on a table of embeddings, which may be the matrix before the softmax too.

Deviations. The authors' code sets all kernels to normal numbers of standard deviation 0.01, but its
weight normalisation computes them again from what they started as, uniform within
`1 / sqrt(fan in)`; so do ours, and the 1x1 convolutions, which have no such normalisation, do start
at 0.01. Biases start at zero. The paper says that its dropout is spatial, as here; its code drops
single numbers (`spatial_dropout=False`). The authors judge language models on overlapping
windows of which only the second half counts; here the past goes from batch to batch as histories
of the convolutions, and every token sees as far back as the network can.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.configuration.checks import check_rates, check_sizes
from seqzoo.layers.convolution import Rows, SequenceConvolution, history, rows_of
from seqzoo.layers.embedding import Embedding, logit_bias
from seqzoo.layers.inputs import Inputs, Tokens, embed
from seqzoo.layers.linear import Linear
from seqzoo.layers.recurrent_cells import uniform
from seqzoo.layers.recurrent_dropout import drop_features, embedding_dropout
from seqzoo.models.base import ConfigError, EncoderConfig, EncoderOutput, ModelConfig
from seqzoo.models.convolutional_lm import ConvolutionalLM
from seqzoo.models.flops import Flops, inputs_flops, logits_flops, matmul_flops
from seqzoo.parallel.axes import constrain

_START = nn.initializers.normal(0.01)


@dataclass(frozen=True, kw_only=True)
class TCNLayers:
    """The residual blocks; the defaults are those for sequential MNIST.

    Attributes:
        num_layers: blocks (n); block i has dilation 2^i.
        hidden_dim: channels.
        output_dim: channels of the last block; `None`: `hidden_dim`.
        window: taps of each convolution (k).
        dropout_rate: behind each convolution.
        spatial_dropout: drop whole channels, as the paper has it, not single numbers.
    """

    num_layers: int = 8
    hidden_dim: int = 25
    output_dim: int | None = None
    window: int = 7
    dropout_rate: float = 0.0
    spatial_dropout: bool = True

    def __post_init__(self) -> None:
        """Checks the values."""
        for name, least in (('num_layers', 1), ('hidden_dim', 1), ('window', 2)):
            if getattr(self, name) < least:
                raise ConfigError(f'{name} is {getattr(self, name)}: give at least {least}')
        check_sizes(self, 'output_dim')
        check_rates(self, 'dropout_rate')

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each block."""
        return (self.hidden_dim,) * (self.num_layers - 1) + (self.output_dim or self.hidden_dim,)

    @property
    def receptive_field(self) -> int:
        """How many steps, its own included, an output depends on."""
        return 1 + 2 * (self.window - 1) * (2**self.num_layers - 1)

    def histories(self, batch: int, input_dim: int, dtype: Any) -> tuple[Any, ...]:
        """Zeros for both convolutions of each block."""
        found, width = [], input_dim
        for i, following in enumerate(self.widths):
            widths = (width, following)
            found.append(tuple(history(batch, self.window, 2**i, w, dtype) for w in widths))
            width = following
        return tuple(found)

    def flops(self, tokens: int, input_dim: int) -> Flops:
        """Both convolutions of each block, and the 1x1 where there is one."""
        total, width = 0, input_dim
        for following in self.widths:
            total += matmul_flops(tokens, following, self.window * (width + following))
            total += matmul_flops(tokens, following, width) if width != following else 0
            width = following
        return Flops(convolution=total)


class TemporalBlock(nn.Module):
    """One residual block.

    Attributes:
        layers: windows and dropout.
        features: channels that come out.
        dilation: of both convolutions.
        dtype: of the computation.
    """

    layers: TCNLayers
    features: int
    dilation: int
    dtype: Any

    @nn.compact
    def __call__(
        self, x: jax.Array, rows: Rows | None, before: tuple[Any, Any], train: bool
    ) -> tuple[jax.Array, tuple[Any, Any]]:
        """`[batch, length, channels]` -> `[batch, length, features]`, and both histories."""
        c, z, after = self.layers, x, []
        for i, past in enumerate(before):
            convolution = SequenceConvolution(
                self.features,
                c.window,
                self.dtype,
                dilation=self.dilation,
                weight_norm=True,
                kernel_init=uniform(1 / math.sqrt(c.window * z.shape[-1])),
                names=('channels_in', 'embed'),
                name=f'convolution_{i}',
            )
            z, latest = convolution(z, rows, past)
            z = nn.relu(z)
            if train and c.dropout_rate:
                key = self.make_rng('dropout')
                z = drop_features(z, c.dropout_rate, key, variational=c.spatial_dropout)
            after.append(latest)
        if x.shape[-1] != self.features:
            names, out = ('channels_in',), ('embed',)
            x = Linear(
                (self.features,), names, out, True, self.dtype, kernel_init=_START, name='residual'
            )(x)
        x = nn.relu(x + z)
        return constrain(x, 'batch', 'length', 'embed'), (after[0], after[1])


class TemporalStack(nn.Module):
    """The blocks on top of each other.

    Attributes:
        layers: their sizes.
        dtype: of the computation.
    """

    layers: TCNLayers
    dtype: Any

    @nn.compact
    def __call__(
        self, x: jax.Array, rows: Rows | None, before: tuple[Any, ...] | None, train: bool
    ) -> tuple[jax.Array, tuple[Any, ...]]:
        """`[batch, length, channels]` -> `[batch, length, features]`, and all histories."""
        after = []
        for i, width in enumerate(self.layers.widths):
            block = TemporalBlock(self.layers, width, 2**i, self.dtype, name=f'block_{i}')
            x, latest = block(x, rows, (None, None) if before is None else before[i], train)
            after.append(latest)
        return x if rows is None else rows.clear(x), tuple(after)


@dataclass(frozen=True, kw_only=True)
class TCNEncoderConfig(EncoderConfig):
    """Hyperparameters of a TCN as an encoder, below a head.

    Attributes:
        inputs: what it reads.
        layers: the blocks.
    """

    packs = True
    stacks = False  # every block has another dilation, the first another shape

    inputs: Inputs = field(default_factory=Tokens)
    layers: TCNLayers = field(default_factory=TCNLayers)

    @property
    def features_dim(self) -> int:
        """How wide the last block is."""
        return self.layers.widths[-1]

    @property
    def causal(self) -> bool:
        """Always."""
        return True

    def build(self) -> 'TCNEncoder':
        """The module. Raises `ConfigError` while a size of the inputs is open."""
        return TCNEncoder(self)

    @classmethod
    def tiny(cls) -> Self:
        """A block with a window of 3, 8 wide."""
        layers = TCNLayers(num_layers=1, hidden_dim=8, window=3, dropout_rate=0.2)
        return cls(inputs=Tokens(vocab_size=16, embed_dim=6), layers=layers)

    def example_inputs(self, batch: int = 2, length: int = 8) -> tuple[jax.Array, ...]:
        """What `inputs` reads."""
        return (self.inputs.example(batch, length),)

    def flops(self, batch: int, length: int) -> Flops:
        """What reads the input, and the blocks."""
        tokens = batch * length
        layers = self.layers.flops(tokens, self.inputs.output_dim)
        return inputs_flops(self.inputs, tokens=tokens) + layers


class TCNEncoder(nn.Module):
    """The network, a `models.base.Encoder`. `TCNEncoderConfig(...).build()` makes it."""

    config: TCNEncoderConfig

    def setup(self) -> None:
        """Declares what reads the input, and the blocks."""
        dtype = jnp.dtype(self.config.dtype)
        self.reader = self.config.inputs.build(dtype)
        self.stack = TemporalStack(self.config.layers, dtype)

    def __call__(
        self, inputs: jax.Array, *, segments: jax.Array | None = None, train: bool = False
    ) -> EncoderOutput:
        """Features of every position; those of the last one, which has seen most, are `pooled`.

        Args:
            inputs: as `config.inputs` says.
            segments: `[batch, length]`: 1, 2, ... for packed sequences, 0 for padding; `None`: all
                real.
            train: whether dropout is on (it draws from the `'dropout'` stream).
        """
        x = constrain(embed(self.reader, inputs, segments, train), 'batch', 'length', 'embed')
        rows = rows_of(segments)
        features, _ = self.stack(x, rows, None, train)
        if rows is None:
            return EncoderOutput(features, pooled=features[:, -1])
        last = jnp.maximum(rows.read - 1, 0)[:, None, None]  # zeros, where there is no position
        return EncoderOutput(features, pooled=jnp.take_along_axis(features, last, axis=1)[:, 0])


@dataclass(frozen=True, kw_only=True)
class TCNConfig(ModelConfig):
    """Hyperparameters of a TCN as a language model; the defaults are those for words of PTB.

    Attributes:
        vocab_size: words or characters; `None` is filled in from the tokenizer.
        vocab_multiple: what has a row per word is stored padded to a multiple of this.
        embed_dim: width of the embeddings.
        layers: the blocks.
        embedding_dropout_rate: of single numbers of the embeddings.
        token_dropout_rate: drops words, wherever they occur in a batch.
        tie: the matrix before the softmax is the table of embeddings.
        dtype: dtype of activations; parameters and logits are float32 in any case.
    """

    stacks = False  # every block has another dilation

    vocab_size: int | None = None
    vocab_multiple: int = 1
    embed_dim: int = 600
    layers: TCNLayers = field(
        default_factory=lambda: TCNLayers(num_layers=4, hidden_dim=600, window=3, dropout_rate=0.5)
    )
    embedding_dropout_rate: float = 0.25
    token_dropout_rate: float = 0.0
    tie: bool = True
    dtype: Literal['float32', 'bfloat16'] = 'float32'

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        check_sizes(self, 'vocab_size', 'vocab_multiple', 'embed_dim')
        check_rates(self, 'embedding_dropout_rate', 'token_dropout_rate')
        if self.tie and self.embed_dim != self.layers.widths[-1]:
            raise ConfigError(
                f'tie shares the table of embeddings with the output, but embed_dim is '
                f'{self.embed_dim} and the last block gives {self.layers.widths[-1]}: set '
                'layers.output_dim to embed_dim, or tie to False'
            )

    def build(self) -> 'TCN':
        """The module. Raises `ConfigError` while `vocab_size` is open."""
        if self.vocab_size is None:
            raise ConfigError(
                'vocab_size is open: set it, or prepare the data, whose tokenizer has one'
            )
        return TCN(self)

    @classmethod
    def tiny(cls) -> Self:
        """Two blocks, 12 wide, embeddings of 8 that are tied."""
        layers = TCNLayers(num_layers=2, hidden_dim=12, output_dim=8, window=2, dropout_rate=0.2)
        return cls(vocab_size=32, embed_dim=8, layers=layers, token_dropout_rate=0.1)

    def example_inputs(self, batch: int = 2, length: int = 8) -> tuple[jax.Array, ...]:
        """Token ids."""
        tokens = jnp.arange(batch * length, dtype=jnp.int32).reshape(batch, length)
        return (tokens * 7 % (self.vocab_size or 2),)

    def initial_carry(self, batch: int) -> tuple[Any, ...]:
        """The histories before the first token."""
        return self.layers.histories(batch, self.embed_dim, jnp.dtype(self.dtype))

    def flops(self, batch: int, length: int) -> Flops:
        """The blocks, and logits at every position."""
        if self.vocab_size is None:
            raise ConfigError('vocab_size is open: operations need the size of the vocabulary')
        tokens, width = batch * length, self.layers.widths[-1]
        logits = logits_flops(tokens=tokens, embed_dim=width, vocab_size=self.vocab_size)
        return self.layers.flops(tokens, self.embed_dim) + logits


class TCN(ConvolutionalLM):
    """The language model, a `models.base.CausalLM`. `TCNConfig(...).build()` makes it."""

    config: TCNConfig

    def setup(self) -> None:
        """Declares the table, the blocks and the matrix before the softmax."""
        c = self.config
        dtype, size = jnp.dtype(c.dtype), c.vocab_size
        assert size is not None
        self.embedding = Embedding(size, c.embed_dim, False, dtype, c.vocab_multiple, _START)
        self.stack = TemporalStack(c.layers, dtype)
        if not c.tie:
            names, out = ('embed',), ('vocab',)
            self.output = Linear((size,), names, out, False, dtype, c.vocab_multiple, _START)
        self.logit_bias = logit_bias(self, size, c.vocab_multiple)

    def embed(self, tokens: jax.Array, train: bool) -> jax.Array:
        """`[batch, length]` ids -> `[batch, length, embed]`."""
        c, x = self.config, self.embedding(tokens)
        if train and c.token_dropout_rate:
            key, every = self.make_rng('dropout'), jnp.ones((c.vocab_size or 0, 1), x.dtype)
            x *= embedding_dropout(every, c.token_dropout_rate, key)[tokens]
        if train and c.embedding_dropout_rate:
            key = self.make_rng('dropout')
            x = drop_features(x, c.embedding_dropout_rate, key, variational=False)
        return constrain(x, 'batch', 'length', 'embed')

    def run(
        self, x: jax.Array, rows: Rows | None, before: tuple[Any, ...], train: bool
    ) -> tuple[jax.Array, tuple[Any, ...]]:
        """All blocks."""
        return self.stack(x, rows, before, train)

    def unembed(self, features: jax.Array) -> jax.Array:
        """`[..., embed]` features -> `[..., vocab]` float32 logits."""
        if self.config.tie:
            logits = self.embedding.unembed(features)
        else:
            logits = self.output(features).astype(jnp.float32)
        logits += self.logit_bias
        return constrain(logits, 'batch', 'length', 'vocab') if logits.ndim == 3 else logits
