"""A language model below a head (Radford et al. 2018, "Improving Language Understanding by
Generative Pre-Training", section 3.2): what it makes of a text it has read to the end.

    h_t      the features of a causal language model
    pooled   h_n, those of the last real token: the only one that has seen the whole text

The same features give the logits of the next token, for the paper's auxiliary loss.

Deviations: none here. The paper's three new tokens (a start, a delimiter, an end whose features are
read) are the mark that closes a line in the vocabulary at hand; see `data.framing`.
"""

from dataclasses import dataclass, field
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import LSTM
from seqzoo.models.base import CausalLM, ConfigError, EncoderConfig, EncoderOutput, ModelConfig
from seqzoo.models.flops import Flops
from seqzoo.models.recurrent_lm import RecurrentLMConfig


@dataclass(frozen=True, kw_only=True)
class LanguageModelEncoderConfig(EncoderConfig):
    """Which language model it is; `dtype` is that of the head above it.

    Attributes:
        language_model: a configuration whose module is a `models.base.CausalLM`.
    """

    stacks = False  # the language model declares its own

    language_model: ModelConfig = field(default_factory=RecurrentLMConfig)

    @property
    def packs(self) -> bool:  # type: ignore[override]
        """Whether the language model does."""
        return self.language_model.packs

    @property
    def features_dim(self) -> int:
        """The width of the language model's features."""
        config: Any = self.language_model
        return config.features_dim if hasattr(config, 'features_dim') else config.embed_dim

    @property
    def causal(self) -> bool:
        return True

    @property
    def backbone(self) -> tuple[str, ...]:
        return ('language_model', *self.language_model.backbone)

    def build(self) -> 'LanguageModelEncoder':
        """The module. Raises `ConfigError` where no language model is inside."""
        if not isinstance(self.language_model.build(), CausalLM):
            kind = type(self.language_model).__name__.removesuffix('Config')
            raise ConfigError(f'language_model is a {kind}, which is no causal language model')
        return LanguageModelEncoder(self)

    @classmethod
    def tiny(cls) -> Self:
        """An LSTM, 8 wide, whose output is tied to its table."""
        layers = RecurrentConfig(cell=LSTM(hidden_dim=8), output_dropout_rate=0.2)
        return cls(
            language_model=RecurrentLMConfig(
                vocab_size=16, embed_dim=8, layers=layers, tie=True, output_bias=False
            )
        )

    def example_inputs(self, batch: int = 2, length: int = 8) -> tuple[jax.Array, ...]:
        """Token ids."""
        return self.language_model.example_inputs(batch, length)

    def flops(self, batch: int, length: int) -> Flops | None:
        """Those of the language model but for its logits."""
        found = self.language_model.flops(batch, length)
        return None if found is None else found + Flops(logits=-found.logits)


class LanguageModelEncoder(nn.Module):
    """The language model as a `models.base.Encoder`."""

    config: LanguageModelEncoderConfig

    def setup(self) -> None:
        """Declares the language model."""
        self.language_model: Any = self.config.language_model.build()

    def __call__(
        self, inputs: jax.Array, *, segments: jax.Array | None = None, train: bool = False
    ) -> EncoderOutput:
        """Features of every position, and the last one's.

        Args:
            inputs: `[batch, length]` int32 ids.
            segments: `[batch, length]`: 1, 2, ... for packed texts, 0 for padding; `None`: all
                real.
            train: whether dropout is on.
        """
        output = self.language_model(inputs, segments=segments, train=train)
        features = output.features
        if segments is None:
            return EncoderOutput(features, output.carry, features[:, -1])
        real = segments > 0
        features = jnp.where(real[..., None], features, 0)
        place = jnp.arange(real.shape[1], dtype=jnp.int32)
        last = jnp.max(jnp.where(real, place, 0), axis=1)  # padding may stand on either side
        pooled = jnp.take_along_axis(features, last[:, None, None], axis=1)[:, 0]
        return EncoderOutput(features, output.carry, pooled)

    def unembed(self, features: jax.Array) -> jax.Array:
        """`[..., embed]` -> `[..., vocab]` float32 logits of the next token."""
        return self.language_model.unembed(features)
