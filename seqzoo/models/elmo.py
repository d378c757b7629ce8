"""ELMo: what a word means in its sentence, from a bidirectional language model (Peters et al. 2018,
arXiv:1802.05365).

    x_k       = what the bytes of word k say                          `layers.spelling`
    h^f_{k,j} = LSTM_j(h^f_{k,j-1}), from the first word to the last, j = 1 ... L
    h^b_{k,j} = LSTM_j(h^b_{k,j-1}), from the last to the first       parameters of their own
    p(w_{k+1} | w_1 ... w_k) = softmax(h^f_{k,L} W + c)               both directions share the
    p(w_{k-1} | w_k ... w_n) = softmax(h^b_{k,L} W + c)               spelling and the softmax (1)
    ELMo_k    = gamma sum over j = 0 ... L of s_j h_{k,j}             s = softmax(v)             (2)

h_{k,0} is [x_k; x_k] and h_{k,j} is [h^f_{k,j}; h^b_{k,j}]. The paper's LSTMs have 4,096 units
projected to 512, with cell and projection clipped at 3, and the upper one adds its input to its
output: 93,600,864 parameters without the softmax. A network that uses ELMo reads it beside its own
inputs, [x; ELMo], and learns v and gamma; the biLM stays as it was trained, or is trained further.

Deviations. Each row of a batch begins anew, in either direction; the paper's program carried states
from batch to batch while training, and later ones from call to call, so that what a sentence gave
depended on the sentence before. The loss is over the whole vocabulary, not over 8,192 drawn words.
The optional layer normalization of the layers that are mixed is that of Ba et al. 2016, position by
position, without gain; the authors' program takes mean and variance over a whole batch.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.configuration.checks import check_rates
from seqzoo.layers.dropout import Dropout
from seqzoo.layers.embedding import logit_bias
from seqzoo.layers.inputs import Inputs, Tokens, embed
from seqzoo.layers.linear import Linear
from seqzoo.layers.recurrent import RecurrentConfig, RecurrentStack
from seqzoo.layers.recurrent_cells import LSTM
from seqzoo.layers.spelling import ByteSpelling, WithBytes
from seqzoo.models.base import (
    BidirectionalLMConfig,
    ConfigError,
    EncoderConfig,
    EncoderOutput,
    LMOutput,
)
from seqzoo.models.flops import Flops, inputs_flops, logits_flops, recurrent_flops
from seqzoo.models.recurrent_encoder import last_state
from seqzoo.parallel.axes import constrain, named


def _layers() -> RecurrentConfig:
    cell = LSTM(hidden_dim=4096, projection_dim=512, cell_clip=3.0, projection_clip=3.0)
    return RecurrentConfig(
        cell=cell,
        num_layers=2,
        residual_from=1,
        input_dropout_rate=0.1,
        dropout_rate=0.1,
        output_dropout_rate=0.1,
    )


@dataclass(frozen=True, kw_only=True)
class BiLMConfig(EncoderConfig):
    """Both directions without the softmax; the defaults are the paper's.

    Attributes:
        words: how the words enter.
        layers: those of one direction, written `'forward'`; the other one has the same.
    """

    stacks = False  # the bottom layer reads words, and may be of another shape

    words: ByteSpelling = field(default_factory=ByteSpelling)
    layers: RecurrentConfig = field(default_factory=_layers)

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        if self.layers.directions != 'forward':
            raise ConfigError(
                f"layers.directions is {self.layers.directions!r}: write those of 'forward'; the "
                'backward direction has the same'
            )
        if {self.words.output_dim, *self.layers.output_dims} != {self.words.output_dim}:
            raise ConfigError(
                f'words give {self.words.output_dim} features and the layers '
                f'{self.layers.output_dims}: make all equal, or they could not be mixed'
            )

    @property
    def features_dim(self) -> int:
        """How wide the layers are, both directions together."""
        return 2 * self.words.output_dim

    def build(self) -> 'BiLM':
        """The module. Raises `ConfigError` while `words.max_bytes` is open."""
        return BiLM(self)

    @classmethod
    def tiny(cls) -> Self:
        """A layer in each direction, 6 units projected to 4."""
        cell = LSTM(hidden_dim=6, projection_dim=4, cell_clip=3.0, projection_clip=3.0)
        layers = RecurrentConfig(cell=cell, input_dropout_rate=0.2)
        words = ByteSpelling(
            num_bytes=11, max_bytes=4, byte_dim=3, filters=((1, 2), (3, 3)), highway_layers=1,
            embed_dim=4,
        )  # fmt: skip
        return cls(words=words, layers=layers)

    def example_inputs(self, batch: int = 2, length: int = 8) -> tuple[jax.Array, ...]:
        """Words by their bytes."""
        return (self.words.example(batch, length),)

    def flops(self, batch: int, length: int) -> Flops:
        """The words, and the layers of both directions."""
        tokens, width = batch * length, self.words.output_dim
        layers = recurrent_flops(self.layers, tokens=tokens, input_dim=width)
        return inputs_flops(self.words, tokens=tokens) + 2 * layers


class BiLM(nn.Module):
    """The network, a `models.base.Encoder`. `BiLMConfig(...).build()` makes it."""

    config: BiLMConfig

    def setup(self) -> None:
        """Declares what reads the words, and the layers of both directions."""
        c = self.config
        dtype = jnp.dtype(c.dtype)
        self.words = c.words.build(dtype)
        self.forward = RecurrentStack(c.layers, dtype)
        self.backward = RecurrentStack(replace(c.layers, directions='backward'), dtype)

    def __call__(
        self, inputs: jax.Array, *, segments: jax.Array | None = None, train: bool = False
    ) -> EncoderOutput:
        """What the top layer says.

        Args:
            inputs: `[batch, length, max_bytes]` int32, words by their bytes.
            segments: `[batch, length]`: 1, 2, ... for packed sequences, 0 for padding; `None`: all
                real.
            train: whether dropout is on (it draws from the `'dropout'` stream).
        """
        there, back, _ = self._run(inputs, segments, train)
        return EncoderOutput(jnp.concatenate([there.features, back.features], axis=-1))

    def every_layer(
        self, inputs: jax.Array, *, segments: jax.Array | None = None, train: bool = False
    ) -> tuple[jax.Array, ...]:
        """`[batch, length, 2 embed]` of each layer, that of the words first."""
        there, back, x = self._run(inputs, segments, train)
        pairs = [(x, x), *zip(there.layers, back.layers, strict=True)]
        return tuple(jnp.concatenate(pair, axis=-1) for pair in pairs)

    def _run(
        self, inputs: jax.Array, segments: jax.Array | None, train: bool
    ) -> tuple[Any, Any, jax.Array]:
        x = constrain(embed(self.words, inputs, segments, train), 'batch', 'length', 'embed')
        there = self.forward(x, segments=segments, train=train)
        return there, self.backward(x, segments=segments, train=train), x


@dataclass(frozen=True, kw_only=True)
class BiLMPretrainingConfig(BidirectionalLMConfig):
    """The biLM with its softmax.

    Attributes:
        bilm: both directions.
        vocab_multiple: the matrix of the softmax is stored padded to a multiple of this.
    """

    stacks = False  # see `BiLMConfig`

    bilm: BiLMConfig = field(default_factory=BiLMConfig)
    vocab_multiple: int = 1

    @property
    def backbone(self) -> tuple[str, ...]:
        """Where the parameters stand that other networks take over, and their configuration."""
        return ('bilm',)

    def build(self) -> 'BiLMForPretraining':
        """The module. Raises `ConfigError` while `vocab_size` is open."""
        if self.vocab_size is None:
            raise ConfigError(
                'vocab_size is open: set it, or prepare the data, whose tokenizer has one'
            )
        return BiLMForPretraining(self)

    @classmethod
    def tiny(cls) -> Self:
        """The small biLM, and 13 words."""
        return cls(bilm=BiLMConfig.tiny(), vocab_size=13)

    def example_inputs(self, batch: int = 2, length: int = 8) -> tuple[jax.Array, ...]:
        """Words by their bytes."""
        return self.bilm.example_inputs(batch, length)

    def flops(self, batch: int, length: int) -> Flops:
        """The biLM, and the logits of both directions."""
        if self.vocab_size is None:
            raise ConfigError('vocab_size is open: operations need the size of the vocabulary')
        width = self.bilm.features_dim // 2
        logits = logits_flops(
            tokens=2 * batch * length, embed_dim=width, vocab_size=self.vocab_size
        )
        return self.bilm.flops(batch, length) + logits


class BiLMForPretraining(nn.Module):
    """The network, a `models.base.BidirectionalLM`. `BiLMPretrainingConfig(...).build()` makes
    it.
    """

    config: BiLMPretrainingConfig

    def setup(self) -> None:
        """Declares the biLM and the softmax."""
        c = self.config
        dtype = jnp.dtype(c.bilm.dtype)
        assert c.vocab_size is not None
        self.bilm = c.bilm.build()
        size = (c.vocab_size,)
        self.softmax = Linear(size, ('embed',), ('vocab',), False, dtype, c.vocab_multiple)
        self.logit_bias = logit_bias(self, c.vocab_size, c.vocab_multiple)

    def __call__(
        self, inputs: jax.Array, *, segments: jax.Array | None = None, train: bool = False
    ) -> LMOutput:
        """Features of both directions at every word; see `BiLM`."""
        found = self.bilm(inputs, segments=segments, train=train)
        if self.is_initializing():
            self.unembed(found.features)  # creates the parameters that only the logits use
        return LMOutput(found.features)

    def unembed(self, features: jax.Array) -> jax.Array:
        """`[..., 2 embed]` -> `[..., 2, vocab]` float32 logits, those of the forward direction
        first.
        """
        ways = features.reshape(*features.shape[:-1], 2, -1)
        return self.softmax(ways).astype(jnp.float32) + self.logit_bias


@dataclass(frozen=True, kw_only=True)
class ElmoConfig(EncoderConfig):
    """A recurrent encoder that reads a biLM's layers, mixed, beside its own inputs.

    Attributes:
        bilm: both directions; `train --pretrained` takes their parameters from another run.
        frozen: no gradient reaches the biLM, and nothing is dropped inside it. Decoupled weight
            decay, which no gradient brings about, would still shrink it.
        mix_layer_norm: normalise the layers before they are mixed.
        elmo_dropout_rate: on the mixed layers; 0.5 in the paper.
        inputs: what else the network reads; `None`: nothing.
        layers: recurrent layers over all that; `None`: the features are what is read.
    """

    stacks = False  # see `BiLMConfig`

    bilm: BiLMConfig = field(default_factory=BiLMConfig)
    frozen: bool = True
    mix_layer_norm: bool = False
    elmo_dropout_rate: float = 0.5
    inputs: Inputs | None = field(default_factory=Tokens)
    layers: RecurrentConfig | None = field(
        default_factory=lambda: RecurrentConfig(
            cell=LSTM(hidden_dim=128), directions='concatenated'
        )
    )

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        check_rates(self, 'elmo_dropout_rate')

    @property
    def read_dim(self) -> int:
        """How wide what the network reads is: its own inputs and the mixed layers."""
        own = 0 if self.inputs is None else self.inputs.output_dim
        return own + self.bilm.features_dim

    @property
    def features_dim(self) -> int:
        """How wide the output of the top layer is."""
        return self.read_dim if self.layers is None else self.layers.output_dims[-1]

    @property
    def backbone(self) -> tuple[str, ...]:
        """Where the parameters stand that come from another run, and their configuration."""
        return ('bilm',)

    def build(self) -> 'Elmo':
        """The module. Raises `ConfigError` while a size is open."""
        return Elmo(self)

    @classmethod
    def tiny(cls) -> Self:
        """The small biLM, trained further, beside words by number."""
        return cls(
            bilm=BiLMConfig.tiny(),
            frozen=False,
            mix_layer_norm=True,
            inputs=Tokens(vocab_size=9, embed_dim=4),
            layers=None,
        )

    def example_inputs(self, batch: int = 2, length: int = 8) -> tuple[Any, ...]:
        """Words by their bytes, beside what else the network reads."""
        (words,) = self.bilm.example_inputs(batch, length)
        own = None if self.inputs is None else self.inputs.example(batch, length)
        return (WithBytes(own, words),)

    def flops(self, batch: int, length: int) -> Flops:
        """The biLM, what reads the other inputs, and the layers."""
        found, tokens = self.bilm.flops(batch, length), batch * length
        if self.inputs is not None:
            found += inputs_flops(self.inputs, tokens=tokens)
        if self.layers is not None:
            found += recurrent_flops(self.layers, tokens=tokens, input_dim=self.read_dim)
        return found


class Elmo(nn.Module):
    """The network, a `models.base.Encoder`. `ElmoConfig(...).build()` makes it."""

    config: ElmoConfig

    def setup(self) -> None:
        """Declares the biLM, the mix, what reads the other inputs, and the layers."""
        c = self.config
        dtype = jnp.dtype(c.dtype)
        self.bilm = c.bilm.build()
        self.mix = ScalarMix(c.mix_layer_norm, dtype)
        self.dropout = Dropout(c.elmo_dropout_rate)
        if c.inputs is not None:
            self.reader = c.inputs.build(dtype)
        if c.layers is not None:
            self.stack = RecurrentStack(c.layers, dtype)

    def __call__(
        self, inputs: WithBytes, *, segments: jax.Array | None = None, train: bool = False
    ) -> EncoderOutput:
        """Features of every position, and the last states of the network's own layers.

        Args:
            inputs: words by their bytes, and what `config.inputs` reads.
            segments: `[batch, length]`: 1, 2, ... for packed sequences, 0 for padding; `None`: all
                real.
            train: whether dropout is on (it draws from the `'dropout'` stream).
        """
        c = self.config
        known = self.bilm.every_layer(inputs.bytes, segments=segments, train=train and not c.frozen)
        if c.frozen:
            known = jax.lax.stop_gradient(known)
        mixed = self.dropout(self.mix(known), train)
        if segments is not None:
            mixed = jnp.where(segments[..., None] > 0, mixed, 0)
        read = [mixed]
        if c.inputs is not None:
            read.insert(0, embed(self.reader, inputs.own, segments, train))
        x = constrain(jnp.concatenate(read, axis=-1), 'batch', 'length', 'embed')
        if c.layers is None:
            return EncoderOutput(x)
        result = self.stack(x, segments=segments, train=train)
        return EncoderOutput(result.features, result.carry, last_state(c.layers, result))


class ScalarMix(nn.Module):
    """`gamma sum over j of softmax(v)_j h_j` (equation 1 of the paper's section 3.2).

    It starts as the mean.

    Attributes:
        layer_norm: whether each `h_j` is normalised first, position by position.
        dtype: of what comes out.
    """

    layer_norm: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, layers: tuple[jax.Array, ...]) -> jax.Array:
        """Layers `[..., embed]` -> `[..., embed]`."""
        zeros, ones = named(nn.initializers.zeros, None), named(nn.initializers.ones)
        weights = jax.nn.softmax(self.param('weights', zeros, (len(layers),), jnp.float32))
        gamma = self.param('gamma', ones, (), jnp.float32)
        wide = [x.astype(jnp.float32) for x in layers]
        if self.layer_norm:
            wide = [jax.nn.standardize(x, axis=-1, epsilon=1e-6) for x in wide]
        mixed = sum(weight * x for weight, x in zip(weights, wide, strict=True))
        return (gamma * mixed).astype(self.dtype)
