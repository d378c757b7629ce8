"""One dense network over the whole input: the baseline that sequence models are measured by.

    x = [x_1; ...; x_n; 0; ...; 0]              the vectors of all positions side by side, filled up
    h^i = a(D(h^{i-1}) W_i + b_i), h^0 = x        with zeros to `max_length`
    o = D(h^k) W + b                            for the sequence, or for all its positions together

Every position has weights of its own: nothing that is learnt about a word at one place is known at
another, and the length has an end. That is the point of the baseline.
"""

from dataclasses import dataclass, field
from typing import Literal, Self

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.configuration.checks import check_rates
from seqzoo.layers.dropout import Dropout
from seqzoo.layers.inputs import Inputs, Tokens, embed
from seqzoo.layers.linear import Linear
from seqzoo.models.base import ConfigError, LabelingConfig, LabelOutput
from seqzoo.models.flops import Flops, inputs_flops, matmul_flops
from seqzoo.parallel.axes import constrain


@dataclass(frozen=True, kw_only=True)
class DenseConfig(LabelingConfig):
    """Hyperparameters of a dense network over a sequence.

    Attributes:
        inputs: what it reads.
        max_length: positions it has weights for; shorter inputs are filled up, longer ones refused.
        hidden_dims: width of each hidden layer (ReLU).
        dropout_rate: on the input of every layer.
        dtype: dtype of activations.
    """

    stacks = False

    inputs: Inputs = field(default_factory=Tokens)
    max_length: int = 200
    hidden_dims: tuple[int, ...] = (128,)
    dropout_rate: float = 0.0
    dtype: Literal['float32', 'bfloat16'] = 'float32'

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        if self.max_length < 1 or any(width < 1 for width in self.hidden_dims):
            raise ConfigError('max_length and every width in hidden_dims must be at least 1')
        check_rates(self, 'dropout_rate')

    @property
    def longest_row(self) -> int:
        return self.max_length

    def build(self) -> 'Dense':
        """The module. Raises `ConfigError` while a size is open."""
        self.known_outputs()
        return Dense(self)

    @classmethod
    def tiny(cls) -> Self:
        """Eight positions, one hidden layer, an output for every position."""
        inputs = Tokens(vocab_size=16, embed_dim=4)
        return cls(
            inputs=inputs,
            max_length=8,
            hidden_dims=(16,),
            num_outputs=3,
            per='step',
            dropout_rate=0.1,
        )

    def example_inputs(self, batch: int = 2, length: int = 8) -> tuple[jax.Array, ...]:
        """What `inputs` reads."""
        return (self.inputs.example(batch, min(length, self.max_length)),)

    def flops(self, batch: int, length: int) -> Flops:
        """All layers: as many operations for any length up to `max_length`."""
        tokens = batch * min(length, self.max_length)
        width = self.max_length * self.inputs.output_dim
        hidden = 0
        for following in self.hidden_dims:
            hidden += matmul_flops(batch, following, width)
            width = following
        places = self.max_length if self.per == 'step' else 1
        outputs = matmul_flops(batch, places * self.known_outputs(), width)
        own = Flops(feed_forward=hidden, logits=outputs)
        return inputs_flops(self.inputs, tokens=tokens) + own


class Dense(nn.Module):
    """The network, a `models.base.Labeler`. `DenseConfig(...).build()` makes it."""

    config: DenseConfig

    def setup(self) -> None:
        """Declares the layers."""
        c = self.config
        dtype = jnp.dtype(c.dtype)
        self.reader = c.inputs.build(dtype)
        self.dropout = Dropout(c.dropout_rate)
        whole = ('length', 'embed')
        self.hidden = [
            Linear((width,), ('mlp',) if i else whole, ('mlp',), True, dtype)
            for i, width in enumerate(c.hidden_dims)
        ]
        size, last = c.known_outputs(), ('mlp',) if c.hidden_dims else whole
        if c.per == 'step':
            self.head = Linear((c.max_length, size), last, ('length', 'classes'), True, dtype)
        else:
            self.head = Linear((size,), last, ('classes',), True, dtype)

    def __call__(
        self, inputs: jax.Array, *, segments: jax.Array | None = None, train: bool = False
    ) -> LabelOutput:
        """Outputs of a batch, a row holding one sequence from its first position on.

        Args:
            inputs: as `config.inputs` says.
            segments: `[batch, length]`, 1 at positions and 0 at padding; `None`: all real.
            train: whether dropout is on (it draws from the `'dropout'` stream).
        """
        c = self.config
        x = constrain(embed(self.reader, inputs, segments, train), 'batch', 'length', 'embed')
        length = x.shape[1]
        if length > c.max_length:
            raise ConfigError(
                f'an input has {length} positions, but the dense network has weights for '
                f'max_length {c.max_length}: raise it or shorten the data'
            )
        x = jnp.pad(x, ((0, 0), (0, c.max_length - length), (0, 0)))
        for layer in self.hidden:
            x = nn.relu(layer(self.dropout(x, train)))
        outputs = self.head(self.dropout(x, train)).astype(jnp.float32)
        return LabelOutput(outputs[:, :length] if c.per == 'step' else outputs)
