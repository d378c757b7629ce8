"""Residual blocks around a dilated convolution (Kalchbrenner et al. 2016, arXiv:1610.10099).

On a stream x of 2d channels, with L layer normalisation and M a convolution of k taps over d
channels, masked (causal) in a decoder:

    relu            x + W_2 relu(L(M relu(L(W_1 relu(L(x))))))
    multiplicative  x + W_2 U(L(W_1 relu(L(x))))
                    U(h) = g_1 * tanh(g_2 * h + g_3 * u),  g_i = sigmoid(M_i h),  u = tanh(M_4 h)

A set has one block for each dilation; equal sets stand on top of each other.
"""

from dataclasses import dataclass
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.configuration.checks import check_rates
from seqzoo.errors import ConfigError
from seqzoo.layers.convolution import Rows, SequenceConvolution, history
from seqzoo.layers.dropout import Dropout
from seqzoo.layers.linear import Linear
from seqzoo.layers.normalization import LayerNorm
from seqzoo.parallel.axes import constrain

Unit = Literal['relu', 'multiplicative']


@dataclass(frozen=True, kw_only=True)
class DilatedConfig:
    """A stack of equal sets of blocks.

    Attributes:
        hidden_dim: channels inside a block (d); the stream has twice as many.
        window: taps (k).
        dilations: of the blocks of a set.
        num_sets: sets.
        unit: what stands around the convolution.
        dropout_rate: of what a block adds to the stream; the paper has none there.
    """

    hidden_dim: int = 512
    window: int = 3
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16)
    num_sets: int = 6
    unit: Unit = 'relu'
    dropout_rate: float = 0.0

    def __post_init__(self) -> None:
        """Checks the values."""
        for name, least in (('hidden_dim', 1), ('window', 2), ('num_sets', 1)):
            if getattr(self, name) < least:
                raise ConfigError(f'{name} is {getattr(self, name)}: give at least {least}')
        if not self.dilations or min(self.dilations) < 1:
            raise ConfigError(f'dilations are {self.dilations}: give one or more, of at least 1')
        if self.unit not in ('relu', 'multiplicative'):
            raise ConfigError(f'unit is {self.unit!r}: choose relu or multiplicative')
        check_rates(self, 'dropout_rate')

    @property
    def stream_dim(self) -> int:
        """Channels between blocks."""
        return 2 * self.hidden_dim

    @property
    def receptive_field(self) -> int:
        """How many places, its own included, an output depends on."""
        return 1 + (self.window - 1) * sum(self.dilations) * self.num_sets

    def histories(self, batch: int, dtype: Any) -> tuple[jax.Array, ...]:
        """Zeros for each block of a set, `[batch, sets, reach, hidden]`."""
        kept = [history(batch, self.window, d, self.hidden_dim, dtype) for d in self.dilations]
        return tuple(jnp.stack([past] * self.num_sets, axis=1) for past in kept)


@flax.struct.dataclass
class DilatedContext:
    """What every block of a stack is given.

    Attributes:
        rows: what is real; `None`: all.
        train: whether dropout is on.
    """

    rows: Rows | None = None
    train: bool = flax.struct.field(pytree_node=False, default=False)


class DilatedBlock(nn.Module):
    """One residual block.

    Attributes:
        config: sizes.
        dilation: of the convolution.
        causal: whether it is masked.
        dtype: of the computation.
    """

    config: DilatedConfig
    dilation: int
    causal: bool
    dtype: Any

    @nn.compact
    def __call__(
        self, x: jax.Array, context: DilatedContext, before: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """`[batch, length, 2 d]` to the same shape, and the history of the convolution."""
        c, gated = self.config, self.config.unit == 'multiplicative'
        y = nn.relu(LayerNorm(name='norm_in')(x))
        into = Linear((c.hidden_dim,), ('embed',), ('channels_in',), True, self.dtype, name='in')
        y = LayerNorm(name='norm_hidden')(into(y))
        y = y if gated else nn.relu(y)
        convolution = SequenceConvolution(
            4 * c.hidden_dim if gated else c.hidden_dim,
            c.window,
            self.dtype,
            dilation=self.dilation,
            causal=self.causal,
            name='convolution',
        )
        z, after = convolution(y, context.rows, before)
        if gated:
            gates, update = (
                nn.sigmoid(z[..., : 3 * c.hidden_dim]),
                jnp.tanh(z[..., 3 * c.hidden_dim :]),
            )
            first, second, third = jnp.split(gates, 3, axis=-1)
            z = first * jnp.tanh(second * y + third * update)
        else:
            z = nn.relu(LayerNorm(name='norm_out')(z))
        out = Linear((c.stream_dim,), ('channels_in',), ('embed',), True, self.dtype, name='out')
        x = x + Dropout(c.dropout_rate)(out(z), context.train)
        return constrain(x, 'batch', 'length', 'embed'), after


class DilatedSet(nn.Module):
    """One block for each dilation, a layer for `Stack.thread`.

    Attributes:
        config: sizes.
        causal: whether the convolutions are masked.
        dtype: of the computation.
    """

    config: DilatedConfig
    causal: bool
    dtype: Any

    def setup(self) -> None:
        """Declares the blocks."""
        self.blocks = [
            DilatedBlock(self.config, dilation, self.causal, self.dtype)
            for dilation in self.config.dilations
        ]

    def __call__(
        self, x: jax.Array, context: DilatedContext, before: tuple[jax.Array, ...] | None
    ) -> tuple[jax.Array, tuple[jax.Array, ...] | None]:
        """`[batch, length, 2 d]` to the same shape, and the histories, where any were given."""
        after = []
        for i, block in enumerate(self.blocks):
            x, latest = block(x, context, None if before is None else before[i])
            after.append(latest)
        return x, None if before is None else tuple(after)
