"""Captions: a convolutional network looks at an image, a recurrent one writes what is on it.

With a_1 .. a_L the vectors that the network gives for the L places of its last map:

    Vinyals et al. 2015, Show and Tell         x_{-1} = W_I [a_1; ...; a_L], before the first word;
        (arXiv:1411.4555)                      h_t = LSTM(E y_{t-1}, h_{t-1})
    Xu et al. 2015, Show, Attend and Tell      h_0 = tanh(W_h mean(a));
        (arXiv:1502.03044), soft attention     c_t = sum over i of softmax_i(f(a_i, h_{t-1})) a_i,
                                               h_t = LSTM([E y_{t-1}; c_t], h_{t-1})

and the next word is read off h_t. f is Bahdanau's additive score.

Deviations. The network is a few convolutions learnt with the rest, not a large one trained before
on other images. Its last map gets a learnt vector for each place, so that 'left of' can be told
from 'above' behind a mean; it is flattened, not averaged, for Show and Tell. Xu et al. read words
off [E y_{t-1}; h_t; c_t], begin the cell state too by a matrix, and add a penalty that makes
attention cover the image; here none of it.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.configuration.checks import check_rates, check_sizes
from seqzoo.layers.convolution import Convolution
from seqzoo.layers.dropout import Dropout
from seqzoo.layers.embedding import Embedding
from seqzoo.layers.linear import Linear
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_attention import Attended, Attention
from seqzoo.layers.recurrent_cells import LSTM, Cell
from seqzoo.layers.recurrent_decoders import (
    ContextDecoder,
    DecoderConfig,
    DecoderState,
    StackedDecoder,
)
from seqzoo.models.base import ConfigError, LMOutput, ModelConfig
from seqzoo.models.recurrent_seq2seq import RecurrentCache, RecurrentMemory
from seqzoo.parallel.axes import constrain, named


@dataclass(frozen=True, kw_only=True)
class CaptionerConfig(ModelConfig):
    """Hyperparameters of a captioner.

    Attributes:
        vocab_size: words; `None` is filled in from the data.
        image_size: height and width in pixels; `None` is filled in from the data.
        channels: of each convolution of 3 by 3.
        strides: of each; their product is by how much the map is smaller than the image.
        embed_dim: width of the words.
        cell: of every layer of the decoder.
        num_layers: of the decoder; one if it attends.
        attention: `'additive'` attends to the image (Xu et al.), `'none'` reads it once (Vinyals et
            al.).
        attention_dim: hidden width of the score; `None`: that of the state.
        dropout_rate: on what every layer and the softmax read.
        dtype: dtype of the computation; parameters, states, weights and logits are float32.
    """

    packs = False  # an image belongs to a row
    stacks = False  # every convolution has another shape

    vocab_size: int | None = None
    image_size: int | None = None
    channels: tuple[int, ...] = (32, 64, 64)
    strides: tuple[int, ...] = (2, 2, 1)
    embed_dim: int = 64
    cell: Cell = field(default_factory=lambda: LSTM(hidden_dim=128))
    num_layers: int = 1
    attention: Literal['additive', 'none'] = 'additive'
    attention_dim: int | None = None
    dropout_rate: float = 0.0
    dtype: Literal['float32', 'bfloat16'] = 'float32'

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        if not self.channels or len(self.channels) != len(self.strides):
            raise ConfigError(
                f'channels has {len(self.channels)} and strides {len(self.strides)} entries: give '
                'both one for each convolution'
            )
        for name in ('channels', 'strides'):
            if min(getattr(self, name)) < 1:
                raise ConfigError(f'{name} is {getattr(self, name)}: all must be at least 1')
        check_sizes(self, 'vocab_size', 'image_size', 'embed_dim', 'num_layers', 'attention_dim')
        if self.attention != 'none' and self.num_layers > 1:
            raise ConfigError(
                f'num_layers is {self.num_layers}, but a captioner that attends has one: set '
                "num_layers to 1 or attention to 'none'"
            )
        check_rates(self, 'dropout_rate')

    @property
    def map_size(self) -> int:
        """Height and width of the map that is attended to."""
        assert self.image_size is not None
        size = self.image_size
        for stride in self.strides:
            size = -(-size // stride)
        return size

    def decoder(self) -> DecoderConfig:
        """The layers of the decoder and their attention."""
        attention = None
        if self.attention != 'none':
            attention = Attention(
                score=self.attention,
                query_dim=self.cell.output_dim,
                memory_dim=self.channels[-1],
                dim=self.attention_dim or self.cell.output_dim,
            )
        layers = RecurrentConfig(
            cell=self.cell, num_layers=self.num_layers, dropout_rate=self.dropout_rate
        )
        return DecoderConfig(
            layers=layers,
            embed_dim=self.embed_dim,
            attention=attention,
            maxout_dim=None,
            dtype=jnp.dtype(self.dtype),
        )

    def build(self) -> 'Captioner':
        """The module. Raises `ConfigError` while a size is open."""
        for name in ('vocab_size', 'image_size'):
            if getattr(self, name) is None:
                raise ConfigError(f'{name} is open: set it, or prepare the data, which has one')
        return Captioner(self)

    @classmethod
    def tiny(cls) -> Self:
        """Two convolutions over 8 by 8 pixels and an LSTM that attends."""
        return cls(
            vocab_size=16,
            image_size=8,
            channels=(4, 8),
            strides=(2, 1),
            embed_dim=8,
            cell=LSTM(hidden_dim=8),
            dropout_rate=0.1,
        )

    def example_inputs(self, batch: int = 2, length: int = 8) -> tuple[jax.Array, ...]:
        """Images and token ids."""
        size = self.image_size or 8
        pixels = jnp.sin(jnp.arange(batch * size * size, dtype=jnp.float32))
        target = jnp.arange(batch * length, dtype=jnp.int32).reshape(batch, length) * 7 + 3
        return pixels.reshape(batch, size, size), target % (self.vocab_size or 2)


class Captioner(nn.Module):
    """Images to captions, a `models.base.Seq2Seq` whose source is `[batch, height, width]`."""

    config: CaptionerConfig

    def setup(self) -> None:
        """Declares the convolutions, the decoder and the matrix before the softmax."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        assert c.vocab_size is not None
        self.convolutions = [
            Convolution(features, (3, 3), stride, dtype)
            for features, stride in zip(c.channels, c.strides, strict=True)
        ]
        self.places = self.param(
            'places',
            named(nn.initializers.normal(0.1), 'position', 'channels_out'),
            (c.map_size**2, c.channels[-1]),
            jnp.float32,
        )
        self.word_embedding = Embedding(c.vocab_size, c.embed_dim, False, dtype)
        if c.attention == 'none':
            self.decoder = StackedDecoder(c.decoder())
            self.look = Linear((c.embed_dim,), ('channels_in',), ('embed',), True, dtype)
        else:
            self.decoder = ContextDecoder(c.decoder())
            self.look = Linear((c.cell.output_dim,), ('channels_in',), ('hidden',), True, dtype)
        self.output_dropout = Dropout(c.dropout_rate)
        self.output = Linear((c.vocab_size,), ('embed',), ('vocab',), True, dtype)

    def __call__(
        self,
        source: jax.Array,
        target: jax.Array,
        *,
        source_segments: jax.Array | None = None,
        target_segments: jax.Array | None = None,
        source_positions: jax.Array | None = None,
        target_positions: jax.Array | None = None,
        train: bool = False,
    ) -> LMOutput:
        """Decoder features for every place of the caption at once.

        Args:
            source: `[batch, height, width]` ink, 0 to 1.
            target: `[batch, length]` int32 ids that the decoder reads: shifted already.
            source_segments: of no effect: all of an image is real.
            target_segments: `[batch, length]`, 1 or 0 for padding; `None`: all real.
            source_positions: of no effect.
            target_positions: of no effect.
            train: whether dropout is on (it draws from the `'dropout'` stream).
        """
        del source_segments, source_positions, target_positions
        memory = self._encode(source, train)
        mask = None if target_segments is None else target_segments > 0
        cache = self.init_cache(memory, 0)
        features, _ = self._decode(target, memory, cache, mask=mask, train=train)
        if self.is_initializing():
            self.unembed(features)  # creates the parameters that only the logits use
        return LMOutput(features=features)

    def unembed(self, features: jax.Array) -> jax.Array:
        """`[..., features]` -> `[..., vocab]` float32 logits."""
        logits = self.output(features).astype(jnp.float32)
        return constrain(logits, 'batch', 'length', 'vocab') if logits.ndim == 3 else logits

    def encode(
        self, source: jax.Array, *, source_segments: jax.Array | None = None
    ) -> RecurrentMemory:
        """Looks at images `[batch, height, width]` once, for any number of steps and beams."""
        del source_segments
        return self._encode(source, train=False)

    def init_cache(self, memory: RecurrentMemory, max_length: int) -> RecurrentCache:
        """The state before the first word; it does not grow with `max_length`."""
        del max_length
        return RecurrentCache(memory.state, jnp.zeros((), jnp.int32))

    def extend(
        self, tokens: jax.Array, memory: RecurrentMemory, cache: RecurrentCache
    ) -> tuple[jax.Array, RecurrentCache]:
        """Reads `tokens` `[batch, n]` after what the cache holds; logits `[batch, n, vocab]`."""
        features, cache = self._decode(tokens, memory, cache)
        return self.unembed(features), cache

    def _annotations(self, images: jax.Array) -> jax.Array:
        """`[batch, height, width]` -> `[batch, places, channels]`, row after row of the map."""
        if images.shape[1:] != (self.config.image_size,) * 2:
            raise ConfigError(
                f'images of {images.shape[1]} by {images.shape[2]} pixels for a model of '
                f'image_size {self.config.image_size}'
            )
        x = images[..., None]
        for convolution in self.convolutions[:-1]:
            x = nn.relu(convolution(x))
        x = self.convolutions[-1](x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])  # [batch, h, w, c] -> [batch, places, c]
        return nn.relu(x + self.places.astype(x.dtype))

    def _encode(self, images: jax.Array, train: bool) -> RecurrentMemory:
        c, annotations = self.config, self._annotations(images)
        batch = images.shape[0]
        zeros = tuple(cell.initial_carry(batch) for cell in c.decoder().layers.cells)
        if c.attention == 'none':
            first: Any = self.look(annotations.reshape(batch, -1))[:, None]
            here = jnp.zeros((), jnp.int32)
            _, state = self.decoder(first, None, DecoderState(zeros), position=here, train=train)
            return RecurrentMemory(None, state)
        seen: Any = self.look(jnp.mean(annotations, axis=1))
        state = DecoderState(({**zeros[0], 'h': jnp.tanh(seen).astype(jnp.float32)},))
        everywhere = jnp.ones(annotations.shape[:2], bool)
        attended: Attended | None = self.decoder.project(annotations, everywhere)
        return RecurrentMemory(attended, state)

    def _decode(
        self,
        tokens: jax.Array,
        memory: RecurrentMemory,
        cache: RecurrentCache,
        *,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, RecurrentCache]:
        x = constrain(self.word_embedding(tokens), 'batch', 'length', 'embed')
        features, state = self.decoder(
            x, memory.attended, cache.state, position=cache.position, mask=mask, train=train
        )
        features = self.output_dropout(features, train)
        return features, RecurrentCache(state, cache.position + tokens.shape[1])
