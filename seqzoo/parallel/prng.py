"""Randomness that does not depend on the mesh: keys per step, and random bits per example.

A dropout mask is a function of (seed, step, layer, global row of the example, position in the row)
alone. The same run therefore draws the same masks on 1 device or 256, under jit, shard_map or pmap,
and whether or not gradients are accumulated over smaller batches.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp

_rows: contextvars.ContextVar[jax.Array | None] = contextvars.ContextVar(
    'example_rows', default=None
)


def step_key(seed_key: jax.Array, step: jax.Array | int, stream: int = 0) -> jax.Array:
    """The key of one training step; `stream` separates independent uses within the step."""
    return jax.random.fold_in(jax.random.fold_in(seed_key, step), stream)


@contextlib.contextmanager
def example_rows(rows: jax.Array) -> Iterator[None]:
    """Tells layers traced inside which global rows of the step's batch they hold.

    Args:
        rows: `[batch]` int32 global row numbers. Without this context a layer counts its rows from
            0.
    """
    token = _rows.set(rows)
    try:
        yield
    finally:
        _rows.reset(token)


def current_rows(batch: int) -> jax.Array:
    """`[batch]` int32: the global rows of the enclosing `example_rows`, or 0, 1, ... outside
    one.
    """
    rows = _rows.get()
    if rows is None:
        return jnp.arange(batch, dtype=jnp.int32)
    if rows.shape != (batch,):
        raise ValueError(f'example_rows holds {rows.shape} rows, the layer has a batch of {batch}')
    return rows


def row_keys(key: jax.Array, batch: int) -> jax.Array:
    """`[batch, words]` uint32: the key data of `fold_in(key, global row)` for each row of the
    batch.
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    return jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(key, current_rows(batch)))
