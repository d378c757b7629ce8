"""Dropout whose mask depends on (key, global row of the example, position in the row) alone.

A counter-based generator: every element hashes its own position with the key of its row, so the
mask is never stored (the backward pass hashes again), never depends on how the batch is split over
devices or accumulation steps, and costs a few integer operations that the compiler fuses into the
neighbouring arithmetic. Threefry per element would cost a fifth of a small Transformer's step.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from seqzoo.parallel import prng


class Dropout(nn.Module):
    """Zeroes elements at `rate` while training, from the `'dropout'` random stream.

    Attributes:
        rate: probability of zeroing, in [0, 1).
    """

    rate: float

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`x`: `[batch, ...]`; the identity unless `train` and `rate > 0`."""
        if not train or self.rate == 0.0:
            return x
        return dropout(x, self.rate, self.make_rng('dropout'))


def dropout(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """Zeroes elements of `x` with probability `rate`; scales the others by `1 / (1 - rate)`.

    Args:
        x: `[batch, ...]`; its global rows come from `parallel.prng.example_rows`.
        rate: probability of zeroing, in [0, 1).
        key: the key of this use of dropout (this layer, this step).
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f'a dropout rate lies in [0, 1), not {rate}')
    if rate == 0.0:
        return x
    return _dropout(x, prng.row_keys(key, x.shape[0]), rate)


def keep_mask(row_keys: jax.Array, shape: tuple[int, ...], rate: float) -> jax.Array:
    """Boolean mask of `shape`, `True` (keep) with probability `1 - rate`."""
    return keep_at(row_keys, _position_in_row(shape), rate)


def keep_at(row_keys: jax.Array, position: jax.Array, rate: float) -> jax.Array:
    """The part of a mask at `position` `[1, ...]` uint32, flat indices within the whole row.

    Two multiply-xorshift rounds, each keyed with one word of the row's key. Only a comparison of
    the high bits follows, so the last xorshift of a full hash would change nothing.
    """
    column = (slice(None),) + (None,) * (position.ndim - 1)
    first, second = row_keys[:, 0][column], row_keys[:, 1][column]
    counter = position + first
    bits = (counter ^ (counter >> 16)) * np.uint32(0x7FEB352D) ^ second
    bits = (bits ^ (bits >> 15)) * np.uint32(0x846CA68B)
    return bits >= np.uint32(min(round(rate * 2**32), 2**32 - 1))


def _position_in_row(shape: tuple[int, ...]) -> jax.Array:
    """uint32 `[1, ...]`: the flat index of each element within its row."""
    inner = (1, *shape[1:])
    position = jnp.zeros(inner, jnp.uint32)
    for axis in range(1, len(inner)):
        stride = math.prod(inner[axis + 1 :])
        position += jax.lax.broadcasted_iota(jnp.uint32, inner, axis) * np.uint32(stride % 2**32)
    return position


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _dropout(x: jax.Array, row_keys: jax.Array, rate: float) -> jax.Array:
    scale = jnp.asarray(1.0 / (1.0 - rate), x.dtype)
    return jnp.where(keep_mask(row_keys, x.shape, rate), x * scale, jnp.zeros((), x.dtype))


def _dropout_forward(x: jax.Array, row_keys: jax.Array, rate: float) -> tuple[jax.Array, jax.Array]:
    return _dropout(x, row_keys, rate), row_keys


def _dropout_backward(
    rate: float, row_keys: jax.Array, gradient: jax.Array
) -> tuple[jax.Array, np.ndarray]:
    # The row keys are integers: their cotangent has the type float0.
    return _dropout(gradient, row_keys, rate), np.zeros(row_keys.shape, jax.dtypes.float0)


_dropout.defvjp(_dropout_forward, _dropout_backward)
