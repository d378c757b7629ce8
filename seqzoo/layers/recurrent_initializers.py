"""How the kernels of recurrent layers start, `[in, out]` or `[in, gates, hidden]`."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqzoo.layers.linear import glorot_uniform

Initializer = Callable[..., jax.Array]


def uniform(scale: float) -> Initializer:
    """Uniform within plus and minus `scale`."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -scale, scale)

    return init


def per_gate_glorot(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Glorot uniform of each `[in, hidden]` in `[in, gates, hidden]`."""
    return _per_gate(glorot_uniform(1), key, shape, dtype)


def per_gate_orthogonal(
    key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32
) -> jax.Array:
    """Orthogonal for each `[in, hidden]` in `[in, gates, hidden]`."""
    return _per_gate(orthogonal, key, shape, dtype)


def orthogonal(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """A random matrix with orthonormal rows or columns, whichever are fewer.

    A product of Householder reflections (Stewart 1980), which is uniform over such matrices. A QR
    factorization would call LAPACK, which on CPU may wait for ever when several factorizations of
    one program need the threads of a small machine at once.
    """
    n, m = max(shape), min(shape)
    vectors = jax.random.normal(key, (m, n), dtype)
    index = jnp.arange(n)

    def reflect(i: jax.Array, q: jax.Array) -> jax.Array:
        k = m - 1 - i
        v = jnp.where(index >= k, vectors[k], 0)
        v = v.at[k].add(jnp.copysign(jnp.linalg.norm(v), v[k]))
        return q - (2 / jnp.sum(jnp.square(v))) * v[:, None] * (v @ q)[None]

    q = jax.lax.fori_loop(0, m, reflect, -jnp.eye(n, m, dtype=dtype) * jnp.sign(jnp.diag(vectors)))
    return q if shape[0] >= shape[1] else q.T


def _per_gate(init: Initializer, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    if len(shape) == 2:
        return init(key, shape, dtype)
    first, *gates, last = shape
    keys = jax.random.split(key, math.prod(gates))
    parts = jax.vmap(lambda one: init(one, (first, last), dtype))(keys)
    # [gates, in, hidden] -> [in, gates, hidden]
    return parts.swapaxes(0, 1).reshape(shape)
