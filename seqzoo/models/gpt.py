"""GPT, the decoder-only Transformer, in the versions of four papers.

    x_0 = Dropout(embedding(token) + position)
    x_l = Layer_l(x_{l-1})                       causal self-attention and a feed-forward layer
    p(next token) = softmax(W LayerNorm(x_N))

GPT-1 (Radford et al. 2018) has post-norm layers and no norm before the softmax. GPT-2 (Radford et
al. 2019) has pre-norm layers, that last norm, and starts the kernels that write into the residual
stream smaller, with a standard deviation of 0.02 / sqrt(2 N), so that the stream of a deep network
does not grow. GPT-3 (Brown et al. 2020, arXiv:2005.14165) is GPT-2 with every other layer attending
within a band. GPT-NeoX-20B (Black et al. 2022, arXiv:2204.06745) turns a quarter of each head by
its position instead of adding a vector, reads both sublayers from the same stream,

    x_l = x_{l-1} + Attention(LayerNorm_1(x_{l-1})) + FeedForward(LayerNorm_2(x_{l-1})),

and has a matrix of its own before the softmax. In the others it is the table of embeddings.

The defaults are GPT-2 with 124 million parameters; the configurations `gpt1`, `gpt2`, `gpt3` and
`gpt_neox_20b` are the papers'.

Deviations: GPT-2's code starts learned positions with a standard deviation of 0.01, here as in most
reproductions it is that of all tables, 0.02. GPT-3 does not publish how wide its bands are; 256
keys, as its reproduction GPT-Neo has them, stand in. NeoX trained with bfloat16 scores; softmax and
logits are float32 here.

A band is cheap in the full pass (see `layers.banded_attention`). Decoding reads a whole cache and
masks what lies outside: correct, and as expensive as a dense layer.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.configuration.checks import check_rates, check_sizes
from seqzoo.layers.attention import Implementation
from seqzoo.layers.checks import check_attention_dropout, check_heads
from seqzoo.layers.dropout import Dropout
from seqzoo.layers.embedding import Embedding
from seqzoo.layers.feedforward import Activation
from seqzoo.layers.linear import Linear
from seqzoo.layers.multi_head_attention import KeysValues
from seqzoo.layers.normalization import LayerNorm
from seqzoo.layers.positions import LearnedPositions, Rotary, positions_in_segments
from seqzoo.layers.stack import Remat, Stack
from seqzoo.layers.transformer_layers import CausalLayer, Context, LayerConfig, LayerGroup, Norm
from seqzoo.models.base import ConfigError, LMOutput, ModelConfig
from seqzoo.models.flops import Flops, attention_layer_flops, logits_flops
from seqzoo.models.gpt_cache import GPTCache
from seqzoo.parallel.axes import constrain
from seqzoo.parallel.shards import whole


@dataclass(frozen=True, kw_only=True)
class GPTConfig(ModelConfig):
    """Hyperparameters of GPT; the defaults are GPT-2's smallest.

    Attributes:
        vocab_size: `None` is filled in from the tokenizer.
        vocab_multiple: tables are stored padded to a multiple of this, so that a mesh can split
            them.
        num_layers: depth.
        embed_dim: width of the residual stream.
        mlp_dim: hidden width of the feed-forward layers; `None` is `4 * embed_dim`.
        num_heads: attention heads.
        head_dim: width of a head; `None` is `embed_dim / num_heads`.
        max_length: how many positions there are where they are learned; otherwise the length that
            is trained on, and no limit.
        positions: `'learned'` vectors are added to the embeddings, a `'rotary'` embedding turns
            queries and keys.
        rotary_share: of each head, how much is turned.
        rotary_base: the wavelengths are geometric from 2 pi to 2 pi times this.
        attention_bands: how many keys a query sees, in layers 1, 2, ... and over again; 0: all.
        norm: `'pre'` with a norm behind the last layer, or `'post'` without.
        norm_epsilon: added to the variance in layer normalisation.
        parallel_residual: attention and feed-forward layer read the same stream; needs `'pre'`.
        mlp_activation: non-linearity of the feed-forward layers; the GPTs' code approximates gelu
            by a hyperbolic tangent, NeoX computes it exactly.
        attention_bias, mlp_bias, norm_bias: which of the parts have biases.
        tie: the matrix before the softmax is the table of embeddings.
        init_std: tables and kernels start normal with this standard deviation.
        residual_init_std: the same of kernels that write into the residual stream; `None` is
            `init_std / sqrt(2 * num_layers)`.
        dropout_rate: dropout on each sublayer's output and on the embeddings.
        attention_dropout_rate: dropout of attention weights.
        dtype: dtype of activations; parameters, normalisation, softmax and logits are float32 in
            any case.
        scan_layers: run the layers as a loop (compiles once) or unrolled; the parameters are the
            same.
        remat: what the backward pass computes again to save memory: nothing, everything in a layer,
            or all but its matrix products (`'dots'`).
        attention_implementation: see `dot_product_attention`.
    """

    vocab_size: int | None = None
    vocab_multiple: int = 1
    num_layers: int = 12
    embed_dim: int = 768
    mlp_dim: int | None = None
    num_heads: int = 12
    head_dim: int | None = None
    max_length: int = 1024
    positions: Literal['learned', 'rotary'] = 'learned'
    rotary_share: float = 0.25
    rotary_base: float = 10_000.0
    attention_bands: tuple[int, ...] = (0,)
    norm: Norm = 'pre'
    norm_epsilon: float = 1e-5
    parallel_residual: bool = False
    mlp_activation: Activation = 'gelu_tanh'
    attention_bias: bool = True
    mlp_bias: bool = True
    norm_bias: bool = True
    tie: bool = True
    init_std: float = 0.02
    residual_init_std: float | None = None
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1
    dtype: Literal['float32', 'bfloat16'] = 'float32'
    scan_layers: bool = True
    remat: Remat = 'none'
    attention_implementation: Implementation = 'auto'

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = ('num_layers', 'embed_dim', 'num_heads', 'max_length', 'vocab_multiple')
        check_sizes(self, *sizes, 'mlp_dim', 'head_dim', 'vocab_size')
        check_sizes(self, 'norm_epsilon', least=0)
        check_rates(self, 'dropout_rate', 'attention_dropout_rate')
        if self.head_dim is None:
            check_heads(self, 'head_dim')
        bands = self.attention_bands
        if not bands or min(bands) < 0:
            raise ConfigError(
                f'attention_bands is {bands}: name how many keys are seen, 0 for all, in one layer '
                'or more'
            )
        if self.num_layers % len(bands):
            raise ConfigError(
                f'attention_bands names {len(bands)} kinds of layers, which num_layers '
                f'{self.num_layers} is no multiple of: change one of them'
            )
        if self.parallel_residual and self.norm == 'post':
            raise ConfigError("parallel_residual needs norm 'pre': set one of them otherwise")
        if not 0 <= self.rotary_share <= 1 or not 0 < self.rotary_base < math.inf:
            raise ConfigError(
                f'rotary_share is {self.rotary_share} and rotary_base {self.rotary_base}: a share '
                'lies in [0, 1], a base above 0'
            )
        if (rotary := self.rotary()) and rotary.columns > self.width_of_head:
            raise ConfigError(
                f'rotary_share {self.rotary_share} of a head of {self.width_of_head} is '
                f'{rotary.columns} columns, which go in pairs: take a smaller share'
            )
        if not 0 < self.norm_epsilon < math.inf:
            raise ConfigError(f'norm_epsilon is {self.norm_epsilon}: give a small number above 0')
        check_attention_dropout(self)

    @property
    def width_of_head(self) -> int:
        """`head_dim`, filled in."""
        return self.head_dim or self.embed_dim // self.num_heads

    def rotary(self) -> Rotary | None:
        """What turns queries and keys, if anything does."""
        dims = int(self.width_of_head * self.rotary_share)
        return Rotary(dims, self.rotary_base) if self.positions == 'rotary' and dims else None

    @property
    def residual_std(self) -> float:
        """`residual_init_std`, filled in."""
        if self.residual_init_std is not None:
            return self.residual_init_std
        return self.init_std / (2 * self.num_layers) ** 0.5

    def build(self) -> 'GPT':
        """The module. Raises `ConfigError` while `vocab_size` is open."""
        if self.vocab_size is None:
            raise ConfigError(
                'vocab_size is open: set it, or prepare the data, whose tokenizer has one'
            )
        return GPT(self)

    def layers(self) -> tuple[LayerConfig, ...]:
        """The kinds of layers, in the order in which they take turns."""
        return tuple(
            LayerConfig(
                embed_dim=self.embed_dim,
                mlp_dim=self.mlp_dim or 4 * self.embed_dim,
                num_heads=self.num_heads,
                key_dim=self.width_of_head,
                value_dim=self.width_of_head,
                dropout_rate=self.dropout_rate,
                attention_dropout_rate=self.attention_dropout_rate,
                mlp_dropout_rate=0.0,
                norm=self.norm,
                norm_epsilon=self.norm_epsilon,
                attention_bias=self.attention_bias,
                mlp_activation=self.mlp_activation,
                dtype=jnp.dtype(self.dtype),
                attention_implementation=self.attention_implementation,
                mlp_bias=self.mlp_bias,
                norm_bias=self.norm_bias,
                kernel_init=nn.initializers.normal(self.init_std),
                output_init=nn.initializers.normal(self.residual_std),
                parallel_residual=self.parallel_residual,
                rotary=self.rotary(),
                band=band or None,
            )
            for band in self.attention_bands
        )

    @property
    def longest_row(self) -> int | None:
        return self.max_length if self.positions == 'learned' else None

    @classmethod
    def tiny(cls) -> Self:
        """Two banded layers, 16 wide."""
        return cls(
            vocab_size=32,
            num_layers=2,
            embed_dim=16,
            mlp_dim=32,
            num_heads=2,
            max_length=16,
            attention_bands=(2,),
        )

    def example_inputs(self, batch: int = 2, length: int = 8) -> tuple[jax.Array, ...]:
        """Token ids."""
        tokens = jnp.arange(batch * length, dtype=jnp.int32).reshape(batch, length)
        return (tokens * 7 % (self.vocab_size or 2),)

    def flops(self, batch: int, length: int) -> Flops:
        """Attention, feed-forward layers, and logits at every position.

        Dense layers compute all pairs of positions, banded ones those of two bands.
        """
        if self.vocab_size is None:
            raise ConfigError('vocab_size is open: operations need the size of the vocabulary')
        total = Flops()
        for layer in self.layers():
            total += attention_layer_flops(layer, batch=batch, length=length)
        return self.num_layers // len(self.attention_bands) * total + logits_flops(
            tokens=batch * length, embed_dim=self.embed_dim, vocab_size=self.vocab_size
        )


class GPT(nn.Module):
    """The network, a `models.base.CausalLM`. `GPTConfig(...).build()` makes it."""

    config: GPTConfig

    def setup(self) -> None:
        """Declares tables, layers and the matrix before the softmax."""
        c = self.config
        dtype, size, kinds = jnp.dtype(c.dtype), c.vocab_size, c.layers()
        assert size is not None
        normal = nn.initializers.normal(c.init_std)
        self.embedding = Embedding(size, c.embed_dim, False, dtype, c.vocab_multiple, normal)
        if c.positions == 'learned':
            self.positions = LearnedPositions(c.max_length, c.embed_dim, normal)
        self.embedding_dropout = Dropout(c.dropout_rate)
        layers = [CausalLayer(kind) for kind in kinds]
        one = LayerGroup(tuple(layers)) if len(layers) > 1 else layers[0]
        self.decoder = Stack(one, c.num_layers // len(kinds), c.scan_layers, c.remat)
        if c.norm == 'pre':
            self.decoder_norm = LayerNorm(c.norm_epsilon, c.norm_bias)
        if not c.tie:
            names, multiple = ('embed',), c.vocab_multiple
            self.output = Linear((size,), names, ('vocab',), False, dtype, multiple, normal)

    def __call__(
        self,
        tokens: jax.Array,
        *,
        segments: jax.Array | None = None,
        positions: jax.Array | None = None,
        carry: tuple[()] = (),
        train: bool = False,
    ) -> LMOutput:
        """Features of every position at once.

        Args:
            tokens: `[batch, length]` int32 ids, shifted already.
            segments: `[batch, length]`: 1, 2, ... for packed texts that do not see each other, 0
                for padding; `None`: all real and one text.
            positions: `[batch, length]`; `None` counts from the start of each segment.
            carry: nothing is carried.
            train: whether dropout is on.

        Raises:
            ConfigError: there are more tokens than learned positions.
        """
        del carry
        if positions is None and segments is not None:
            positions = positions_in_segments(segments)
        elif positions is None:
            positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
        x = self._embed(tokens, positions, train)
        turned = positions if self.config.positions == 'rotary' else None
        x = self.decoder(x, Context(segments, positions=turned, train=train))
        features = self._finish(x)
        if self.is_initializing():
            self.unembed(features)  # creates the parameters that only the logits use
        return LMOutput(features=features)

    def unembed(self, features: jax.Array) -> jax.Array:
        """`[..., embed]` features -> `[..., vocab]` float32 logits."""
        if self.config.tie:
            logits = self.embedding.unembed(features)
        else:
            logits = self.output(features).astype(jnp.float32)
        return constrain(logits, 'batch', 'length', 'vocab') if logits.ndim == 3 else logits

    def initial_carry(self, batch: int) -> tuple[()]:
        """Nothing: a row sees what stands in it."""
        del batch
        return ()

    def init_cache(self, batch: int, max_length: int) -> GPTCache:
        """An empty cache for `max_length` tokens."""
        c = self.config
        shape = (batch, c.num_heads, max_length, c.width_of_head)
        zeros = jnp.zeros(shape, jnp.dtype(c.dtype))
        layers = tuple(KeysValues(zeros, zeros) for _ in range(c.num_layers))
        return GPTCache(layers, jnp.zeros((batch,), jnp.int32))

    def extend(
        self, tokens: jax.Array, lengths: jax.Array, cache: GPTCache
    ) -> tuple[jax.Array, GPTCache]:
        """Reads the first `lengths` `[batch]` of `tokens` `[batch, n]`; logits `[batch, n,
        vocab]`.
        """
        first = cache.positions
        positions = first[:, None] + jnp.arange(tokens.shape[1], dtype=jnp.int32)
        mask = functools.partial(cache.mask, positions)
        logits, layers = self._step(tokens, positions, cache.layers, first, mask, lengths)
        return logits, GPTCache(layers, first + lengths)

    def init_beam_cache(self, cache: GPTCache, room: int, beams: int) -> GPTCache:
        """A cache whose rows have each been read, with room for `room` time steps of `beams`
        hypotheses that all go on from there.
        """
        return cache.for_beams(room, beams)

    def extend_beams(
        self, tokens: jax.Array, parents: jax.Array, cache: GPTCache
    ) -> tuple[jax.Array, GPTCache]:
        """Reads one token of every hypothesis; the beams are so many queries at the same time step.

        Args:
            tokens: `[batch, beams]`: the token that each hypothesis ends with.
            parents: `[batch, beams]`: the beam, in the previous call, that each hypothesis
                continues.
            cache: from `init_beam_cache` or the previous call. Keys and values stay where they were
                written.

        Returns:
            Float32 logits `[batch, beams, vocab]` of the next token, and the cache.
        """
        cache = cache.following(parents)
        assert cache.time is not None
        positions = jnp.broadcast_to(cache.positions[:, None] + cache.time, tokens.shape)
        logits, layers = self._step(
            tokens, positions, cache.layers, cache.next_slot, cache.beam_mask
        )
        return logits, GPTCache(layers, cache.positions, cache.time + 1, cache.ancestry)

    def for_decoding(self, variables: Any) -> Any:
        """The same variables as decoding reads them fastest: layers apart, in `dtype`.

        Whoever decodes many tokens does this once before. `extend` and `extend_beams` take either;
        with the variables as they are, every call takes the layers apart anew.
        """
        layers = self.apply(variables, method='_unstacked')
        return {**variables, 'layers': {'decoder': layers}}

    def _unstacked(self) -> tuple[Any, ...]:
        return self.decoder.unstack(jnp.dtype(self.config.dtype))

    def _step(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        caches: tuple[KeysValues, ...],
        slot: jax.Array,
        mask: Callable[[int | None], jax.Array],
        lengths: jax.Array | None = None,
    ) -> tuple[jax.Array, tuple[KeysValues, ...]]:
        """Runs new tokens through the layers, each with its own cache; `mask` is made by band."""
        kinds = self.config.layers()
        masks = {kind.band: mask(kind.band) for kind in kinds}
        with whole('length'):  # a token or a few
            # Places that nobody reads may lie beyond the last position.
            last = self.config.max_length - 1
            x = self._embed(tokens, jnp.minimum(positions, last), train=False)
            apart = self.variables.get('layers', {}).get('decoder') or self._unstacked()
            bound, new = self.decoder.bind_layers(apart), []
            layers: list[Any] = []
            for group in bound:
                layers += group.layers if len(kinds) > 1 else [group]
            for layer, cache in zip(layers, caches, strict=True):
                visible = masks[layer.config.band]
                x, cache = layer.extend(x, cache, slot, visible, positions, lengths)
                new.append(cache)
            self.decoder.collect(bound)
            return self.unembed(self._finish(x)), tuple(new)

    def _finish(self, x: jax.Array) -> jax.Array:
        return self.decoder_norm(x) if self.config.norm == 'pre' else x

    def _embed(self, tokens: jax.Array, positions: jax.Array, train: bool) -> jax.Array:
        """`[batch, length]` ids -> `[batch, length, embed]`."""
        x = self.embedding(tokens)
        if self.config.positions == 'learned':
            if tokens.shape[1] > self.config.max_length:
                raise ConfigError(
                    f'a text has {tokens.shape[1]} positions, but they are learned up to '
                    f'max_length {self.config.max_length}: raise max_length or shorten the text'
                )
            x = x + self.positions(positions).astype(x.dtype)
        return constrain(self.embedding_dropout(x, train), 'batch', 'length', 'embed')
