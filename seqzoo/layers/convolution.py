"""Convolutions over one axis or several, channels last."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.parallel.axes import named

_SPATIAL = 'DHW'  # what XLA calls the axes, of no meaning here


class Convolution(nn.Module):
    """`y[p] = sum over the window of x[stride p + w] W[w] + b`, zeros around the input.

    Parameters are float32 and start as in He et al. 2015, for a ReLU behind them; the computation
    runs in `dtype`.

    Attributes:
        features: channels that come out.
        window: extent of the window along each axis.
        stride: from one place to the next, the same along each axis.
        dtype: dtype of the computation and of the result.
    """

    features: int
    window: tuple[int, ...]
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[batch, *axes, channels]` -> `[batch, *axes / stride, features]`."""
        names = (*('window',) * len(self.window), 'channels_in', 'channels_out')
        start = nn.initializers.he_normal(in_axis=-2, out_axis=-1)
        shape = (*self.window, x.shape[-1], self.features)
        kernel = self.param('kernel', named(start, *names), shape, jnp.float32)
        zeros = named(nn.initializers.zeros, 'channels_out')
        bias = self.param('bias', zeros, (self.features,), jnp.float32)
        axes = _SPATIAL[-len(self.window) :]
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(self.stride,) * len(self.window),
            padding='SAME',
            dimension_numbers=(f'N{axes}C', f'{axes}IO', f'N{axes}C'),
        )
        return y + bias.astype(self.dtype)
