"""Where a token stands: position numbers, sinusoids, learned position vectors, and rotations."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from seqzoo.parallel.axes import named

SinusoidLayout = Literal['interleaved', 'concatenated']


def positions_in_segments(segments: jax.Array) -> jax.Array:
    """`[batch, length]` int32: how far each position is from the start of its segment.

    A segment is a maximal run of equal ids, so packed sentences each start at 0.
    """
    index = jnp.arange(segments.shape[1], dtype=jnp.int32)[None, :]
    starts = jnp.concatenate(
        [jnp.ones_like(segments[:, :1], bool), segments[:, 1:] != segments[:, :-1]], axis=1
    )
    return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)


def sinusoids(
    positions: jax.Array, embed_dim: int, layout: SinusoidLayout = 'interleaved'
) -> jax.Array:
    """Sinusoidal position encodings (Vaswani et al. 2017, section 3.5), float32.

    `PE(p, 2i) = sin(p / 10000^(2i / embed_dim))` and `PE(p, 2i + 1)` its cosine: lower columns have
    higher frequencies.

    Args:
        positions: `[...]` integers.
        embed_dim: columns; an odd number drops the last cosine.
        layout: `'interleaved'` alternates sine and cosine as the paper does; `'concatenated'` puts
            all sines before all cosines, the same columns in another order, as some published
            checkpoints have them.

    Returns:
        `[..., embed_dim]`.
    """
    columns = np.arange(0, embed_dim, 2, dtype=np.float64)
    frequencies = (10000.0 ** (-columns / embed_dim)).astype(np.float32)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    waves = (jnp.sin(angles), jnp.cos(angles))
    if layout == 'interleaved':
        table = jnp.stack(waves, axis=-1).reshape(*positions.shape, 2 * len(frequencies))
    else:
        table = jnp.concatenate(waves, axis=-1)
    return table[..., :embed_dim]


class LearnedPositions(nn.Module):
    """One learned vector per position (Gehring et al. 2017).

    Attributes:
        max_length: rows of the table.
        embed_dim: columns.
        table_init: how the table starts; `None`: normal, standard deviation `embed_dim ** -0.5`.
    """

    max_length: int
    embed_dim: int
    table_init: nn.initializers.Initializer | None = None

    @nn.compact
    def __call__(self, positions: jax.Array) -> jax.Array:
        """`[...]` integers below `max_length` -> `[..., embed]` float32."""
        init = self.table_init or nn.initializers.normal(self.embed_dim**-0.5)
        shape = (self.max_length, self.embed_dim)
        table = self.param('table', named(init, 'position', 'embed'), shape, jnp.float32)
        return jnp.take(table, positions, axis=0)


@dataclass(frozen=True)
class Rotary:
    """Rotary position embedding (Su et al. 2021, "RoFormer", equation 34), of a part of each head.

    Queries and keys are turned by angles that grow with their positions, so that their products
    depend on the distance alone. Column `i` is paired with column `i + dims / 2`, as GPT-NeoX has
    it; the paper pairs neighbours, the same up to the order of the columns.

    Attributes:
        dims: how many of the first columns of a head are turned. An odd number, as a share of a
            head may come to, counts as it is in the angles; the last pair is filled up.
        base: pair `i` turns by `position / base ** (2 i / dims)`.
    """

    dims: int
    base: float = 10_000.0

    @property
    def columns(self) -> int:
        """`dims`, the last pair filled up."""
        return self.dims + self.dims % 2

    def __call__(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        """Turns `x` `[batch, length, heads, kv]` at `positions` `[batch or 1, length]`."""
        columns = np.arange(0, self.dims, 2, dtype=np.float64)
        frequencies = (self.base ** (-columns / self.dims)).astype(np.float32)
        angles = positions[..., None, None].astype(jnp.float32) * frequencies
        sine, cosine = jnp.sin(angles), jnp.cos(angles)  # [batch or 1, length, 1, dims / 2]
        half = self.columns // 2
        turned = x[..., : self.columns].astype(jnp.float32)
        first, second = turned[..., :half], turned[..., half:]
        turned = jnp.concatenate(
            [first * cosine - second * sine, second * cosine + first * sine], axis=-1
        )
        return jnp.concatenate([turned.astype(x.dtype), x[..., self.columns :]], axis=-1)
