"""BERT (Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding", arXiv:1810.04805): a Transformer encoder that reads both ways.

    x       = Dropout(LayerNorm(token + position + type))      learned tables; the type: which
                                                               of two sentences a token is in
    x       = encoder layers, post-norm, with biases in the attention and the exact GELU
                                                               `layers.transformer_layers`
    pooled  = tanh(x_1 W_p + b_p)                              x_1 is what stands at [CLS]

What is trained on unlabelled text has two heads on it,

    token at a masked position t    softmax(LayerNorm(gelu(x_t W_t + b_t)) E^T + b)     E: the table
                                                                                       of tokens
    whether the second sentence     softmax(pooled W_n + b_n)
    follows the first

and what is trained on labels has a head of `models.labeler` on it. Both keep the encoder under the
name `encoder`, which is how one takes over what the other has learnt.

Kernels and tables start normal with scale 0.02, cut off at two of it; biases at zero.

Deviations: none in the mathematics. The authors' code reads the mask of the padding as minus
10,000 added to a score; here a score at padding is minus 1e30. Several texts may be packed into a
row, each with positions and attention of its own; what is pooled is then the first one's.

The defaults are the base model; `num_layers=24, embed_dim=1024, num_heads=16, mlp_dim=4096` is the
large one.
"""

from dataclasses import dataclass, field
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.configuration.checks import check_rates, check_sizes
from seqzoo.layers.attention import Implementation
from seqzoo.layers.checks import check_attention_dropout, check_heads
from seqzoo.layers.dropout import Dropout
from seqzoo.layers.embedding import Embedding, logit_bias
from seqzoo.layers.feedforward import ACTIVATIONS, Activation
from seqzoo.layers.inputs import TypedTokens
from seqzoo.layers.linear import Linear
from seqzoo.layers.normalization import LayerNorm
from seqzoo.layers.positions import LearnedPositions, positions_in_segments
from seqzoo.layers.stack import Remat, Stack
from seqzoo.layers.transformer_layers import Context, EncoderLayer, LayerConfig
from seqzoo.models.base import (
    ConfigError,
    EncoderConfig,
    EncoderOutput,
    MaskedLMConfig,
    MaskedLMOutput,
)
from seqzoo.models.flops import Flops, attention_layer_flops, logits_flops, matmul_flops
from seqzoo.parallel.axes import constrain, named

MASKED_SHARE = 0.15  # of the positions of a row are predicted (section 3.1)


@dataclass(frozen=True, kw_only=True)
class BertConfig(EncoderConfig):
    """Hyperparameters of the encoder; the defaults are the paper's base model.

    Attributes:
        vocab_size: rows of the table of tokens; `None` is filled in from the tokenizer.
        vocab_multiple: the table is stored padded to a multiple of this.
        max_length: learned positions; no row is longer.
        num_token_types: sentences that may stand side by side.
        num_layers: L.
        embed_dim: width of the residual stream (H).
        num_heads: attention heads (A).
        mlp_dim: hidden width of the feed-forward layers; `None` is 4 H.
        dropout_rate: on what enters the layers and on each sublayer's output.
        attention_dropout_rate: of attention weights.
        norm_epsilon: added to the variance in layer normalisation.
        mlp_activation: non-linearity of the feed-forward layers and of the head for masked tokens.
        init_scale: standard deviation of kernels and tables at the start.
        pooler: whether a row has a vector of its own; taggers can do without.
        scan_layers: run the layers as a loop or unrolled; the parameters are the same.
        remat: what the backward pass computes again: nothing, everything in a layer, or all but its
            matrix products (`'dots'`).
        attention_implementation: see `layers.attention`; dropout of attention weights needs
            `'xla'`, `'ring'` or `'auto'`.
    """

    vocab_size: int | None = None
    vocab_multiple: int = 1
    max_length: int = 512
    num_token_types: int = 2
    num_layers: int = 12
    embed_dim: int = 768
    num_heads: int = 12
    mlp_dim: int | None = None
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1
    norm_epsilon: float = 1e-12
    mlp_activation: Activation = 'gelu'
    init_scale: float = 0.02
    pooler: bool = True
    scan_layers: bool = True
    remat: Remat = 'none'
    attention_implementation: Implementation = 'auto'

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        sizes = ('max_length', 'num_token_types', 'num_layers', 'embed_dim', 'num_heads')
        check_sizes(self, *sizes, 'vocab_multiple', 'vocab_size', 'mlp_dim')
        check_sizes(self, 'norm_epsilon', least=0)
        check_rates(self, 'dropout_rate', 'attention_dropout_rate')
        check_heads(self)
        if not self.init_scale > 0:
            raise ConfigError(f'init_scale is {self.init_scale}: give a number above 0')
        check_attention_dropout(self)

    @property
    def features_dim(self) -> int:
        """The width of the residual stream."""
        return self.embed_dim

    @property
    def reads_token_types(self) -> bool:
        return True

    def build(self) -> 'Bert':
        """The module. Raises `ConfigError` while `vocab_size` is open."""
        if self.vocab_size is None:
            raise ConfigError(
                'vocab_size is open: set it, or prepare the data, whose tokenizer has one'
            )
        return Bert(self)

    def kernel_init(self) -> nn.initializers.Initializer:
        """How kernels and tables start."""
        return nn.initializers.truncated_normal(self.init_scale)

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
            norm='post',
            norm_epsilon=self.norm_epsilon,
            attention_bias=True,
            mlp_activation=self.mlp_activation,
            dtype=jnp.dtype(self.dtype),
            attention_implementation=self.attention_implementation,
            kernel_init=self.kernel_init(),
        )

    @property
    def longest_row(self) -> int:
        return self.max_length

    @classmethod
    def tiny(cls) -> Self:
        """Two layers, 16 wide."""
        return cls(vocab_size=32, max_length=16, num_layers=2, embed_dim=16, num_heads=2)

    def example_inputs(self, batch: int = 2, length: int = 8) -> tuple[Any, ...]:
        """Tokens of two sentences a row."""
        length = min(length, self.max_length)
        tokens = jnp.arange(batch * length, dtype=jnp.int32).reshape(batch, length)
        types = jnp.broadcast_to(
            jnp.arange(length, dtype=jnp.int32) // ((length + 1) // 2), tokens.shape
        )
        return (TypedTokens(tokens * 7 % (self.vocab_size or 2), types % self.num_token_types),)

    def flops(self, batch: int, length: int) -> Flops:
        """The layers, and the pooler among the feed-forward ones."""
        layer = attention_layer_flops(self.layer(), batch=batch, length=length)
        pooler = matmul_flops(batch, self.embed_dim, self.embed_dim) if self.pooler else 0
        return self.num_layers * layer + Flops(feed_forward=pooler)


class Bert(nn.Module):
    """The encoder, a `models.base.Encoder`. `BertConfig(...).build()` makes it."""

    config: BertConfig

    def setup(self) -> None:
        """Declares tables, layers and pooler."""
        c = self.config
        dtype, start = jnp.dtype(c.dtype), c.kernel_init()
        assert c.vocab_size is not None
        self.embedding = Embedding(c.vocab_size, c.embed_dim, False, dtype, c.vocab_multiple, start)
        self.positions = LearnedPositions(c.max_length, c.embed_dim, start)
        # Two rows: split over nothing.
        types, shape = named(start, None, 'embed'), (c.num_token_types, c.embed_dim)
        self.token_types = self.param('token_types', types, shape, jnp.float32)
        self.embedding_norm = LayerNorm(c.norm_epsilon)
        self.embedding_dropout = Dropout(c.dropout_rate)
        self.stack = Stack(EncoderLayer(c.layer()), c.num_layers, c.scan_layers, c.remat)
        if c.pooler:
            size, names = (c.embed_dim,), ('embed',)
            self.pooler = Linear(size, names, ('hidden',), True, dtype, kernel_init=start)

    def __call__(
        self,
        inputs: jax.Array | TypedTokens,
        *,
        segments: jax.Array | None = None,
        train: bool = False,
    ) -> EncoderOutput:
        """Features of every position, and the vector of a row.

        Args:
            inputs: `[batch, length]` int32 ids, all of the first sentence; or `TypedTokens`.
            segments: `[batch, length]`: 1, 2, ... for packed texts, 0 for padding; `None`: all
                real.
            train: whether dropout is on (it draws from the `'dropout'` stream).
        """
        x = self.stack(self._embed(inputs, segments, train), Context(segments, train=train))
        if segments is not None:
            x = jnp.where(segments[..., None] > 0, x, 0)
        pooled = jnp.tanh(self.pooler(x[:, 0])) if self.config.pooler else None
        return EncoderOutput(features=x, pooled=pooled)

    def unembed(self, features: jax.Array) -> jax.Array:
        """`[..., embed]` -> `[..., vocab]` float32 logits by the table of tokens."""
        return self.embedding.unembed(features)

    def _embed(
        self, inputs: jax.Array | TypedTokens, segments: jax.Array | None, train: bool
    ) -> jax.Array:
        """What enters the layers, `[batch, length, embed]`."""
        c, types = self.config, None
        if isinstance(inputs, TypedTokens):
            inputs, types = inputs.tokens, inputs.token_types
        length = inputs.shape[1]
        if length > c.max_length:
            raise ConfigError(
                f'a batch has {length} positions, but they are learned up to max_length '
                f'{c.max_length}: raise max_length or shorten the data'
            )
        if segments is None:
            positions = jnp.arange(length, dtype=jnp.int32)[None]
        else:
            positions = positions_in_segments(segments)
        # A sum in float32, as the tables are: it is normalised next.
        x = self.embedding(inputs).astype(jnp.float32) + self.positions(positions)
        if types is None or c.num_token_types == 1:  # nothing tells two texts apart
            x += self.token_types[0]
        else:
            x += jnp.take(self.token_types, types, axis=0)
        x = self.embedding_norm(x).astype(jnp.dtype(c.dtype))
        return constrain(self.embedding_dropout(x, train), 'batch', 'length', 'embed')


@dataclass(frozen=True, kw_only=True)
class BertPretrainingConfig(MaskedLMConfig):
    """The encoder with the two heads that learn from unlabelled text.

    Attributes:
        encoder: below them; its pooler serves the second one.
        next_sentence: whether there is a head that says if two sentences follow each other.
    """

    stacks = False  # a head has one layer; the encoder declares its own

    encoder: BertConfig = field(default_factory=BertConfig)
    next_sentence: bool = True

    def __post_init__(self) -> None:
        """Checks that the second head has something to stand on."""
        super().__post_init__()
        if self.next_sentence and not self.encoder.pooler:
            raise ConfigError(
                'next_sentence reads what the pooler makes of a row: set encoder.pooler, or '
                'next_sentence to False'
            )

    @property
    def has_next_sentence(self) -> bool:
        return self.next_sentence

    @property
    def backbone(self) -> tuple[str, ...]:
        return ('encoder',)

    def build(self) -> 'BertForPretraining':
        """The module. Raises `ConfigError` while `encoder.vocab_size` is open."""
        self.encoder.build()
        return BertForPretraining(self)

    @classmethod
    def tiny(cls) -> Self:
        """Both heads on the tiny encoder."""
        return cls(encoder=BertConfig.tiny())

    def example_inputs(self, batch: int = 2, length: int = 8) -> tuple[Any, ...]:
        """What the encoder reads."""
        return self.encoder.example_inputs(batch, length)

    def flops(self, batch: int, length: int) -> Flops:
        """The encoder, and logits at the 15 % of the positions that are predicted."""
        c, size = self.encoder, self.encoder.vocab_size
        if size is None:
            raise ConfigError('vocab_size is open: operations need the size of the vocabulary')
        predicted = batch * max(1, round(MASKED_SHARE * length))
        heads = Flops(feed_forward=matmul_flops(predicted, c.embed_dim, c.embed_dim))
        if self.next_sentence:
            heads += Flops(logits=matmul_flops(batch, 2, c.embed_dim))
        logits = logits_flops(tokens=predicted, embed_dim=c.embed_dim, vocab_size=size)
        return c.flops(batch, length) + heads + logits


class BertForPretraining(nn.Module):
    """Encoder and heads, a `models.base.MaskedLM`; `BertPretrainingConfig(..).build()` makes it."""

    config: BertPretrainingConfig

    def setup(self) -> None:
        """Declares encoder and heads."""
        c = self.config.encoder
        dtype, start = jnp.dtype(c.dtype), c.kernel_init()
        assert c.vocab_size is not None
        self.encoder = c.build()
        size, names = (c.embed_dim,), ('embed',)
        self.transform = Linear(size, names, ('hidden',), True, dtype, kernel_init=start)
        self.transform_norm = LayerNorm(c.norm_epsilon)
        self.logit_bias = logit_bias(self, c.vocab_size, c.vocab_multiple)
        if self.config.next_sentence:
            self.next_sentence = Linear((2,), names, ('classes',), True, dtype, kernel_init=start)

    def __call__(
        self,
        inputs: jax.Array | TypedTokens,
        *,
        segments: jax.Array | None = None,
        train: bool = False,
    ) -> MaskedLMOutput:
        """Features of every position, and what is said about the two sentences.

        Args:
            inputs: `[batch, length]` int32 ids, or `TypedTokens`.
            segments: as of the encoder.
            train: whether dropout is on.
        """
        found = self.encoder(inputs, segments=segments, train=train)
        logits = None
        if self.config.next_sentence:
            assert found.pooled is not None
            logits = self.next_sentence(found.pooled).astype(jnp.float32)
        if self.is_initializing():
            self.unembed(found.features)  # creates the parameters that only the logits use
        return MaskedLMOutput(found.features, logits)

    def unembed(self, features: jax.Array) -> jax.Array:
        """`[..., embed]` features of any positions -> `[..., vocab]` float32 logits."""
        hidden = ACTIVATIONS[self.config.encoder.mlp_activation](self.transform(features))
        logits = self.encoder.unembed(self.transform_norm(hidden)) + self.logit_bias
        return constrain(logits, 'batch', 'length', 'vocab') if logits.ndim == 3 else logits
