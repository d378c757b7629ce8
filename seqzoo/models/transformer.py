"""The Transformer (Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762).

With post-norm residuals (the paper's, section 5.4) every sublayer computes

    x <- LayerNorm(x + Dropout(Sublayer(x)))

and with pre-norm residuals (Xiong et al. 2020, arXiv:2002.04745), which train without warm-up and
deeper,

    x <- x + Dropout(Sublayer(LayerNorm(x)))

followed by one more LayerNorm at the end of each stack. The sublayers of an encoder layer are
self-attention and a feed-forward layer; a decoder layer has causal self-attention, attention to the
encoder's output, and a feed-forward layer. What enters a stack is `Dropout(sqrt(embed_dim) *
embedding(token) + position)`. The softmax shares its matrix with the embeddings (section 3.4).

Deviations from the paper as published: none by default. Its authors' code later moved to pre-norm,
dropout of attention weights and of the hidden feed-forward units, and concatenated sinusoids; all
are options here.

The defaults are the base model; `embed_dim=1024, mlp_dim=4096, num_heads=16` is the big one.
"""

from dataclasses import dataclass
from typing import Literal, Self

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.configuration.checks import check_rates, check_sizes
from seqzoo.layers.attention import Implementation
from seqzoo.layers.checks import check_attention_dropout, check_heads, check_tie
from seqzoo.layers.dropout import Dropout
from seqzoo.layers.embedding import Embedding, logit_bias
from seqzoo.layers.feedforward import Activation
from seqzoo.layers.linear import Linear
from seqzoo.layers.masks import ancestry_mask, causal_mask
from seqzoo.layers.multi_head_attention import KeysValues
from seqzoo.layers.normalization import LayerNorm
from seqzoo.layers.positions import (
    LearnedPositions,
    SinusoidLayout,
    positions_in_segments,
    sinusoids,
)
from seqzoo.layers.stack import Remat, Stack
from seqzoo.layers.transformer_layers import (
    Context,
    DecoderLayer,
    EncoderLayer,
    LayerConfig,
    Norm,
)
from seqzoo.models.base import ConfigError, LMOutput, ModelConfig
from seqzoo.models.flops import Flops
from seqzoo.models.transformer_cache import TransformerCache, TransformerMemory
from seqzoo.models.transformer_flops import transformer_flops
from seqzoo.parallel.axes import constrain
from seqzoo.parallel.shards import whole


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(ModelConfig):
    """Hyperparameters of the Transformer; the defaults are the paper's base model.

    Attributes:
        vocab_size: target vocabulary, and the source's too unless `source_vocab_size` says
            otherwise; `None` is filled in from the tokenizer.
        vocab_multiple: tables, and whatever else has a row per word, are stored padded to a
            multiple of this, so that a mesh can split them; 128 suits meshes and matrix units.
            Nothing else changes.
        source_vocab_size: source vocabulary where it differs; needs `tie='decoder'` or `'none'`.
        num_layers: layers of the encoder and of the decoder (N).
        num_encoder_layers: layers of the encoder, if not `num_layers`.
        num_decoder_layers: layers of the decoder, if not `num_layers`.
        embed_dim: width of the residual stream (d_model).
        mlp_dim: hidden width of the feed-forward layers (d_ff).
        num_heads: attention heads (h).
        key_dim: width of queries and keys per head (d_k); `None` is `embed_dim / num_heads`.
        value_dim: width of values per head (d_v); `None` is `embed_dim / num_heads`.
        dropout_rate: dropout on each sublayer's output and on the sums of embeddings and positions
            (P_drop).
        attention_dropout_rate: dropout of attention weights; the paper has none.
        mlp_dropout_rate: dropout of the hidden feed-forward units; the paper has none.
        norm: `'post'` normalises after each residual sum, as the paper; `'pre'` before each
            sublayer.
        norm_epsilon: added to the variance in layer normalisation.
        positions: `'sinusoidal'`, or `'learned'` up to `max_length`.
        sinusoid_layout: `'interleaved'` sine and cosine, as the paper; `'concatenated'`, as some
            checkpoints.
        max_length: longest source or target; needed by learned positions, otherwise unused.
        tie: which of the source embedding, the target embedding and the matrix before the softmax
            are one: `'all'` three, the `'decoder'`'s two, or `'none'`.
        scale_embeddings: multiply embeddings by `sqrt(embed_dim)`.
        attention_bias: biases in the four attention projections; the paper has none.
        mlp_activation: non-linearity of the feed-forward layers.
        final_logit_bias: a bias on the logits; the paper has none, some checkpoints do.
        dtype: dtype of activations; parameters, normalisation, softmax and logits are float32 in
            any case.
        scan_layers: run the layers as a loop (compiles once) or unrolled; the parameters are the
            same.
        remat: what the backward pass computes again to save memory: nothing, everything in a layer,
            or all but its matrix products (`'dots'`).
        attention_implementation: `'auto'`, `'xla'`, a fused kernel (`'splash'` on TPU, `'cudnn'` on
            GPU), or for a mesh that splits the length `'ring'`.
    """

    vocab_size: int | None = None
    vocab_multiple: int = 1
    source_vocab_size: int | None = None
    num_layers: int = 6
    num_encoder_layers: int | None = None
    num_decoder_layers: int | None = None
    embed_dim: int = 512
    mlp_dim: int = 2048
    num_heads: int = 8
    key_dim: int | None = None
    value_dim: int | None = None
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.0
    mlp_dropout_rate: float = 0.0
    norm: Norm = 'post'
    norm_epsilon: float = 1e-6
    positions: Literal['sinusoidal', 'learned'] = 'sinusoidal'
    sinusoid_layout: SinusoidLayout = 'interleaved'
    max_length: int | None = None
    tie: Literal['all', 'decoder', 'none'] = 'all'
    scale_embeddings: bool = True
    attention_bias: bool = False
    mlp_activation: Activation = 'relu'
    final_logit_bias: bool = False
    dtype: Literal['float32', 'bfloat16'] = 'float32'
    scan_layers: bool = True
    remat: Remat = 'none'
    attention_implementation: Implementation = 'auto'

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, 'num_layers', 'embed_dim', 'mlp_dim', 'num_heads', 'vocab_multiple')
        optional = ('num_encoder_layers', 'num_decoder_layers', 'key_dim', 'value_dim')
        check_sizes(self, *optional, 'vocab_size', 'source_vocab_size', 'max_length')
        check_sizes(self, 'norm_epsilon', least=0)
        check_rates(self, 'dropout_rate', 'attention_dropout_rate', 'mlp_dropout_rate')
        if None in (self.key_dim, self.value_dim):
            check_heads(self, 'key_dim and value_dim')
        if self.positions == 'learned' and self.max_length is None:
            raise ConfigError("positions 'learned' need max_length: set it to the longest sentence")
        check_tie(self)
        check_attention_dropout(self)

    def build(self) -> 'Transformer':
        """The module. Raises `ConfigError` while `vocab_size` is open."""
        if self.vocab_size is None:
            raise ConfigError(
                'vocab_size is open: set it, or prepare the data, whose tokenizer has one'
            )
        return Transformer(self)

    def layer(self) -> LayerConfig:
        """What concerns a single layer, head widths filled in."""
        return LayerConfig(
            embed_dim=self.embed_dim,
            mlp_dim=self.mlp_dim,
            num_heads=self.num_heads,
            key_dim=self.key_dim or self.embed_dim // self.num_heads,
            value_dim=self.value_dim or self.embed_dim // self.num_heads,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            mlp_dropout_rate=self.mlp_dropout_rate,
            norm=self.norm,
            norm_epsilon=self.norm_epsilon,
            attention_bias=self.attention_bias,
            mlp_activation=self.mlp_activation,
            dtype=jnp.dtype(self.dtype),
            attention_implementation=self.attention_implementation,
        )

    @property
    def longest_row(self) -> int | None:
        return self.max_length if self.positions == 'learned' else None

    @classmethod
    def tiny(cls) -> Self:
        """Two layers, 16 wide."""
        return cls(vocab_size=32, num_layers=2, embed_dim=16, mlp_dim=32, num_heads=2)

    def flops(self, batch: int, length: int) -> Flops:
        """By formula; source and target have the same length."""
        return transformer_flops(self, batch=batch, source_length=length, target_length=length)

    def example_inputs(self, batch: int = 2, length: int = 8) -> tuple[jax.Array, ...]:
        """Source and target token ids."""
        source = jnp.arange(batch * length, dtype=jnp.int32).reshape(batch, length)
        sizes = (self.source_vocab_size or self.vocab_size or 2, self.vocab_size or 2)
        return source % sizes[0], (source * 7 + 3) % sizes[1]


class Transformer(nn.Module):
    """The encoder-decoder, a `models.base.Seq2Seq`. `TransformerConfig(...).build()` makes it."""

    config: TransformerConfig

    def setup(self) -> None:
        """Declares embeddings, stacks and the matrix before the softmax."""
        c = self.config
        dtype, layer = jnp.dtype(c.dtype), c.layer()
        assert c.vocab_size is not None

        def embedding(size: int) -> Embedding:
            return Embedding(size, c.embed_dim, c.scale_embeddings, dtype, c.vocab_multiple)

        if c.tie == 'all':
            self.embedding = embedding(c.vocab_size)
        else:
            self.source_embedding = embedding(c.source_vocab_size or c.vocab_size)
            self.target_embedding = embedding(c.vocab_size)
        if c.positions == 'learned':
            assert c.max_length is not None
            self.source_positions = LearnedPositions(c.max_length, c.embed_dim)
            self.target_positions = LearnedPositions(c.max_length, c.embed_dim)
        self.embedding_dropout = Dropout(c.dropout_rate)
        self.encoder = Stack(
            EncoderLayer(layer), c.num_encoder_layers or c.num_layers, c.scan_layers, c.remat
        )
        self.decoder = Stack(
            DecoderLayer(layer), c.num_decoder_layers or c.num_layers, c.scan_layers, c.remat
        )
        if c.norm == 'pre':
            self.encoder_norm = LayerNorm(c.norm_epsilon)
            self.decoder_norm = LayerNorm(c.norm_epsilon)
        if c.tie == 'none':
            names, size = ('embed',), (c.vocab_size,)
            self.output = Linear(size, names, ('vocab',), False, dtype, c.vocab_multiple)
        if c.final_logit_bias:
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
            source_segments: `[batch, source_length]`: 1, 2, ... for packed sentences, 0 for
                padding; `None`: all real.
            target_segments: the same for the target; target segment 2 reads source segment 2.
            source_positions: `[batch, source_length]`; `None` counts from the start of each
                segment.
            target_positions: the same for the target.
            train: whether dropout is on (it draws from the `'dropout'` stream).
        """
        memory = self._encode(source, source_segments, source_positions, train)
        x = self._embed(target, target_segments, target_positions, train, side='target')
        if source_segments is not None and target_segments is None:
            target_segments = jnp.ones_like(target)
        context = Context(target_segments, memory, source_segments, train=train)
        features = self._finish_decoder(self.decoder(x, context))
        if self.is_initializing():
            self.unembed(features)  # creates the parameters that only the logits use
        return LMOutput(features=features)

    def unembed(self, features: jax.Array) -> jax.Array:
        """`[..., embed]` features -> `[..., vocab]` float32 logits."""
        if self.config.tie == 'none':
            logits = self.output(features)
        else:
            logits = self._embedding('target').unembed(features)
        if self.config.final_logit_bias:
            logits += self.logit_bias
        return constrain(logits, 'batch', 'length', 'vocab') if logits.ndim == 3 else logits

    def encode(
        self, source: jax.Array, *, source_segments: jax.Array | None = None
    ) -> TransformerMemory:
        """Encodes `[batch, source_length]` once, for any number of decoding steps and beams."""
        features = self._encode(source, source_segments, None, train=False)
        params = self.decoder.unstack(jnp.dtype(self.config.dtype))
        layers = tuple(x.project_memory(features) for x in self.decoder.bind_layers(params))
        return TransformerMemory(layers, params, source_segments)

    def init_cache(self, memory: TransformerMemory, max_length: int) -> TransformerCache:
        """An empty cache for `max_length` decoded tokens."""
        batch = memory.layers[0].keys.shape[0]
        layers = tuple(
            x.empty_cache(batch, max_length) for x in self.decoder.bind_layers(memory.params)
        )
        return TransformerCache(layers, jnp.zeros((), jnp.int32))

    def extend(
        self, tokens: jax.Array, memory: TransformerMemory, cache: TransformerCache
    ) -> tuple[jax.Array, TransformerCache]:
        """Reads `tokens` `[batch, n]` after what the cache holds; logits `[batch, n, vocab]`."""
        now, length = cache.position, tokens.shape[1]
        mask = causal_mask(length, cache.layers[0].keys.shape[2], offset=now)
        positions = now + jnp.arange(length, dtype=jnp.int32)
        logits, layers = self._step(tokens, positions, memory, cache.layers, now, mask)
        return logits, TransformerCache(layers, now + length)

    def init_beam_cache(
        self, memory: TransformerMemory, max_length: int, beams: int
    ) -> TransformerCache:
        """An empty cache for `max_length` time steps of `beams` hypotheses per source."""
        cache = self.init_cache(memory, max_length * beams)
        batch = memory.layers[0].keys.shape[0]
        ancestry = jnp.zeros((batch, beams, max_length), jnp.int32)
        return TransformerCache(cache.layers, cache.position, ancestry)

    def extend_beams(
        self,
        tokens: jax.Array,
        parents: jax.Array,
        memory: TransformerMemory,
        cache: TransformerCache,
    ) -> tuple[jax.Array, TransformerCache]:
        """Reads one token of every hypothesis; the beams are so many queries at the same time step.

        Args:
            tokens: `[batch, beams]`: the token that each hypothesis ends with.
            parents: `[batch, beams]`: the beam, in the previous call, that each hypothesis
                continues.
            memory: from `encode`, without a beam axis.
            cache: from `init_beam_cache` or the previous call. Keys and values stay where they were
                written.

        Returns:
            Float32 logits `[batch, beams, vocab]` of the next token, and the cache.
        """
        assert cache.ancestry is not None
        now, beams = cache.position, tokens.shape[1]
        ancestry = jnp.take_along_axis(cache.ancestry, parents[..., None], axis=1)
        here = jnp.broadcast_to(jnp.arange(beams, dtype=jnp.int32)[:, None], (*tokens.shape, 1))
        ancestry = jax.lax.dynamic_update_slice(ancestry, here, (0, 0, now))
        mask = ancestry_mask(ancestry, now)
        logits, layers = self._step(tokens, now[None], memory, cache.layers, now * beams, mask)
        return logits, TransformerCache(layers, now + 1, ancestry)

    def _step(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        memory: TransformerMemory,
        caches: tuple[KeysValues, ...],
        slot: jax.Array,
        mask: jax.Array,
    ) -> tuple[jax.Array, tuple[KeysValues, ...]]:
        """Runs new tokens through the decoder layers, each with its own memory and cache."""
        with whole('length'):  # a token or a few
            x = self._embed(tokens, None, positions[None], train=False, side='target')
            real = None if memory.segments is None else (memory.segments > 0)[:, None, None]
            layers, new = self.decoder.bind_layers(memory.params), []
            for layer, keys_values, cache in zip(layers, memory.layers, caches, strict=True):
                x, cache = layer.extend(x, keys_values, real, cache, slot, mask)
                new.append(cache)
            self.decoder.collect(layers)
            return self.unembed(self._finish_decoder(x)), tuple(new)

    def _encode(
        self,
        source: jax.Array,
        segments: jax.Array | None,
        positions: jax.Array | None,
        train: bool,
    ) -> jax.Array:
        x = self._embed(source, segments, positions, train, side='source')
        x = self.encoder(x, Context(segments, train=train))
        return self.encoder_norm(x) if self.config.norm == 'pre' else x

    def _finish_decoder(self, x: jax.Array) -> jax.Array:
        return self.decoder_norm(x) if self.config.norm == 'pre' else x

    def _embedding(self, side: Literal['source', 'target']) -> Embedding:
        if self.config.tie == 'all':
            return self.embedding
        return self.source_embedding if side == 'source' else self.target_embedding

    def _embed(
        self,
        tokens: jax.Array,
        segments: jax.Array | None,
        positions: jax.Array | None,
        train: bool,
        *,
        side: Literal['source', 'target'],
    ) -> jax.Array:
        """`[batch, length]` ids -> `Dropout(embedding + position)` `[batch, length, embed]`."""
        c, length = self.config, tokens.shape[1]
        if positions is None and segments is not None:
            positions = positions_in_segments(segments)
        elif positions is None:
            positions = jnp.arange(length, dtype=jnp.int32)[None]
        if c.positions == 'learned':
            if c.max_length is not None and length > c.max_length:
                raise ConfigError(
                    f'{side} has {length} positions, but they are learned up to max_length '
                    f'{c.max_length}: raise max_length or shorten the data'
                )
            table = self.source_positions if side == 'source' else self.target_positions
            where = table(positions)
        else:
            where = sinusoids(positions, c.embed_dim, c.sinusoid_layout)
        x = self._embedding(side)(tokens)
        x = self.embedding_dropout(x + where.astype(x.dtype), train)
        return constrain(x, 'batch', 'length', 'embed')
