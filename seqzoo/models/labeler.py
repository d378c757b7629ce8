"""A head on any encoder: one output vector for a whole sequence, or for each of its positions.

    per step        o_t = D(h_t) W + b
    per sequence    o = D(p) W + b, with p one of
        last        what the encoder offers itself: of a recurrent one the last states, of BERT
                    what its pooler makes of the first position, of a language model the last
                    token's features
        mean, max   over the positions, feature by feature
        attention   sum_t a_t h_t,  a = softmax_t(u . tanh(h_t A + c))       (Yang et al. 2016,
                                                                              equations 5 to 7)

h are the features of the encoder, D dropout. With logits for outputs this is a classifier or a
tagger; with numbers it is regression.
"""

from dataclasses import dataclass, field
from typing import Literal, Self

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.configuration.checks import check_rates
from seqzoo.layers.dropout import Dropout
from seqzoo.layers.inputs import Tokens, TypedTokens
from seqzoo.layers.linear import Linear
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import Elman
from seqzoo.models.base import (
    ConfigError,
    EncoderConfig,
    EncoderOutput,
    LabelingConfig,
    LabelOutput,
)
from seqzoo.models.flops import Flops, matmul_flops
from seqzoo.models.language_model_encoder import LanguageModelEncoderConfig
from seqzoo.models.recurrent_encoder import RecurrentEncoderConfig
from seqzoo.parallel.axes import constrain, named

Pooling = Literal['last', 'mean', 'max', 'attention']


@dataclass(frozen=True, kw_only=True)
class LabelerConfig(LabelingConfig):
    """Hyperparameters of the head, and the encoder below it.

    Attributes:
        encoder: of any kind.
        pooling: how a sequence becomes one vector; of no effect per step.
        dropout_rate: on what the output matrix reads.
    """

    stacks = False  # the head has one layer; the encoder declares its own

    encoder: EncoderConfig = field(default_factory=RecurrentEncoderConfig)
    pooling: Pooling = 'last'
    dropout_rate: float = 0.0

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        check_rates(self, 'dropout_rate')

    @property
    def causal(self) -> bool:
        """Whether it labels steps, and its encoder does not look ahead."""
        return self.per == 'step' and self.encoder.causal

    def build(self) -> 'LabeledEncoder':
        """The module. Raises `ConfigError` while a size is open."""
        self.known_outputs()
        return LabeledEncoder(self)

    @classmethod
    def tiny(cls) -> Self:
        """Attention over a simple recurrent network."""
        layers = RecurrentConfig(cell=Elman(hidden_dim=8), output_dropout_rate=0.1)
        encoder = RecurrentEncoderConfig(inputs=Tokens(vocab_size=16, embed_dim=8), layers=layers)
        return cls(encoder=encoder, num_outputs=3, pooling='attention', dropout_rate=0.1)

    @property
    def backbone(self) -> tuple[str, ...]:
        return ('encoder', *self.encoder.backbone)

    def example_inputs(self, batch: int = 2, length: int = 8) -> tuple[jax.Array, ...]:
        """What the encoder reads."""
        return self.encoder.example_inputs(batch, length)

    def flops(self, batch: int, length: int) -> Flops | None:
        """The encoder, attention if there is any, and the outputs."""
        found, width = self.encoder.flops(batch, length), self.encoder.features_dim
        if found is None:
            return None
        places = batch * length if self.per == 'step' else batch
        if self.per == 'sequence' and self.pooling == 'attention':
            hidden = matmul_flops(batch * length, width, width)
            scores = 2 * matmul_flops(batch * length, 1, width)  # and the weighted sum
            found += Flops(attention_projections=hidden, attention_scores=scores)
        return found + Flops(logits=matmul_flops(places, self.known_outputs(), width))


class LabeledEncoder(nn.Module):
    """Encoder and head, a `models.base.Labeler`. `LabelerConfig(...).build()` makes it.

    The weights of attention pooling, `[batch, length]`, are sown as `'pooling_weights'`.
    """

    config: LabelerConfig

    def setup(self) -> None:
        """Declares encoder and head."""
        c = self.config
        dtype = jnp.dtype(c.encoder.dtype)
        self.encoder = c.encoder.build()
        self.dropout = Dropout(c.dropout_rate)
        self.head = Linear((c.known_outputs(),), ('embed',), ('classes',), True, dtype)
        if c.per == 'sequence' and c.pooling == 'attention':
            self.attention = AttentionPooling(dtype)

    def __call__(
        self, inputs: jax.Array, *, segments: jax.Array | None = None, train: bool = False
    ) -> LabelOutput:
        """Outputs of a batch, a row holding one sequence.

        Args:
            inputs: what the encoder reads.
            segments: `[batch, length]`, 1 at positions and 0 at padding; `None`: all real.
            train: whether dropout is on (it draws from the `'dropout'` stream).
        """
        if isinstance(inputs, TypedTokens) and not self.config.encoder.reads_token_types:
            inputs = inputs.tokens  # where a second sentence begins, its mark shows too
        found = self.encoder(inputs, segments=segments, train=train)
        if self.config.per == 'step':
            outputs = self.head(self.dropout(found.features, train)).astype(jnp.float32)
            outputs = constrain(outputs, 'batch', 'length', 'classes')
        else:
            pooled = self._pool(found, segments)
            outputs = self.head(self.dropout(pooled, train)).astype(jnp.float32)
        return LabelOutput(outputs, found.features)

    def unembed(self, features: jax.Array) -> jax.Array:
        """Next-token logits of the features, where a language model stands below the head.

        Raises:
            ConfigError: none does.
        """
        if not isinstance(self.config.encoder, LanguageModelEncoderConfig):
            kind = type(self.config.encoder).__name__.removesuffix('Config')
            raise ConfigError(
                f'a loss of language modelling needs a language model below the head, and there '
                f'stands a {kind}: set language_model_weight to 0, or take a LanguageModelEncoder'
            )
        return self.encoder.unembed(features)

    def _pool(self, found: EncoderOutput, segments: jax.Array | None) -> jax.Array:
        """`[batch, length, embed]` -> `[batch, embed]`; zeros where a row has no positions."""
        features, pooling = found.features, self.config.pooling
        if pooling == 'last':
            if found.pooled is None:
                raise ConfigError(
                    'pooling is last, but this encoder offers no vector of a whole sequence: '
                    'choose mean, max or attention'
                )
            return found.pooled
        shape = features.shape[:2]
        real = jnp.ones(shape, bool) if segments is None else segments > 0
        if pooling == 'attention':
            weights = self.attention(features, real)
            self.sow('intermediates', 'pooling_weights', weights)
            return jnp.einsum('bl,ble->be', weights.astype(features.dtype), features)
        if pooling == 'mean':
            number = jnp.maximum(jnp.sum(real, axis=1), 1)[:, None]
            total = jnp.sum(features.astype(jnp.float32), axis=1)  # features are zero at padding
            return (total / number).astype(features.dtype)
        least = jnp.finfo(features.dtype).min
        largest = jnp.max(jnp.where(real[..., None], features, least), axis=1)
        return jnp.where(jnp.any(real, axis=1)[:, None], largest, 0)


class AttentionPooling(nn.Module):
    """How much each position counts in the vector of the sequence.

    Attributes:
        dtype: of the matrix product.
    """

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, features: jax.Array, real: jax.Array) -> jax.Array:
        """`[batch, length, embed]` -> `[batch, length]` float32 weights that sum to 1.

        Args:
            features: of each position.
            real: `[batch, length]` bool; padding gets no weight.
        """
        width = features.shape[-1]
        hidden = Linear((width,), ('embed',), ('hidden',), True, self.dtype, name='hidden')
        start = named(nn.initializers.normal(width**-0.5), 'hidden')
        context = self.param('context', start, (width,), jnp.float32)
        x = jnp.tanh(hidden(features).astype(jnp.float32))
        # Not minus infinity: a row without positions would make NaN of it.
        scores = jnp.where(real, x @ context, jnp.finfo(jnp.float32).min)
        return jax.nn.softmax(scores, axis=-1)
