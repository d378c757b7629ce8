"""The places where recurrent networks drop: whole features, connections, words.

Plain dropout on the non-recurrent connections (Zaremba, Sutskever, Vinyals 2014) is
`layers.dropout`. All masks but those of parameters belong to an example, and do not depend on how a
batch is split; a parameter's mask is the same for all examples of a step, on all devices.
"""

import jax
import jax.numpy as jnp

from seqzoo.layers.dropout import dropout


def feature_mask(batch: int, features: int, rate: float, key: jax.Array) -> jax.Array:
    """`[batch, features]` float32, 0 or `1 / (1 - rate)`: one mask for all steps of an example."""
    return dropout(jnp.ones((batch, features), jnp.float32), rate, key)


def variational_dropout(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """Drops the same features at every step (Gal and Ghahramani 2016). `x`: `[batch, length,
    features]`.
    """
    if rate == 0.0:
        return x
    mask = feature_mask(x.shape[0], x.shape[2], rate, key)
    return x * mask[:, None].astype(x.dtype)


def drop_features(x: jax.Array, rate: float, key: jax.Array, *, variational: bool) -> jax.Array:
    """Drops features, the same at every step if `variational`. `x`: `[batch, length, features]`."""
    return (variational_dropout if variational else dropout)(x, rate, key)


def drop_connect(kernel: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """Drops connections, the same for all steps and examples (Wan et al. 2013; for recurrent
    kernels Merity, Keskar, Socher 2017).
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f'a drop-connect rate lies in [0, 1), not {rate}')
    if rate == 0.0:
        return kernel
    return kernel * (jax.random.bernoulli(key, 1.0 - rate, kernel.shape) / (1.0 - rate))


def embedding_dropout(table: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """Drops whole rows of a table, so that a word is missing wherever it occurs in the step (Gal
    and Ghahramani 2016). `table`: `[vocab, embed]`.
    """
    if rate == 0.0:
        return table
    return table * (jax.random.bernoulli(key, 1.0 - rate, (table.shape[0], 1)) / (1.0 - rate))
