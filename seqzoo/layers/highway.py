"""Highway layers (Srivastava, Greff, Schmidhuber 2015)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.layers.linear import product
from seqzoo.layers.recurrent_initializers import per_gate_glorot
from seqzoo.parallel.axes import named


class Highway(nn.Module):
    """`y = t (.) relu(x W_h + b_h) + (1 - t) (.) x` with `t = sigmoid(x W_t + b_t)`.

    Both matrices are one parameter `[width, 2, width]`, the transform first. The bias of the gate
    starts at -2: a layer at first hands on what it reads.

    Attributes:
        dtype: dtype of the computation and of the result.
    """

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., width]` -> the same."""
        width, names = x.shape[-1], ('gates', 'hidden')
        start = named(per_gate_glorot, 'embed', *names)
        kernel = self.param('kernel', start, (width, 2, width), jnp.float32)
        bias = self.param('bias', named(_closed, *names), (2, width), jnp.float32)
        x = x.astype(self.dtype)
        both = product(x, kernel.astype(self.dtype), 1) + bias.astype(self.dtype)
        transform, gate = nn.relu(both[..., 0, :]), nn.sigmoid(both[..., 1, :])
        return gate * transform + (1 - gate) * x


def _closed(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    del key
    return jnp.zeros(shape, dtype).at[1].set(-2.0)
