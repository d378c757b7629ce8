"""Boolean attention masks: `True` means that the query may attend to the key.

All of them broadcast to `[batch, heads, query_length, key_length]` with a heads axis of size 1.
"""

import jax
import jax.numpy as jnp

# The score of a key that is not seen. Finite, so that a row without any visible key (a query in the
# padding) gets weights, not NaN.
MASKED = -1e30


def causal_mask(query_length: int, key_length: int, offset: jax.Array | int = 0) -> jax.Array:
    """`[1, 1, query_length, key_length]`: query `i` sees the keys up to position `offset + i`."""
    queries = jnp.arange(query_length, dtype=jnp.int32)[:, None] + offset
    keys = jnp.arange(key_length, dtype=jnp.int32)[None, :]
    return (keys <= queries)[None, None]


def banded_mask(
    query_length: int, key_length: int, band: int, offset: jax.Array | int = 0
) -> jax.Array:
    """`[1, 1, query_length, key_length]`: query `i` sees keys after position `offset + i - band`.

    Together with `causal_mask` it sees the `band` keys up to its own.
    """
    queries = jnp.arange(query_length, dtype=jnp.int32)[:, None] + offset
    keys = jnp.arange(key_length, dtype=jnp.int32)[None, :]
    return (keys > queries - band)[None, None]


def segment_mask(query_segments: jax.Array, key_segments: jax.Array) -> jax.Array:
    """`[batch, 1, query_length, key_length]`: a query sees the keys of its own segment."""
    return (query_segments[:, :, None] == key_segments[:, None, :])[:, None]


def combine_masks(*masks: jax.Array | None) -> jax.Array | None:
    """The conjunction of those masks that are not `None`; `None` (all visible) without any."""
    result = None
    for mask in masks:
        if mask is not None:
            result = mask if result is None else result & mask
    return result


def ancestry_mask(ancestry: jax.Array, now: jax.Array) -> jax.Array:
    """What each beam sees in a cache that holds every beam of every time step.

    The cache keeps the key of beam `j` at time `t` in slot `t * beams + j` and never moves it;
    hypothesis `k` is the path of the slots `(t, ancestry[k, t])`.

    Args:
        ancestry: `[batch, beams, time]` the beam in which hypothesis `k` stood at each time.
        now: the current time step; later ones are empty.

    Returns:
        `[batch, 1, beams, time * beams]`.
    """
    batch, beams, time = ancestry.shape
    own = ancestry[..., None] == jnp.arange(beams, dtype=ancestry.dtype)
    visible = own & (jnp.arange(time) <= now)[:, None]  # [batch, beams, time, beams]
    return visible.reshape(batch, 1, beams, time * beams)
