"""Recurrent encoder-decoders, with and without attention.

    e_s = encoder states of the source x_1 .. x_S
    h_t = decoder states, which read the target y_{t-1}, with h_0 from the encoder
    p(y_t | y_1 .. y_{t-1}, x) = softmax(W out_t [+ b])

What the papers make of it, all of it fields of the configuration:

    Sutskever, Vinyals, Le 2014      deep LSTM; the source is read from its end; every layer of the
        (arXiv:1409.3215)            decoder begins in the last state of the encoder's; out_t = h_t
    Bahdanau, Cho, Bengio 2014       GRU in both directions; h_0 = tanh(W_s e), e the state of the
        (arXiv:1409.0473)            backward direction at the first word; context c_t by additive
                                     attention from h_{t-1}, read by all gates; maxout output
                                     out_t = max over pairs of U_o h_{t-1} + V_o E y_{t-1} + C_o c_t
    Luong, Pham, Manning 2015        deep LSTM as Sutskever's; attention from h_t, global or local;
        (arXiv:1508.04025)           out_t = tanh(W_c [c_t; h_t]), fed to the next step as well
    Wu et al. 2016, GNMT             deep LSTM, the bottom layer of the encoder in both directions,
        (arXiv:1609.08144)           residual from the third layer on; additive attention from the
                                     bottom layer of the decoder, its context read by all its layers

The equations of cells, attention and decoders are in `layers.recurrent_cells`,
`layers.recurrent_attention` and `layers.recurrent_decoders`. Dropout stands on what every layer
reads and on what the softmax reads (Zaremba et al. 2014), nowhere on the way from step to step.

Attention weights are in the order of the source, also where it is read from its end: only the loop
runs backwards, nothing is turned around.

Deviations. A source read from its end begins with its end mark; in Sutskever et al. the mark comes
last. Biases, where a cell has any, start at 0, the forget gate's at its `forget_bias`; kernels
outside of cells, embeddings and softmax start as in the rest of the zoo unless `init_scale` says
otherwise. Wu et al. do not say in which state the decoder begins; `initial_state` may be zeros.
Luong's fourth score, `location`, which knows no source, is not here.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.configuration.checks import check_rates, check_sizes
from seqzoo.layers.attentive_steps import OpenCell
from seqzoo.layers.checks import check_tie
from seqzoo.layers.dropout import Dropout
from seqzoo.layers.embedding import Embedding, logit_bias
from seqzoo.layers.linear import Linear
from seqzoo.layers.recurrent import Recurrence, RecurrentConfig, RecurrentStack
from seqzoo.layers.recurrent_attention import Attention, Score, Span
from seqzoo.layers.recurrent_cells import LSTM, Cell
from seqzoo.layers.recurrent_decoders import (
    ContextDecoder,
    DecoderConfig,
    DecoderState,
    FeedingDecoder,
    StackedDecoder,
)
from seqzoo.layers.recurrent_initializers import uniform
from seqzoo.models.base import ConfigError, LMOutput, ModelConfig
from seqzoo.models.decoder_flops import decoder_flops
from seqzoo.models.flops import Flops, logits_flops, matmul_flops, recurrent_flops
from seqzoo.models.recurrent_cache import RecurrentCache, RecurrentMemory
from seqzoo.parallel.axes import constrain


@dataclass(frozen=True, kw_only=True)
class RecurrentSeq2SeqConfig(ModelConfig):
    """Hyperparameters of a recurrent encoder-decoder; the defaults are Sutskever et al.'s.

    Attributes:
        vocab_size: target vocabulary, and the source's too unless `source_vocab_size` says
            otherwise; `None` is filled in from the tokenizer.
        vocab_multiple: what has a row per word is stored padded to a multiple of this.
        source_vocab_size: source vocabulary where it differs; needs `tie='decoder'` or `'none'`.
        embed_dim: width of the embeddings.
        cell: of every layer.
        num_layers: layers of the encoder and of the decoder.
        bidirectional_layers: how many of the encoder's bottom layers read in both directions, their
            outputs concatenated.
        reverse_source: the encoder reads the source from its end.
        residual_from: layers from this one on (0 is the bottom) add their input to their output;
            `None`: none.
        initial_state: where each layer of the decoder begins: where the `'encoder'` layer of the
            same height ended (that of two directions: where its backward one did); `'projected'`,
            tanh of a matrix times that; or `'zeros'`.
        attention: how states are compared with the source, or `'none'`. `'additive'` is Bahdanau's
            score and Luong's concat.
        attention_state: the state that attends: the bottom layer's `'previous'`, its context read
            by all layers, or the top layer's `'current'`, its context joined to the output.
        attention_dim: hidden width of additive scores; `None`: that of the state.
        attention_span: what of the source is seen; see `layers.recurrent_attention`.
        attention_window: how far local attention sees to either side (D).
        input_feeding: the output of a step is read by the next; needs `attention_state='current'`.
        maxout_dim: width of Bahdanau's output layer; needs `'previous'` and one layer.
        dropout_rate: on what every layer and the softmax read.
        tie: which of the source embedding, the target embedding and the matrix before the softmax
            are one: `'all'` three, the `'decoder'`'s two, or `'none'`.
        output_bias: a bias on the logits.
        init_scale: tables and the matrix before the softmax start uniform within plus and minus
            this; `None`: as their layers have it. Recurrent kernels have `cell.init_scale`.
        dtype: dtype of matrix products and activations; parameters, states, attention weights and
            logits are float32 in any case.
    """

    packs = False  # a state would have to be exchanged for another in the middle of a row
    stacks = False  # the bottom layers are of another shape

    vocab_size: int | None = None
    vocab_multiple: int = 1
    source_vocab_size: int | None = None
    embed_dim: int = 1000
    cell: Cell = field(
        default_factory=lambda: LSTM(hidden_dim=1000, biases=0, forget_bias=0.0, init_scale=0.08)
    )
    num_layers: int = 4
    bidirectional_layers: int = 0
    reverse_source: bool = True
    residual_from: int | None = None
    initial_state: Literal['encoder', 'projected', 'zeros'] = 'encoder'
    attention: Literal[Score, 'none'] = 'none'
    attention_state: Literal['previous', 'current'] = 'current'
    attention_dim: int | None = None
    attention_span: Span = 'global'
    attention_window: int = 10
    input_feeding: bool = False
    maxout_dim: int | None = None
    dropout_rate: float = 0.0
    tie: Literal['all', 'decoder', 'none'] = 'none'
    output_bias: bool = False
    init_scale: float | None = 0.08
    dtype: Literal['float32', 'bfloat16'] = 'float32'

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        check_sizes(self, 'num_layers', 'embed_dim', 'vocab_multiple', 'attention_window')
        check_sizes(self, 'vocab_size', 'source_vocab_size', 'attention_dim', 'maxout_dim')
        check_rates(self, 'dropout_rate')
        if not 0 <= self.bidirectional_layers <= self.num_layers:
            raise ConfigError(
                f'bidirectional_layers is {self.bidirectional_layers} of num_layers '
                f'{self.num_layers}: choose 0 to {self.num_layers}'
            )
        if self.bidirectional_layers and self.reverse_source:
            raise ConfigError(
                'reverse_source reads from the end and bidirectional_layers from both ends: set '
                'reverse_source to False or bidirectional_layers to 0'
            )
        self._check_attention()
        self._check_ties()
        self.decoder()  # attention and cells check themselves

    def _check_attention(self) -> None:
        previous = self.attention_state == 'previous'
        if self.attention == 'none':
            if self.input_feeding or self.maxout_dim or previous or self.attention_span != 'global':
                raise ConfigError(
                    "attention is 'none', but attention_state, attention_span, input_feeding or "
                    "maxout_dim asks for it: choose 'additive', 'dot' or 'general'"
                )
        elif self.input_feeding and previous:
            raise ConfigError(
                "input_feeding feeds the output of attention_state 'current'; with 'previous' the "
                'context is read already: choose one of them'
            )
        if self.attention_dim and self.attention != 'additive':
            raise ConfigError(
                f'attention_dim is the hidden width of additive scores, which {self.attention!r} '
                'has not: leave it out'
            )
        if self.maxout_dim and (not previous or self.num_layers > 1):
            raise ConfigError(
                f"maxout_dim is {self.maxout_dim}: it needs attention_state 'previous' and "
                f'num_layers 1, not {self.attention_state!r} and {self.num_layers}'
            )
        if self.input_feeding or previous:
            OpenCell(self.cell, inner_dim=1)  # refuses cells that cannot
        if self.residual_from == 0 and self.input_feeding:
            raise ConfigError(
                'residual_from is 0, but with input_feeding the bottom layer reads more than it '
                'gives out: begin at 1 or higher'
            )

    def _check_ties(self) -> None:
        check_tie(self)
        if self.tie != 'none' and self.features_dim != self.embed_dim:
            raise ConfigError(
                f'tie {self.tie!r} shares the embeddings of {self.embed_dim} with the softmax, '
                f"which reads {self.features_dim}: make them equal, or set tie to 'none'"
            )

    @property
    def features_dim(self) -> int:
        """How wide the features before the softmax are."""
        return self.maxout_dim or self.cell.output_dim

    def encoder(self) -> RecurrentConfig:
        """The layers of the encoder."""
        directions = 'backward' if self.reverse_source else 'forward'
        return RecurrentConfig(
            cell=self.cell,
            num_layers=self.num_layers,
            directions='concatenated' if self.bidirectional_layers else directions,
            bidirectional_layers=self.bidirectional_layers or None,
            residual_from=self.residual_from,
            input_dropout_rate=self.dropout_rate,
            dropout_rate=self.dropout_rate,
        )

    def decoder(self) -> DecoderConfig:
        """The layers of the decoder and their attention."""
        attention = None
        if self.attention != 'none':
            attention = Attention(
                score=self.attention,
                query_dim=self.cell.output_dim,
                memory_dim=self.encoder().output_dims[-1],
                dim=self.attention_dim or self.cell.output_dim,
                span=self.attention_span,
                window=self.attention_window,
            )
        return DecoderConfig(
            layers=RecurrentConfig(
                cell=self.cell,
                num_layers=self.num_layers,
                residual_from=self.residual_from,
                dropout_rate=self.dropout_rate,
            ),
            embed_dim=self.embed_dim,
            attention=attention,
            maxout_dim=self.maxout_dim,
            dtype=jnp.dtype(self.dtype),
        )

    def build(self) -> 'RecurrentSeq2Seq':
        """The module. Raises `ConfigError` while `vocab_size` is open."""
        if self.vocab_size is None:
            raise ConfigError(
                'vocab_size is open: set it, or prepare the data, whose tokenizer has one'
            )
        return RecurrentSeq2Seq(self)

    @classmethod
    def tiny(cls) -> Self:
        """Two LSTM layers, 16 wide, global general attention and input feeding."""
        return cls(
            vocab_size=32,
            embed_dim=16,
            cell=LSTM(hidden_dim=16),
            num_layers=2,
            attention='general',
            input_feeding=True,
            dropout_rate=0.1,
            init_scale=None,
        )

    def example_inputs(self, batch: int = 2, length: int = 8) -> tuple[jax.Array, ...]:
        """Source and target token ids."""
        source = jnp.arange(batch * length, dtype=jnp.int32).reshape(batch, length)
        sizes = (self.source_vocab_size or self.vocab_size or 2, self.vocab_size or 2)
        return source % sizes[0], (source * 7 + 3) % sizes[1]

    def flops(self, batch: int, length: int) -> Flops:
        """Source and target of `length`, logits at every position of the target."""
        if self.vocab_size is None:
            raise ConfigError('vocab_size is open: operations need the size of the vocabulary')
        tokens, width = batch * length, self.cell.output_dim
        first = self.num_layers * matmul_flops(batch, width, width)
        return (
            recurrent_flops(self.encoder(), tokens=tokens, input_dim=self.embed_dim)
            + Flops(recurrent=first if self.initial_state == 'projected' else 0)
            + decoder_flops(
                self.decoder(),
                batch=batch,
                source_length=length,
                target_length=length,
                previous=self.attention_state == 'previous',
                feeding=self.input_feeding,
            )
            + logits_flops(tokens=tokens, embed_dim=self.features_dim, vocab_size=self.vocab_size)
        )


class RecurrentSeq2Seq(nn.Module):
    """The encoder-decoder, a `models.base.Seq2Seq`. `RecurrentSeq2SeqConfig(...).build()` makes it.

    Segments only tell what is padding, on whichever side it lies: rows hold one sentence each.
    Positions are of no effect; a recurrent network counts by itself.
    """

    config: RecurrentSeq2SeqConfig

    def setup(self) -> None:
        """Declares embeddings, encoder, decoder and the matrix before the softmax."""
        c = self.config
        dtype, start = jnp.dtype(c.dtype), None if c.init_scale is None else uniform(c.init_scale)
        assert c.vocab_size is not None

        def embedding(size: int) -> Embedding:
            return Embedding(size, c.embed_dim, False, dtype, c.vocab_multiple, start)

        self.target_embedding = embedding(c.vocab_size)
        if c.tie != 'all':
            self.source_embedding = embedding(c.source_vocab_size or c.vocab_size)
        self.encoder = RecurrentStack(c.encoder(), dtype)
        kind = StackedDecoder
        if c.input_feeding:
            kind = FeedingDecoder
        elif c.attention_state == 'previous':
            kind = ContextDecoder
        self.decoder = kind(c.decoder())
        if c.initial_state == 'projected':
            width = c.cell.output_dim
            self.initial = [
                Linear((width,), ('hidden',), ('hidden',), False, dtype)
                for _ in range(c.num_layers)
            ]
        self.output_dropout = Dropout(c.dropout_rate)
        if c.tie == 'none':
            size = (c.vocab_size,)
            self.output = Linear(
                size, ('embed',), ('vocab',), False, dtype, c.vocab_multiple, start
            )
        if c.output_bias:
            self.logit_bias = logit_bias(self, c.vocab_size, c.vocab_multiple)

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
            source_positions: of no effect.
            target_positions: of no effect.
            train: whether dropout is on (it draws from the `'dropout'` stream).
        """
        del source_positions, target_positions
        memory = self._encode(source, source_segments, train)
        mask = None if target_segments is None else target_segments > 0
        cache = RecurrentCache(memory.state, jnp.zeros((), jnp.int32))
        features, _ = self._decode(target, memory, cache, mask=mask, train=train)
        if self.is_initializing():
            self.unembed(features)  # creates the parameters that only the logits use
        return LMOutput(features=features)

    def unembed(self, features: jax.Array) -> jax.Array:
        """`[..., features]` -> `[..., vocab]` float32 logits."""
        if self.config.tie == 'none':
            logits = self.output(features).astype(jnp.float32)
        else:
            logits = self.target_embedding.unembed(features)
        if self.config.output_bias:
            logits += self.logit_bias
        return constrain(logits, 'batch', 'length', 'vocab') if logits.ndim == 3 else logits

    def encode(
        self, source: jax.Array, *, source_segments: jax.Array | None = None
    ) -> RecurrentMemory:
        """Encodes `[batch, source_length]` once, for any number of decoding steps and beams."""
        return self._encode(source, source_segments, train=False)

    def init_cache(self, memory: RecurrentMemory, max_length: int) -> RecurrentCache:
        """The state before the first token; it does not grow with `max_length`."""
        del max_length
        return RecurrentCache(memory.state, jnp.zeros((), jnp.int32))

    def extend(
        self, tokens: jax.Array, memory: RecurrentMemory, cache: RecurrentCache
    ) -> tuple[jax.Array, RecurrentCache]:
        """Reads `tokens` `[batch, n]` after what the cache holds; logits `[batch, n, vocab]`."""
        features, cache = self._decode(tokens, memory, cache)
        return self.unembed(features), cache

    def _encode(
        self, source: jax.Array, segments: jax.Array | None, train: bool
    ) -> RecurrentMemory:
        c = self.config
        embedding = self.target_embedding if c.tie == 'all' else self.source_embedding
        x = constrain(embedding(source), 'batch', 'length', 'embed')
        mask = jnp.ones(source.shape, bool) if segments is None else segments > 0
        result = self.encoder(x, mask=None if segments is None else mask, train=train)
        return RecurrentMemory(self.decoder.project(result.features, mask), self._begin(result))

    def _begin(self, encoded: Recurrence) -> DecoderState:
        """The decoder's state before its first step."""
        c, layers = self.config, []
        for i, carry in enumerate(encoded.carry):
            last = carry[1] if isinstance(carry, tuple) else carry  # (forward, backward)
            zeros = jax.tree.map(jnp.zeros_like, last)
            if c.initial_state == 'encoder':
                layers.append(last)
            elif c.initial_state == 'zeros':
                layers.append(zeros)
            else:
                h: Any = self.initial[i](last['h'])
                layers.append({**zeros, 'h': jnp.tanh(h).astype(jnp.float32)})
        fed = jnp.zeros_like(layers[-1]['h']) if c.input_feeding else None
        return DecoderState(tuple(layers), fed)

    def _decode(
        self,
        tokens: jax.Array,
        memory: RecurrentMemory,
        cache: RecurrentCache,
        *,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, RecurrentCache]:
        """Features `[batch, length, features]` of `tokens` after what the cache holds."""
        x = constrain(self.target_embedding(tokens), 'batch', 'length', 'embed')
        features, state = self.decoder(
            x, memory.attended, cache.state, position=cache.position, mask=mask, train=train
        )
        features = self.output_dropout(features, train)
        return features, RecurrentCache(state, cache.position + tokens.shape[1])
