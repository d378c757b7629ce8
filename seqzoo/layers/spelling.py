"""Words by their bytes alone: filters of several widths, highway layers, a projection.

    f_w = max over the places p of relu(W_w [e_p; ...; e_{p+w-1}] + b_w)     for each width w
    y   = H(... H([f_1; f_2; ...])) P + b                                    H: `layers.highway`

e_p is the vector of the p-th byte of a word. So words enter the networks of Kim et al. 2016,
Jozefowicz et al. 2016 and Peters et al. 2018. A word has as many places as `max_bytes` says, and
each of them counts: what stands behind the end of a word is a sign of its own, with a vector
(`data.word_lists.encode_bytes`).
"""

from dataclasses import dataclass
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.configuration.checks import check_sizes
from seqzoo.errors import ConfigError
from seqzoo.layers.convolution import Convolution
from seqzoo.layers.embedding import Embedding
from seqzoo.layers.highway import Highway
from seqzoo.layers.inputs import Inputs, refuse_open
from seqzoo.layers.linear import Linear


@flax.struct.dataclass
class WithBytes:
    """What a network reads, and beside it each word by its bytes.

    Attributes:
        own: ids, or what else the network reads.
        bytes: `[batch, length, max_bytes]` int32; all 0 where there is no word.
    """

    own: Any
    bytes: jax.Array


@dataclass(frozen=True, kw_only=True)
class ByteSpelling(Inputs):
    """Words by their bytes; the defaults are those of Peters et al. 2018.

    Attributes:
        num_bytes: signs: the 256 bytes, marks around words and sentences, and 0.
        max_bytes: places of a word, its two marks included; `None` is filled in from the data.
        byte_dim: width of the vector of a sign.
        filters: (width, number) of the filters.
        highway_layers: how many lie above them.
        embed_dim: width of the vector that comes out.
    """

    num_bytes: int = 262
    max_bytes: int | None = None
    byte_dim: int = 16
    filters: tuple[tuple[int, int], ...] = (
        *((1, 32), (2, 32), (3, 64), (4, 128)),
        *((5, 256), (6, 512), (7, 1024)),
    )
    highway_layers: int = 2
    embed_dim: int = 512

    def __post_init__(self) -> None:
        """Checks the values."""
        check_sizes(self, 'num_bytes', 'max_bytes', 'byte_dim', 'embed_dim')
        if not self.filters or any(size < 1 for pair in self.filters for size in pair):
            raise ConfigError(
                f'filters is {self.filters}: give at least one (width, number), each at least 1'
            )
        if self.highway_layers < 0:
            raise ConfigError(f'highway_layers is {self.highway_layers}: give 0 or more')
        widest = max(width for width, _ in self.filters)
        if self.max_bytes is not None and self.max_bytes < widest:
            raise ConfigError(
                f'max_bytes is {self.max_bytes}: a filter of width {widest} does not fit a word'
            )

    @property
    def output_dim(self) -> int:
        return self.embed_dim

    @property
    def filters_dim(self) -> int:
        """How many filters there are in all."""
        return sum(number for _, number in self.filters)

    def build(self, dtype: Any) -> nn.Module:
        refuse_open(self, 'max_bytes')
        return ByteSpellingLayer(self, dtype)

    def example(self, batch: int, length: int) -> Any:
        width = self.max_bytes or 8
        numbers = jnp.arange(batch * length * width).reshape(batch, length, width)
        return 1 + numbers * 3 % (self.num_bytes - 1)


class ByteSpellingLayer(nn.Module):
    """The table, the filters, the highway and the projection.

    Attributes:
        config: sizes.
        dtype: of what comes out.
    """

    config: ByteSpelling
    dtype: Any

    def setup(self) -> None:
        """Declares them."""
        c, dtype = self.config, self.dtype
        self.signs = Embedding(c.num_bytes, c.byte_dim, False, dtype)
        self.convolutions = [
            Convolution(number, (width,), 1, dtype, 'VALID', name=f'filters_{width}')
            for width, number in c.filters
        ]
        self.highway = [Highway(dtype, name=f'highway_{i}') for i in range(c.highway_layers)]
        self.projection = Linear((c.embed_dim,), ('hidden',), ('embed',), True, dtype)

    def __call__(self, words: jax.Array, train: bool) -> jax.Array:
        """`[batch, length, max_bytes]` int32 -> `[batch, length, embed]`."""
        del train
        batch, length, width = words.shape
        if width != self.config.max_bytes:
            raise ConfigError(
                f'max_bytes is {self.config.max_bytes}, but words come with {width} places'
            )
        x = self.signs(words.reshape(batch * length, width))
        found = [nn.relu(jnp.max(filters(x), axis=1)) for filters in self.convolutions]
        y = jnp.concatenate(found, axis=-1)
        for layer in self.highway:
            y = layer(y)
        return self.projection(y).reshape(batch, length, -1)
