"""ByteNet (Kalchbrenner et al. 2016, "Neural Machine Translation in Linear Time", 1610.10099).

Residual blocks of dilated convolutions (`layers.dilated_blocks`), unmasked over the source and
masked over the target, which is stacked on top of the source's representation:

    c_1 ... c_u = encoder(s_1 ... s_n, 0 ... 0)         u = floor(a n + b) places  (section 3.2)
    x_t = W [e_t; c_t] + b,   c_t = 0 for t > u         dynamic unfolding: the target goes on until
                                                        it ends, beyond u if it must
    f_t = D(relu(W_f relu(L(decoder(x)_t)) + b_f))      what the softmax reads

Nothing is attended to: a step costs the same whatever the lengths, and time is linear. The decoder
alone, with multiplicative units, is the character language model of section 5.

Deviations. Source characters have one vector each, no bags of n-grams. A multiplicative block has
one unit, which holds the masked convolution, where the paper's figure leaves the order of units
and normalisations open. Embeddings and output may share a table (`tie`).
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.configuration.checks import check_rates, check_sizes
from seqzoo.layers.checks import check_tie
from seqzoo.layers.convolution import Rows, loops_cost_nothing
from seqzoo.layers.dilated_blocks import DilatedConfig, DilatedContext, DilatedSet
from seqzoo.layers.dropout import Dropout
from seqzoo.layers.embedding import Embedding, logit_bias
from seqzoo.layers.linear import Linear
from seqzoo.layers.normalization import LayerNorm
from seqzoo.layers.stack import Remat, Stack
from seqzoo.models.base import ConfigError, LMOutput, ModelConfig
from seqzoo.models.convolutional_lm import ConvolutionalLM
from seqzoo.models.flops import Flops, logits_flops, matmul_flops
from seqzoo.parallel.axes import constrain

_SLACK = 1e-3  # a length of 6.0000001 is 6, and so is one of 5.9999999


@dataclass(frozen=True, kw_only=True)
class ByteNetLMConfig(ModelConfig):
    """Hyperparameters of the language model; the defaults are the paper's for enwik8.

    Attributes:
        vocab_size: characters or words; `None` is filled in from the tokenizer.
        vocab_multiple: what has a row per word is stored padded to a multiple of this.
        layers: the blocks. Embeddings are as wide as their stream.
        dropout_rate: of what the softmax reads.
        tie: the matrix before the softmax is the table of embeddings.
        dtype: dtype of activations; parameters, normalisation and logits are float32 in any case.
        scan_layers: run the sets as a loop (compiles one) or, as always on a CPU, unrolled; the
            parameters are the same.
        remat: what the backward pass computes again to save memory: nothing, everything in a set,
            or all but its matrix products (`'dots'`).
    """

    vocab_size: int | None = None
    vocab_multiple: int = 1
    layers: DilatedConfig = field(default_factory=lambda: DilatedConfig(unit='multiplicative'))
    dropout_rate: float = 0.1
    tie: bool = False
    dtype: Literal['float32', 'bfloat16'] = 'float32'
    scan_layers: bool = True
    remat: Remat = 'none'

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        check_sizes(self, 'vocab_size', 'vocab_multiple')
        check_rates(self, 'dropout_rate')

    def build(self) -> 'ByteNetLM':
        """The module. Raises `ConfigError` while `vocab_size` is open."""
        _known_vocabulary(self)
        return ByteNetLM(self)

    @classmethod
    def tiny(cls) -> Self:
        """Two sets of one block, 6 wide, of multiplicative units."""
        layers = DilatedConfig(hidden_dim=6, dilations=(1,), num_sets=2, unit='multiplicative')
        return cls(vocab_size=32, layers=layers)

    def example_inputs(self, batch: int = 2, length: int = 8) -> tuple[jax.Array, ...]:
        """Token ids."""
        tokens = jnp.arange(batch * length, dtype=jnp.int32).reshape(batch, length)
        return (tokens * 7 % (self.vocab_size or 2),)

    def initial_carry(self, batch: int) -> tuple[jax.Array, ...]:
        """The histories before the first token."""
        return self.layers.histories(batch, jnp.dtype(self.dtype))

    def flops(self, batch: int, length: int) -> Flops:
        """Blocks, and logits at every position."""
        tokens, width = batch * length, self.layers.stream_dim
        found = blocks_flops(self.layers, tokens) + Flops(
            feed_forward=matmul_flops(tokens, width, width)
        )
        vocab = _known_vocabulary(self)
        return found + logits_flops(tokens=tokens, embed_dim=width, vocab_size=vocab)


def blocks_flops(config: DilatedConfig, tokens: int) -> Flops:
    """All blocks at `tokens` places."""
    hidden = config.hidden_dim
    inner = 4 * hidden if config.unit == 'multiplicative' else hidden
    own = matmul_flops(tokens, inner, config.window * hidden)
    around = 2 * matmul_flops(tokens, config.stream_dim, hidden)
    return len(config.dilations) * config.num_sets * Flops(convolution=own, feed_forward=around)


def _known_vocabulary(config: Any) -> int:
    if config.vocab_size is None:
        raise ConfigError(
            'vocab_size is open: set it, or prepare the data, whose tokenizer has one'
        )
    return config.vocab_size


class ByteNetLM(ConvolutionalLM):
    """The language model, a `models.base.CausalLM`. `ByteNetLMConfig(...).build()` makes it."""

    config: ByteNetLMConfig

    def setup(self) -> None:
        """Declares the table, the blocks and what stands on them."""
        c = self.config
        dtype, width = jnp.dtype(c.dtype), c.layers.stream_dim
        size = _known_vocabulary(c)
        self.embedding = Embedding(size, width, False, dtype, c.vocab_multiple)
        blocks = DilatedSet(c.layers, True, dtype)
        in_a_loop = c.scan_layers and loops_cost_nothing()
        self.decoder = Stack(blocks, c.layers.num_sets, in_a_loop, c.remat)
        self.top = Top(c.dropout_rate, dtype)
        if not c.tie:
            self.output = Linear((size,), ('embed',), ('vocab',), False, dtype, c.vocab_multiple)
        self.logit_bias = logit_bias(self, size, c.vocab_multiple)

    def embed(self, tokens: jax.Array, train: bool) -> jax.Array:
        """`[batch, length]` ids -> `[batch, length, 2 d]`."""
        del train
        return constrain(self.embedding(tokens), 'batch', 'length', 'embed')

    def run(
        self, x: jax.Array, rows: Rows | None, before: tuple[jax.Array, ...], train: bool
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """All blocks, and what stands on them."""
        x, after = self.decoder.thread(x, DilatedContext(rows, train), before)
        return self.top(x, train), after

    def unembed(self, features: jax.Array) -> jax.Array:
        """`[..., 2 d]` features -> `[..., vocab]` float32 logits."""
        if self.config.tie:
            logits = self.embedding.unembed(features)
        else:
            logits = self.output(features).astype(jnp.float32)
        logits += self.logit_bias
        return constrain(logits, 'batch', 'length', 'vocab') if logits.ndim == 3 else logits


class Top(nn.Module):
    """`D(relu(W relu(L(x)) + b))`, what the softmax reads.

    Attributes:
        dropout_rate: of D.
        dtype: of the computation.
    """

    dropout_rate: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[batch, length, 2 d]` to the same shape."""
        x = nn.relu(LayerNorm(name='norm')(x))
        matrix = Linear((x.shape[-1],), ('embed',), ('embed',), True, self.dtype, name='matrix')
        return Dropout(self.dropout_rate)(nn.relu(matrix(x)), train)


@dataclass(frozen=True, kw_only=True)
class ByteNetConfig(ModelConfig):
    """Hyperparameters of the encoder-decoder; the defaults are the paper's for WMT.

    Attributes:
        vocab_size: target vocabulary, and the source's too unless `source_vocab_size` says
            otherwise; `None` is filled in from the tokenizer.
        vocab_multiple: what has a row per word is stored padded to a multiple of this.
        source_vocab_size: source vocabulary where it differs; needs `tie='decoder'` or `'none'`.
        encoder: the blocks over the source.
        decoder: the blocks over the target; their stream is as wide as the encoder's.
        unfold_factor: places for each token of the source (a).
        unfold_extra: places beyond that (b).
        dropout_rate: of what the softmax reads.
        tie: which of the source embedding, the target embedding and the matrix before the softmax
            are one: `'all'` three, the `'decoder'`'s two, or `'none'`.
        dtype, scan_layers, remat: as in `ByteNetLMConfig`.
    """

    packs = False  # each source brings places of its own, which a packed row has no room for

    vocab_size: int | None = None
    vocab_multiple: int = 1
    source_vocab_size: int | None = None
    encoder: DilatedConfig = field(default_factory=lambda: DilatedConfig(hidden_dim=800))
    decoder: DilatedConfig = field(default_factory=lambda: DilatedConfig(hidden_dim=800))
    unfold_factor: float = 1.2
    unfold_extra: float = 0.0
    dropout_rate: float = 0.0
    tie: Literal['all', 'decoder', 'none'] = 'none'
    dtype: Literal['float32', 'bfloat16'] = 'float32'
    scan_layers: bool = True
    remat: Remat = 'none'

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        check_sizes(self, 'vocab_size', 'source_vocab_size', 'vocab_multiple')
        check_rates(self, 'dropout_rate')
        if not (1 <= self.unfold_factor < math.inf and 0 <= self.unfold_extra < math.inf):
            raise ConfigError(
                f'unfold_factor is {self.unfold_factor} and unfold_extra {self.unfold_extra}: the '
                'source needs its own places, so give at least 1 and 0'
            )
        if self.encoder.hidden_dim != self.decoder.hidden_dim:
            raise ConfigError(
                f'encoder.hidden_dim is {self.encoder.hidden_dim} and decoder.hidden_dim '
                f'{self.decoder.hidden_dim}: one stands on the other, so make them equal'
            )
        check_tie(self)

    def unfolded(self, length: int) -> int:
        """Places for a source of `length` tokens."""
        return int(self.unfold_factor * length + self.unfold_extra + _SLACK)

    def build(self) -> 'ByteNet':
        """The module. Raises `ConfigError` while `vocab_size` is open."""
        _known_vocabulary(self)
        return ByteNet(self)

    @classmethod
    def tiny(cls) -> Self:
        """Two sets of one block either side, 6 wide; a source column has seen the whole source."""
        sizes = {'hidden_dim': 6, 'dilations': (1,), 'num_sets': 2, 'dropout_rate': 0.1}
        encoder, decoder = DilatedConfig(window=7, **sizes), DilatedConfig(**sizes)
        return cls(vocab_size=32, encoder=encoder, decoder=decoder, dropout_rate=0.1)

    def example_inputs(self, batch: int = 2, length: int = 8) -> tuple[jax.Array, ...]:
        """Source and target token ids."""
        source = jnp.arange(batch * length, dtype=jnp.int32).reshape(batch, length)
        sizes = (self.source_vocab_size or self.vocab_size or 2, self.vocab_size or 2)
        return source % sizes[0], (source * 7 + 3) % sizes[1]

    def flops(self, batch: int, length: int) -> Flops:
        """Source and target of `length`, logits at every position of the target."""
        places, tokens = batch * self.unfolded(length), batch * length
        width, vocab = self.decoder.stream_dim, _known_vocabulary(self)
        around = matmul_flops(tokens, width, 2 * width) + matmul_flops(tokens, width, width)
        return (
            blocks_flops(self.encoder, places)
            + blocks_flops(self.decoder, tokens)
            + Flops(feed_forward=around)
            + logits_flops(tokens=tokens, embed_dim=width, vocab_size=vocab)
        )


@flax.struct.dataclass
class ByteNetCache:
    """What the decoder has read so far.

    Attributes:
        histories: of the blocks of a set, `[batch, sets, reach, hidden]` each.
        position: int32 scalar, the number of tokens read.
    """

    histories: tuple[jax.Array, ...]
    position: jax.Array


class ByteNet(nn.Module):
    """The encoder-decoder, a `models.base.Seq2Seq`. `ByteNetConfig(...).build()` makes it.

    Its memory are the columns `[batch, unfolded, 2 d]` that the decoder stands on, zeros behind
    those of a shorter source. Segments only tell what is padding, which follows the sentence; rows
    hold one each.
    """

    config: ByteNetConfig

    def setup(self) -> None:
        """Declares the tables, both stacks and what stands on them."""
        c = self.config
        dtype, width = jnp.dtype(c.dtype), c.decoder.stream_dim
        size = _known_vocabulary(c)
        self.target_embedding = Embedding(size, width, False, dtype, c.vocab_multiple)
        if c.tie != 'all':
            own = c.source_vocab_size or size
            self.source_embedding = Embedding(own, width, False, dtype, c.vocab_multiple)
        how = (c.scan_layers and loops_cost_nothing(), c.remat)
        self.encoder = Stack(DilatedSet(c.encoder, False, dtype), c.encoder.num_sets, *how)
        self.encoder_norm = LayerNorm()
        self.join = Linear((width,), ('embed',), ('embed',), True, dtype)
        self.decoder = Stack(DilatedSet(c.decoder, True, dtype), c.decoder.num_sets, *how)
        self.top = Top(c.dropout_rate, dtype)
        if c.tie == 'none':
            self.output = Linear((size,), ('embed',), ('vocab',), False, dtype, c.vocab_multiple)
        self.logit_bias = logit_bias(self, size, c.vocab_multiple)

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
        """Decoder features for every target position at once.

        Args:
            source: `[batch, source_length]` int32 ids.
            target: `[batch, target_length]` int32 ids that the decoder reads: shifted already.
            source_segments: `[batch, source_length]`, 1 or 0 for padding; `None`: all real.
            target_segments: the same for the target.
            source_positions: of no effect; a convolution knows distances only.
            target_positions: of no effect.
            train: whether dropout is on (it draws from the `'dropout'` stream).
        """
        del source_positions, target_positions
        memory = self._encode(source, source_segments, train)
        rows = None if target_segments is None else Rows(target_segments)
        start = jnp.zeros((), jnp.int32)
        features, _ = self._decode(target, memory, start, rows, None, train)
        if self.is_initializing():
            self.unembed(features)  # creates the parameters that only the logits use
        return LMOutput(features=features)

    def unembed(self, features: jax.Array) -> jax.Array:
        """`[..., 2 d]` features -> `[..., vocab]` float32 logits."""
        if self.config.tie == 'none':
            logits = self.output(features).astype(jnp.float32)
        else:
            logits = self.target_embedding.unembed(features)
        logits += self.logit_bias
        return constrain(logits, 'batch', 'length', 'vocab') if logits.ndim == 3 else logits

    def encode(self, source: jax.Array, *, source_segments: jax.Array | None = None) -> jax.Array:
        """Encodes `[batch, source_length]` once, for any number of decoding steps and beams."""
        return self._encode(source, source_segments, train=False)

    def init_cache(self, memory: jax.Array, max_length: int) -> ByteNetCache:
        """The past before the first token; it does not grow with `max_length`."""
        del max_length
        histories = self.config.decoder.histories(memory.shape[0], memory.dtype)
        return ByteNetCache(histories, jnp.zeros((), jnp.int32))

    def extend(
        self, tokens: jax.Array, memory: jax.Array, cache: ByteNetCache
    ) -> tuple[jax.Array, ByteNetCache]:
        """Reads `tokens` `[batch, n]` after what the cache holds; logits `[batch, n, vocab]`."""
        features, after = self._decode(
            tokens, memory, cache.position, None, cache.histories, train=False
        )
        assert after is not None
        return self.unembed(features), ByteNetCache(after, cache.position + tokens.shape[1])

    def _encode(self, source: jax.Array, segments: jax.Array | None, train: bool) -> jax.Array:
        """`[batch, source_length]` ids -> `[batch, unfolded, 2 d]` columns."""
        c, length = self.config, source.shape[1]
        table = self.target_embedding if c.tie == 'all' else self.source_embedding
        places = c.unfolded(length)
        real = jnp.ones_like(source) if segments is None else (segments > 0).astype(jnp.int32)
        x = jnp.where(real[..., None] > 0, table(source), 0)
        x = jnp.pad(x, ((0, 0), (0, places - length), (0, 0)))
        numbers = jnp.sum(real, axis=1).astype(jnp.float32)
        own = jnp.floor(c.unfold_factor * numbers + c.unfold_extra + _SLACK)
        unfolded = jnp.arange(places, dtype=jnp.float32) < own[:, None]
        rows = Rows(unfolded.astype(jnp.int32))
        x = constrain(x, 'batch', 'length', 'embed')
        x, _ = self.encoder.thread(x, DilatedContext(rows, train), None)
        return rows.clear(self.encoder_norm(x))

    def _decode(
        self,
        tokens: jax.Array,
        memory: jax.Array,
        start: jax.Array,
        rows: Rows | None,
        before: tuple[jax.Array, ...] | None,
        train: bool,
    ) -> tuple[jax.Array, tuple[jax.Array, ...] | None]:
        """Features `[batch, length, 2 d]` of `tokens`, the first of which stands at `start`."""
        places = start + jnp.arange(tokens.shape[1], dtype=jnp.int32)
        columns = jnp.take(memory, places, axis=1, mode='fill', fill_value=0)
        x = self.join(jnp.concatenate([self.target_embedding(tokens), columns], axis=-1))
        x = constrain(x, 'batch', 'length', 'embed')
        x, after = self.decoder.thread(x, DilatedContext(rows, train), before)
        return self.top(x, train), after
