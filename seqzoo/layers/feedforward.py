"""The position-wise feed-forward layer (Vaswani et al. 2017, section 3.3)."""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.layers.dropout import Dropout
from seqzoo.layers.linear import Linear
from seqzoo.parallel.axes import constrain

Activation = Literal['relu', 'gelu', 'gelu_tanh', 'silu']

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    'relu': jax.nn.relu,
    'gelu': functools.partial(jax.nn.gelu, approximate=False),
    'gelu_tanh': functools.partial(jax.nn.gelu, approximate=True),  # as GPT's code has it
    'silu': jax.nn.silu,
}


class FeedForward(nn.Module):
    """`activation(x W1 + b1) W2 + b2`, the same at every position.

    Attributes:
        mlp_dim: hidden width.
        activation: name of the non-linearity.
        dropout_rate: dropout on the hidden units; the paper has none.
        dtype: dtype of the computation.
        use_bias: whether `b1` and `b2` exist.
        kernel_init, output_init: how `W1` and `W2` start, where not Glorot uniform.
    """

    mlp_dim: int
    activation: Activation
    dropout_rate: float
    dtype: jnp.dtype
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer | None = None
    output_init: nn.initializers.Initializer | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """`[batch, length, embed]` to the same shape."""
        embed_dim = x.shape[-1]
        up = Linear(
            (self.mlp_dim,),
            ('embed',),
            ('mlp',),
            self.use_bias,
            self.dtype,
            kernel_init=self.kernel_init,
            name='up',
        )
        down = Linear(
            (embed_dim,),
            ('mlp',),
            ('embed',),
            self.use_bias,
            self.dtype,
            kernel_init=self.output_init,
            name='down',
        )
        hidden = up(x)
        hidden = constrain(ACTIVATIONS[self.activation](hidden), 'batch', 'length', 'mlp')
        hidden = Dropout(self.dropout_rate)(hidden, train)
        return down(hidden)
