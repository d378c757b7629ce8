"""Recurrent language models, from the character network to the mixture of experts.

    x_t = E[w_t]                                   embedding, or the word itself as one of V units
    h^l_t = cell_l(D(h^{l-1}_t), h^l_{t-1})        h^0 = x; D is dropout, l = 1 ... L
    p(w_{t+1} | w_1 ... w_t) = softmax(D(h^L_t) W + b)

What the papers make of it, all of it fields of the configuration:

    Elman 1990; Karpathy's char-rnn    one-hot characters, tanh network or LSTM
    Zaremba, Sutskever, Vinyals 2014   LSTM with D between layers, before the first and behind the
        (arXiv:1409.2329)              last, never on h^l_{t-1}; state carried from batch to batch
    Merity, Keskar, Socher 2017        AWD-LSTM: D drops the same features at every step, U of
        (arXiv:1708.02182)             h^l_{t-1} U drops connections, E drops whole words, W = E^T;
                                       loss + alpha mean (D(h^L_t))^2
                                            + beta mean (h^L_t - h^L_{t-1})^2
    Kuchaiev, Ginsburg 2017            the matrix to the gates factorised or in groups
        (arXiv:1703.10722)             (`layers.factorised`)
    Shazeer et al. 2017                between two layers h <- h + D(s(MoE(h))), s the logistic
        (arXiv:1701.06538)             function (`layers.mixture`); loss + importance + load

The cell of an LSTM is that of `layers.recurrent_cells`, whose biases start at zero, the forget
gate's at its `forget_bias`: Zaremba et al. and Merity et al. draw them like the kernels.

Deviations. AWD-LSTM's second term is divided by all steps, not by all steps but one, so that it
does not depend on how a batch is split. Shazeer et al. drop the output of a layer before they add
its input; with `residual_from` the sum is dropped. Where experts have a limited number of places
while training, a word's second choice may lose its place to a later word's first: the loss of
training is then not quite causal; evaluation always is.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.configuration.checks import check_rates, check_sizes
from seqzoo.layers.embedding import Embedding, logit_bias
from seqzoo.layers.linear import Linear
from seqzoo.layers.mixture import MixtureConfig, MixtureOfExperts
from seqzoo.layers.recurrent import Recurrence, RecurrentConfig, RecurrentStack, length_mask
from seqzoo.layers.recurrent_cells import LSTM
from seqzoo.layers.recurrent_dropout import drop_features, embedding_dropout
from seqzoo.layers.recurrent_initializers import uniform
from seqzoo.models.base import ConfigError, LMOutput, ModelConfig
from seqzoo.models.flops import Flops, logits_flops, mixture_flops, recurrent_flops
from seqzoo.parallel.axes import constrain


@dataclass(frozen=True, kw_only=True)
class RecurrentLMConfig(ModelConfig):
    """Hyperparameters of a recurrent language model; the defaults are Zaremba et al.'s small one.

    Attributes:
        vocab_size: words or characters; `None` is filled in from the tokenizer.
        vocab_multiple: what has a row per word is stored padded to a multiple of this.
        embed_dim: width of the embeddings; `None`: words enter one-hot, without a table.
        layers: the recurrent layers and the dropout around them.
        embedding_dropout_rate: drops words, wherever they occur in a batch.
        tie: the matrix before the softmax is the table of embeddings.
        output_bias: a bias on the logits.
        init_scale: table and output matrix start uniform within plus and minus this; `None`: as
            their layers have it. Recurrent kernels have `layers.cell.init_scale`.
        activation_weight: of the mean square of the top layer's output after dropout (alpha).
        temporal_activation_weight: of the mean square of its change from step to step (beta).
        mixture: a mixture of experts between the layers; `None`: none.
        mixture_after: how many recurrent layers lie below the mixture.
        dtype: dtype of the matrix products and of activations; parameters, states and logits are
            float32 in any case.
    """

    stacks = False  # the bottom layer is nearly always of another shape

    vocab_size: int | None = None
    vocab_multiple: int = 1
    embed_dim: int | None = 200
    layers: RecurrentConfig = field(
        default_factory=lambda: RecurrentConfig(
            cell=LSTM(hidden_dim=200, init_scale=0.1, forget_bias=0.0), num_layers=2
        )
    )
    embedding_dropout_rate: float = 0.0
    tie: bool = False
    output_bias: bool = True
    init_scale: float | None = 0.1
    activation_weight: float = 0.0
    temporal_activation_weight: float = 0.0
    mixture: MixtureConfig | None = None
    mixture_after: int = 1
    dtype: Literal['float32', 'bfloat16'] = 'float32'

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        check_sizes(self, 'vocab_size', 'vocab_multiple', 'embed_dim')
        check_rates(self, 'embedding_dropout_rate')
        for name in ('activation_weight', 'temporal_activation_weight'):
            if getattr(self, name) < 0:
                raise ConfigError(f'{name} is {getattr(self, name)}: a weight is not negative')
        if self.layers.directions != 'forward':
            raise ConfigError(
                f'layers.directions is {self.layers.directions!r}: a language model reads '
                "'forward', or it would see the words that it predicts"
            )
        if self.tie and self.embed_dim != self.features_dim:
            raise ConfigError(
                f'tie shares the table of embeddings with the output, but embed_dim is '
                f'{self.embed_dim} and the top layer gives {self.features_dim}: make them equal'
            )
        if self.mixture is not None and not 0 < self.mixture_after < self.layers.num_layers:
            raise ConfigError(
                f'mixture_after is {self.mixture_after} of {self.layers.num_layers} layers: the '
                'mixture lies between two of them'
            )
        mixture = self.mixture
        if mixture and (mixture.evaluation_dispatch or mixture.dispatch) == 'capacity':
            raise ConfigError(
                "mixture.dispatch 'capacity' lets later words decide which earlier ones find a "
                "place: set mixture.evaluation_dispatch to 'dense'"
            )

    @property
    def features_dim(self) -> int:
        """How wide the output of the top layer is."""
        return self.layers.output_dims[-1]

    def build(self) -> 'RecurrentLM':
        """The module. Raises `ConfigError` while `vocab_size` is open."""
        if self.vocab_size is None:
            raise ConfigError(
                'vocab_size is open: set it, or prepare the data, whose tokenizer has one'
            )
        return RecurrentLM(self)

    @classmethod
    def tiny(cls) -> Self:
        """Two LSTM layers, 16 wide, with dropout and the regularisation of their outputs."""
        layers = RecurrentConfig(
            cell=LSTM(hidden_dim=16), num_layers=2, dropout_rate=0.2, output_dropout_rate=0.2
        )
        return cls(
            vocab_size=32,
            embed_dim=16,
            layers=layers,
            activation_weight=2.0,
            temporal_activation_weight=1.0,
        )

    def example_inputs(self, batch: int = 2, length: int = 8) -> tuple[jax.Array, ...]:
        """Token ids."""
        tokens = jnp.arange(batch * length, dtype=jnp.int32).reshape(batch, length)
        return (tokens * 7 % (self.vocab_size or 2),)

    def flops(self, batch: int, length: int) -> Flops:
        """Recurrent layers, experts with their gates, and logits at every position."""
        if self.vocab_size is None:
            raise ConfigError('vocab_size is open: operations need the size of the vocabulary')
        tokens, width = batch * length, self.embed_dim or self.vocab_size
        total = recurrent_flops(self.layers, tokens=tokens, input_dim=width)
        if self.mixture is not None:
            width = self.layers.output_dims[self.mixture_after - 1]
            total += mixture_flops(self.mixture, batch=batch, length=length, embed_dim=width)
        return total + logits_flops(
            tokens=tokens, embed_dim=self.features_dim, vocab_size=self.vocab_size
        )


class RecurrentLM(nn.Module):
    """The network, a `models.base.CausalLM`. `RecurrentLMConfig(...).build()` makes it.

    Its carry and its cache are the same: a tuple over recurrent layers.
    """

    config: RecurrentLMConfig

    def setup(self) -> None:
        """Declares the table, the layers and the matrix before the softmax."""
        c = self.config
        dtype, size = jnp.dtype(c.dtype), c.vocab_size
        assert size is not None
        start = None if c.init_scale is None else uniform(c.init_scale)
        if c.embed_dim is not None:
            self.embedding = Embedding(size, c.embed_dim, False, dtype, c.vocab_multiple, start)
        if c.mixture is None:
            self.stack = RecurrentStack(c.layers, dtype)
        else:
            below, above = c.layers.split(c.mixture_after)
            self.stack = RecurrentStack(below, dtype)
            self.mixture = MixtureOfExperts(c.mixture, dtype)
            self.upper_stack = RecurrentStack(above, dtype)
        if not c.tie:
            out = Linear((size,), ('embed',), ('vocab',), False, dtype, c.vocab_multiple, start)
            self.output = out
        if c.output_bias:
            self.logit_bias = logit_bias(self, size, c.vocab_multiple)

    def __call__(
        self,
        tokens: jax.Array,
        *,
        segments: jax.Array | None = None,
        positions: jax.Array | None = None,
        carry: tuple[Any, ...] = (),
        train: bool = False,
    ) -> LMOutput:
        """Features of every position at once.

        Args:
            tokens: `[batch, length]` int32 ids, shifted already.
            segments: `[batch, length]`: 1, 2, ... for packed texts, 0 for padding; `None`: all
                real. The first segment of a row goes on from the carry.
            positions: of no effect; a recurrent network counts by itself.
            carry: the state that an earlier call returned; `()` begins anew.
            train: whether dropout is on, and the noise of the gates of a mixture (both draw from
                the `'dropout'` stream).

        Returns:
            Features, the carry behind the last token, and the losses `'activation'`,
            `'temporal_activation'`, `'importance'` and `'load'`, those that the configuration asks
            for.
        """
        del positions
        x = self._embed(tokens, train)
        result, losses = self._run(x, carry, segments=segments, train=train)
        losses |= self._activation_losses(result, segments)
        if self.is_initializing():
            self.unembed(result.features)  # creates the parameters that only the logits use
        return LMOutput(result.features, result.carry, losses)

    def unembed(self, features: jax.Array) -> jax.Array:
        """`[..., hidden]` features -> `[..., vocab]` float32 logits."""
        if self.config.tie:
            logits = self.embedding.unembed(features)
        else:
            logits = self.output(features).astype(jnp.float32)
        if self.config.output_bias:
            logits += self.logit_bias
        return constrain(logits, 'batch', 'length', 'vocab') if logits.ndim == 3 else logits

    def initial_carry(self, batch: int) -> tuple[Any, ...]:
        """Zeros, a tuple over recurrent layers, every leaf float32 `[batch, hidden]`."""
        return self.config.layers.initial_carry(batch)

    def init_cache(self, batch: int, max_length: int) -> tuple[Any, ...]:
        """The state before the first token; it does not grow with `max_length`."""
        del max_length
        return self.initial_carry(batch)

    def extend(
        self, tokens: jax.Array, lengths: jax.Array, cache: tuple[Any, ...]
    ) -> tuple[jax.Array, tuple[Any, ...]]:
        """Reads the first `lengths` `[batch]` of `tokens` `[batch, n]`; logits `[batch, n,
        vocab]`.
        """
        mask = length_mask(lengths, tokens.shape[1])
        result, _ = self._run(self._embed(tokens, train=False), cache, mask=mask)
        return self.unembed(result.features), result.carry

    def _embed(self, tokens: jax.Array, train: bool) -> jax.Array:
        """`[batch, length]` ids -> `[batch, length, embed]`."""
        c = self.config
        assert c.vocab_size is not None
        if c.embed_dim is None:
            x = jax.nn.one_hot(tokens, c.vocab_size, dtype=jnp.dtype(c.dtype))
        else:
            x = self.embedding(tokens)
        if train and c.embedding_dropout_rate:
            key, every = self.make_rng('dropout'), jnp.ones((c.vocab_size, 1), x.dtype)
            x *= embedding_dropout(every, c.embedding_dropout_rate, key)[tokens]
        return constrain(x, 'batch', 'length', 'embed')

    def _run(
        self,
        x: jax.Array,
        carry: tuple[Any, ...],
        *,
        segments: jax.Array | None = None,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[Recurrence, dict[str, jax.Array]]:
        """All recurrent layers, and the losses of the mixture between them."""
        c, control = self.config, {'segments': segments, 'mask': mask, 'train': train}
        if c.mixture is None:
            return self.stack(x, carry=carry or None, **control), {}
        at = c.mixture_after
        below = self.stack(x, carry=carry[:at] or None, **control)
        real = mask if segments is None else segments > 0
        mixed = self.mixture(below.features, mask=real, train=train)
        added, rate = nn.sigmoid(mixed.features), c.layers.dropout_rate
        if train and rate:
            key = self.make_rng('dropout')
            added = drop_features(added, rate, key, variational=c.layers.variational)
        above = self.upper_stack(below.features + added, carry=carry[at:] or None, **control)
        carry = below.carry + above.carry
        return Recurrence(above.features, carry, above.undropped), mixed.losses

    def _activation_losses(
        self, result: Recurrence, segments: jax.Array | None
    ) -> dict[str, jax.Array]:
        """Means over real tokens; features are zero elsewhere."""
        c, losses = self.config, {}
        h, dropped = result.undropped, result.features
        assert h is not None
        shape = h.shape[:2]
        real = jnp.ones(shape, bool) if segments is None else segments > 0
        number = jnp.maximum(jnp.sum(real), 1) * h.shape[-1]
        if c.activation_weight:
            total = jnp.sum(jnp.square(dropped.astype(jnp.float32)))
            losses['activation'] = c.activation_weight * total / number
        if c.temporal_activation_weight:
            pairs = real[:, 1:] & real[:, :-1]
            if segments is not None:
                pairs &= segments[:, 1:] == segments[:, :-1]
            h = h.astype(jnp.float32)
            change = jnp.where(pairs[..., None], h[:, 1:] - h[:, :-1], 0.0)
            total = jnp.sum(jnp.square(change))
            losses['temporal_activation'] = c.temporal_activation_weight * total / number
        return losses
