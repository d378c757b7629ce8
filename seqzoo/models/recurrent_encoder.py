"""The recurrent encoder: one vector for each position of an input, in one direction or two.

    x_t  = what stands at position t                       `layers.inputs`
    h_t  = recurrent layers over x_1 ... x_n               `layers.recurrent`: Elman, LSTM, GRU, ...
    pooled = the last state of each direction of the top layer, [h_n forward; h_1 backward]

Bidirectional networks are those of Schuster and Paliwal 1997; with LSTM cells Graves and
Schmidhuber 2005 (framewise labels), with characters below the words Ling et al. 2015.

Deviations: none. A padded position changes no state, so that the last state is the one after the
last real position; libraries that pad at the front and do not mask (Keras' example on IMDb) run
over the padding.
"""

from dataclasses import dataclass, field
from typing import Self

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.layers.inputs import Inputs, Tokens, embed
from seqzoo.layers.recurrent import Recurrence, RecurrentConfig, RecurrentStack
from seqzoo.layers.recurrent_cells import LSTM
from seqzoo.models.base import EncoderConfig, EncoderOutput
from seqzoo.models.flops import Flops, inputs_flops, recurrent_flops
from seqzoo.parallel.axes import constrain


@dataclass(frozen=True, kw_only=True)
class RecurrentEncoderConfig(EncoderConfig):
    """Hyperparameters of a recurrent encoder.

    Attributes:
        inputs: what it reads.
        layers: the recurrent layers and the dropout around them.
    """

    packs = True
    stacks = False  # the bottom layer is nearly always of another shape

    inputs: Inputs = field(default_factory=Tokens)
    layers: RecurrentConfig = field(
        default_factory=lambda: RecurrentConfig(
            cell=LSTM(hidden_dim=128), directions='concatenated'
        )
    )

    @property
    def features_dim(self) -> int:
        """How wide the output of the top layer is."""
        return self.layers.output_dims[-1]

    @property
    def causal(self) -> bool:
        """Whether all layers read forward."""
        return self.layers.directions == 'forward'

    def build(self) -> 'RecurrentEncoder':
        """The module. Raises `ConfigError` while a size of the inputs is open."""
        return RecurrentEncoder(self)

    @classmethod
    def tiny(cls) -> Self:
        """A bidirectional LSTM layer, 8 wide."""
        layers = RecurrentConfig(
            cell=LSTM(hidden_dim=8), directions='concatenated', input_dropout_rate=0.2
        )
        return cls(inputs=Tokens(vocab_size=16, embed_dim=8), layers=layers)

    def example_inputs(self, batch: int = 2, length: int = 8) -> tuple[jax.Array, ...]:
        """What `inputs` reads."""
        return (self.inputs.example(batch, length),)

    def flops(self, batch: int, length: int) -> Flops:
        """What reads the input, and the recurrent layers."""
        tokens, width = batch * length, self.inputs.output_dim
        layers = recurrent_flops(self.layers, tokens=tokens, input_dim=width)
        return inputs_flops(self.inputs, tokens=tokens) + layers


class RecurrentEncoder(nn.Module):
    """The network, a `models.base.Encoder`. `RecurrentEncoderConfig(...).build()` makes it."""

    config: RecurrentEncoderConfig

    def setup(self) -> None:
        """Declares what reads the input, and the layers."""
        dtype = jnp.dtype(self.config.dtype)
        self.reader = self.config.inputs.build(dtype)
        self.stack = RecurrentStack(self.config.layers, dtype)

    def __call__(
        self, inputs: jax.Array, *, segments: jax.Array | None = None, train: bool = False
    ) -> EncoderOutput:
        """Features of every position, and the last states.

        Args:
            inputs: as `config.inputs` says.
            segments: `[batch, length]`: 1, 2, ... for packed sequences, 0 for padding; `None`: all
                real.
            train: whether dropout is on (it draws from the `'dropout'` stream).
        """
        x = constrain(embed(self.reader, inputs, segments, train), 'batch', 'length', 'embed')
        result = self.stack(x, segments=segments, train=train)
        return EncoderOutput(result.features, result.carry, last_state(self.config.layers, result))


def last_state(layers: RecurrentConfig, result: Recurrence) -> jax.Array:
    """`[batch, embed]`, the last states of the top one of some layers, joined like its features."""
    top = result.carry[-1]
    if not layers.is_bidirectional(layers.num_layers - 1):
        state = top['h']
    elif layers.directions == 'summed':
        state = top[0]['h'] + top[1]['h']
    else:
        state = jnp.concatenate([top[0]['h'], top[1]['h']], axis=-1)
    return state.astype(result.features.dtype)
