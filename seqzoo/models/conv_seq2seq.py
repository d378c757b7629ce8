"""Convolutional sequence to sequence learning (Gehring et al. 2017, arXiv:1705.03122).

With e and p the embeddings of words and of positions, D dropout and `GLU(a, b) = a * sigmoid(b)`:

    x^0 = D(e + p) W_in                                          for source and target each
    x^l = sqrt(1/2) (x' + GLU(conv(D(x^{l-1}))))                 encoder, windows around a place
    k   = x^L W_out,   v = sqrt(1/2) (k + D(e + p))              what attention reads

    h^l = GLU(conv(D(x^{l-1})))                                  decoder, windows behind a place
    d^l = sqrt(1/2) (h^l W_d + D(e + p))                         equation 1
    c^l = sqrt(m) sum_j softmax_j(d^l . k_j) v_j                 equation 2; m source words are seen
    x^l = sqrt(1/2) (x' + sqrt(1/2) (h^l + c^l W_c))
    logits = D(x^L W_out) W + b

x' is x^{l-1}, through a matrix where the widths differ (section 3.2). Every decoder layer attends
by itself, and reads what lower layers found. Scales keep variances (section 3.4): sums of two by
`sqrt(1/2)`, the mean of m values, whose variance is `1/m`, by `m sqrt(1/m)`; gradients of the
encoder from its 2 L reading places by `1 / 2L`, word embeddings apart. Weights start so, too
(section 3.5): embeddings normal with standard deviation 0.1, windows `sqrt(4 (1 - p) / (k n))` with
p the dropout, k taps and n channels, matrices `sqrt((1 - p) / n)`; all are weight-normalised.

Deviations: none by intention. The defaults are the English-German stack of the paper, not
fairseq's `fconv_wmt_en_de`, which has other widths. A matrix tied to a table of embeddings is not
normalised.
"""

from dataclasses import dataclass
from typing import Any, Literal, Self

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.configuration.checks import check_rates, check_sizes
from seqzoo.layers.checks import check_tie
from seqzoo.layers.convolution import Rows, history, rows_of
from seqzoo.layers.dropout import Dropout
from seqzoo.layers.embedding import Embedding, logit_bias
from seqzoo.layers.gated_layers import (
    HALF,
    GatedConvolution,
    GatedDecoderLayer,
    GatedMemory,
    NormalisedOutput,
    Projection,
)
from seqzoo.layers.masks import segment_mask
from seqzoo.layers.positions import LearnedPositions, positions_in_segments
from seqzoo.models.base import ConfigError, LMOutput, ModelConfig
from seqzoo.models.flops import Flops, logits_flops, matmul_flops
from seqzoo.parallel.axes import constrain

_EMBEDDING_START = nn.initializers.normal(0.1)


@dataclass(frozen=True, kw_only=True)
class ConvS2SConfig(ModelConfig):
    """Hyperparameters of ConvS2S; the defaults are the paper's for WMT 2014 English-German.

    Attributes:
        vocab_size: target vocabulary, and the source's too unless `source_vocab_size` says
            otherwise; `None` is filled in from the tokenizer.
        vocab_multiple: what has a row per word is stored padded to a multiple of this.
        source_vocab_size: source vocabulary where it differs; needs `tie='decoder'` or `'none'`.
        embed_dim: width of embeddings, of attention, and of what the softmax reads.
        widths: channels of each layer of the encoder, and of the decoder.
        windows: taps of each layer.
        decoder_widths, decoder_windows: those of the decoder, where it is another stack.
        positions: `'learned'` up to `max_length`, or `'none'` (section 5.4 of the paper).
        max_length: longest source or target with learned positions.
        dropout_rate: on embeddings, on the input of every convolution, before the softmax (p).
        tie: which of the source embedding, the target embedding and the matrix before the softmax
            are one: `'all'` three, the `'decoder'`'s two, or `'none'`, as the paper.
        dtype: dtype of activations; parameters, softmax and logits are float32 in any case.
    """

    stacks = False  # widths differ from layer to layer

    vocab_size: int | None = None
    vocab_multiple: int = 1
    source_vocab_size: int | None = None
    embed_dim: int = 512
    widths: tuple[int, ...] = (512,) * 10 + (768,) * 3 + (2048,) * 2
    windows: tuple[int, ...] = (3,) * 13 + (1,) * 2
    decoder_widths: tuple[int, ...] | None = None
    decoder_windows: tuple[int, ...] | None = None
    positions: Literal['learned', 'none'] = 'learned'
    max_length: int = 1024
    dropout_rate: float = 0.2
    tie: Literal['all', 'decoder', 'none'] = 'none'
    dtype: Literal['float32', 'bfloat16'] = 'float32'

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        check_sizes(self, 'embed_dim', 'max_length', 'vocab_multiple')
        check_sizes(self, 'vocab_size', 'source_vocab_size')
        for side, layers in (('', self.encoder_layers), ('decoder_', self.decoder_layers)):
            widths, windows = layers
            if not widths or len(widths) != len(windows) or min(*widths, *windows) < 1:
                raise ConfigError(
                    f'{side}widths has {len(widths)} layers and {side}windows {len(windows)}: give '
                    'both one number, at least 1, for each layer'
                )
        if any(window % 2 == 0 for window in self.windows):
            raise ConfigError(
                f'windows {self.windows}: the encoder looks equally far to both sides; choose odd '
                'ones'
            )
        check_rates(self, 'dropout_rate')
        check_tie(self)

    @property
    def encoder_layers(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Widths and windows."""
        return self.widths, self.windows

    @property
    def decoder_layers(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Widths and windows."""
        return self.decoder_widths or self.widths, self.decoder_windows or self.windows

    def build(self) -> 'ConvS2S':
        """The module. Raises `ConfigError` while `vocab_size` is open."""
        if self.vocab_size is None:
            raise ConfigError(
                'vocab_size is open: set it, or prepare the data, whose tokenizer has one'
            )
        return ConvS2S(self)

    @property
    def longest_row(self) -> int | None:
        return self.max_length if self.positions == 'learned' else None

    @classmethod
    def tiny(cls) -> Self:
        """Two layers of unlike widths below one that attends."""
        sizes = {'embed_dim': 8, 'widths': (8, 12), 'windows': (3, 1)}
        sizes |= {'decoder_widths': (12,), 'decoder_windows': (3,)}
        return cls(vocab_size=32, max_length=16, dropout_rate=0.1, **sizes)

    def example_inputs(self, batch: int = 2, length: int = 8) -> tuple[jax.Array, ...]:
        """Source and target token ids."""
        source = jnp.arange(batch * length, dtype=jnp.int32).reshape(batch, length)
        sizes = (self.source_vocab_size or self.vocab_size or 2, self.vocab_size or 2)
        return source % sizes[0], (source * 7 + 3) % sizes[1]

    def flops(self, batch: int, length: int) -> Flops:
        """Source and target of `length`, logits at every position of the target."""
        if self.vocab_size is None:
            raise ConfigError('vocab_size is open: operations need the size of the vocabulary')
        tokens, wide = batch * length, self.embed_dim
        convolution, outer = 0, 0
        for widths, windows in (self.encoder_layers, self.decoder_layers):
            before = (widths[0], *widths[:-1])
            outer += matmul_flops(tokens, widths[0] + widths[-1], wide)
            for width, own, window in zip(before, widths, windows, strict=True):
                convolution += matmul_flops(tokens, 2 * own, window * width)
                convolution += matmul_flops(tokens, own, width) if own != width else 0
        around = sum(2 * matmul_flops(tokens, wide, width) for width in self.decoder_layers[0])
        scores = 2 * matmul_flops(tokens, length, wide) * len(self.decoder_layers[0])
        own = Flops(
            convolution=convolution,
            feed_forward=outer,
            attention_projections=around,
            attention_scores=scores,
        )
        return own + logits_flops(tokens=tokens, embed_dim=wide, vocab_size=self.vocab_size)


@flax.struct.dataclass
class ConvS2SCache:
    """What the decoder has read so far.

    Attributes:
        histories: `[batch, window - 1, channels]` of each layer.
        position: int32 scalar, the number of tokens read.
    """

    histories: tuple[jax.Array, ...]
    position: jax.Array


def _scale_gradient(x: jax.Array, factor: float) -> jax.Array:
    """x, whose gradient is multiplied."""
    return jax.lax.stop_gradient(x * (1 - factor)) + x * factor


class ConvS2S(nn.Module):
    """The encoder-decoder, a `models.base.Seq2Seq`. `ConvS2SConfig(...).build()` makes it."""

    config: ConvS2SConfig

    def setup(self) -> None:
        """Declares embeddings, both stacks and the matrix before the softmax."""
        c = self.config
        dtype, vocab = jnp.dtype(c.dtype), c.vocab_size
        assert vocab is not None

        def embedding(size: int) -> Embedding:
            start = _EMBEDDING_START
            return Embedding(size, c.embed_dim, False, dtype, c.vocab_multiple, start)

        self.target_embedding = embedding(vocab)
        if c.tie != 'all':
            self.source_embedding = embedding(c.source_vocab_size or vocab)
        if c.positions == 'learned':
            sizes = (c.max_length, c.embed_dim, _EMBEDDING_START)
            self.source_positions = LearnedPositions(*sizes)
            self.target_positions = LearnedPositions(*sizes)
        self.dropout = Dropout(c.dropout_rate)
        names, out = ('embed', 'channels_out'), ('channels_out', 'embed')
        widths, windows = c.encoder_layers
        self.encoder_input = Projection(widths[0], c.dropout_rate, names, dtype)
        self.encoder = [
            GatedConvolution(width, window, False, c.dropout_rate, dtype)
            for width, window in zip(widths, windows, strict=True)
        ]
        self.encoder_output = Projection(c.embed_dim, 0.0, out, dtype)
        widths, windows = c.decoder_layers
        self.decoder_input = Projection(widths[0], c.dropout_rate, names, dtype)
        self.decoder = [
            GatedDecoderLayer(width, window, c.embed_dim, c.dropout_rate, dtype)
            for width, window in zip(widths, windows, strict=True)
        ]
        self.decoder_output = Projection(c.embed_dim, 0.0, out, dtype)
        if c.tie == 'none':
            self.output = NormalisedOutput(vocab, c.vocab_multiple, c.dropout_rate, dtype)
        self.logit_bias = logit_bias(self, vocab, c.vocab_multiple)

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
        """Decoder features for every target position at once; see `models.base.Seq2Seq`."""
        memory = self._encode(source, source_segments, source_positions, train)
        if source_segments is not None and target_segments is None:
            target_segments = jnp.ones_like(target)
        x = self._embed(target, target_segments, target_positions, train, source=False)
        seen = None
        if source_segments is not None and target_segments is not None:
            seen = segment_mask(target_segments, source_segments)
        rows, before = rows_of(target_segments), (None,) * len(self.decoder)
        features, _ = self._decode(x, memory, seen, rows, before, train)
        if self.is_initializing():
            self.unembed(features)  # creates the parameters that only the logits use
        return LMOutput(features=features)

    def unembed(self, features: jax.Array) -> jax.Array:
        """`[..., embed]` features -> `[..., vocab]` float32 logits."""
        tied = self.config.tie != 'none'
        logits = self.target_embedding.unembed(features) if tied else self.output(features)
        logits += self.logit_bias
        return constrain(logits, 'batch', 'length', 'vocab') if logits.ndim == 3 else logits

    def encode(self, source: jax.Array, *, source_segments: jax.Array | None = None) -> GatedMemory:
        """Encodes `[batch, source_length]` once, for any number of decoding steps and beams."""
        return self._encode(source, source_segments, None, train=False)

    def init_cache(self, memory: GatedMemory, max_length: int) -> ConvS2SCache:
        """The past before the first token; it does not grow with `max_length`."""
        del max_length
        batch, dtype = memory.keys.shape[0], memory.keys.dtype
        widths, windows = self.config.decoder_layers
        inputs = zip(windows, (widths[0], *widths[:-1]), strict=True)
        histories = tuple(history(batch, window, 1, width, dtype) for window, width in inputs)
        return ConvS2SCache(histories, jnp.zeros((), jnp.int32))

    def extend(
        self, tokens: jax.Array, memory: GatedMemory, cache: ConvS2SCache
    ) -> tuple[jax.Array, ConvS2SCache]:
        """Reads `tokens` `[batch, n]` after what the cache holds; logits `[batch, n, vocab]`."""
        places = cache.position + jnp.arange(tokens.shape[1], dtype=jnp.int32)
        x = self._embed(tokens, None, places[None], train=False, source=False)
        seen = None if memory.segments is None else (memory.segments > 0)[:, None, None]
        features, after = self._decode(x, memory, seen, None, cache.histories, train=False)
        return self.unembed(features), ConvS2SCache(after, cache.position + tokens.shape[1])

    def _encode(
        self,
        source: jax.Array,
        segments: jax.Array | None,
        positions: jax.Array | None,
        train: bool,
    ) -> GatedMemory:
        embedded = self._embed(source, segments, positions, train, source=True)
        x, rows = self.encoder_input(embedded), rows_of(segments)
        for layer in self.encoder:
            y, residual, _ = layer(x, rows, None, train)
            x = constrain((y + residual) * HALF, 'batch', 'length', 'embed')
        keys = _scale_gradient(self.encoder_output(x), 1 / (2 * len(self.decoder)))
        return GatedMemory(keys, (keys + embedded) * HALF, segments)

    def _decode(
        self,
        embedded: jax.Array,
        memory: GatedMemory,
        seen: jax.Array | None,
        rows: Rows | None,
        before: tuple[Any, ...],
        train: bool,
    ) -> tuple[jax.Array, tuple[Any, ...]]:
        x, after = self.decoder_input(embedded), []
        for layer, past in zip(self.decoder, before, strict=True):
            x, latest = layer(x, embedded, memory, seen, rows, past, train)
            after.append(latest)
        return self.dropout(self.decoder_output(x), train), tuple(after)

    def _embed(
        self,
        tokens: jax.Array,
        segments: jax.Array | None,
        positions: jax.Array | None,
        train: bool,
        *,
        source: bool,
    ) -> jax.Array:
        """`[batch, length]` ids -> `Dropout(embedding + position)` `[batch, length, embed]`."""
        c, own = self.config, source and self.config.tie != 'all'
        x = self.source_embedding(tokens) if own else self.target_embedding(tokens)
        if c.positions == 'learned':
            if tokens.shape[1] > c.max_length:
                raise ConfigError(
                    f'a {"source" if source else "target"} has {tokens.shape[1]} positions, but '
                    f'they are learned up to max_length {c.max_length}: raise it or shorten the '
                    'data'
                )
            if positions is None:
                real = jnp.ones_like(tokens) if segments is None else segments
                positions = positions_in_segments(real)
            table = self.source_positions if source else self.target_positions
            x += table(positions).astype(x.dtype)
        return constrain(self.dropout(x, train), 'batch', 'length', 'embed')
