"""The affine map that attention and feed-forward layers are made of."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.parallel.axes import named
from seqzoo.parallel.storage import padded, without_padding


class Linear(nn.Module):
    """`y = x W + b` over the last axes of `x`; the axes of `W` stay apart (`[embed, heads, kv]`).

    Parameters are float32; the product runs in `dtype`. Kernels start Glorot uniform (Glorot and
    Bengio 2010), with the fans of the merged axes: `[embed, heads, kv]` is one matrix `embed ->
    heads * kv`.

    Attributes:
        features: sizes of the axes that come out.
        input_names: axis names of the contracted axes of `x`, its last ones.
        output_names: axis names of the axes that come out.
        use_bias: whether `b` exists.
        dtype: dtype of the computation and of the result.
        multiple: the kernel is stored with zeros up to a multiple of this many last features.
        kernel_init: how kernels start, where not Glorot uniform.
    """

    features: tuple[int, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    use_bias: bool
    dtype: jnp.dtype
    multiple: int = 1
    kernel_init: nn.initializers.Initializer | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., *input]` -> `[..., *features]`."""
        rank = len(self.input_names)
        sizes = x.shape[-rank:]
        names, shape = (*self.input_names, *self.output_names), (*sizes, *self.features)
        start = self.kernel_init or glorot_uniform(rank)
        init = padded(start, *names, axis=len(shape) - 1, multiple=self.multiple)
        kernel = without_padding(self.param('kernel', init, shape, jnp.float32), shape)
        y: Any = product(x.astype(self.dtype), kernel.astype(self.dtype), rank)
        if self.use_bias:
            bias = self.param(
                'bias',
                named(nn.initializers.zeros, *self.output_names),
                self.features,
                jnp.float32,
            )
            y += bias.astype(self.dtype)
        return y


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: jax.Array, kernel: jax.Array, rank: int) -> jax.Array:
    """Contracts the last `rank` axes of `x` with the first of `kernel`.

    Its gradient for the kernel comes out in the kernel's own layout. The one that jax derives comes
    out transposed, and XLA on CPU then turns both it and the incoming gradient around.
    """
    contracted = (tuple(range(x.ndim - rank, x.ndim)), tuple(range(rank)))
    return jax.lax.dot_general(x, kernel, (contracted, ((), ())))


def _product_forward(
    x: jax.Array, kernel: jax.Array, rank: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return product(x, kernel, rank), (x, kernel)


def _product_backward(
    rank: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    rows, outputs = x.ndim - rank, kernel.ndim - rank
    after = (tuple(range(rows, gradient.ndim)), tuple(range(rank, kernel.ndim)))
    d_x = jax.lax.dot_general(gradient, kernel, (after, ((), ())))
    over_rows = (tuple(range(rows)), tuple(range(gradient.ndim - outputs)))
    return d_x, jax.lax.dot_general(x, gradient, (over_rows, ((), ())))


product.defvjp(_product_forward, _product_backward)


def glorot_uniform(input_rank: int) -> nn.initializers.Initializer:
    """Glorot uniform for a kernel whose first `input_rank` axes are the contracted ones."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        fan_in, fan_out = math.prod(shape[:input_rank]), math.prod(shape[input_rank:])
        bound = math.sqrt(6.0 / (fan_in + fan_out))
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
