"""Token embeddings, which may also serve as the matrix before the softmax (Press and Wolf 2017)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.parallel.storage import padded, without_padding


class Embedding(nn.Module):
    """A table of one vector per token.

    It starts normal with standard deviation `embed_dim ** -0.5`, if not told otherwise: tied logits
    of a normalised feature then have unit variance, and so has an embedding multiplied by
    `embed_dim ** 0.5`.

    Attributes:
        vocab_size: rows, all that anyone sees.
        embed_dim: columns.
        scale: whether `__call__` multiplies by `embed_dim ** 0.5` (Vaswani et al. 2017, section
            3.4).
        dtype: dtype of the embeddings that come out.
        vocab_multiple: the table is stored with rows of zeros up to a multiple of this.
        table_init: how the table starts; `None`: as said above.
    """

    vocab_size: int
    embed_dim: int
    scale: bool
    dtype: jnp.dtype
    vocab_multiple: int = 1
    table_init: nn.initializers.Initializer | None = None

    def setup(self) -> None:
        """Declares the table."""
        init = padded(
            self.table_init or nn.initializers.normal(self.embed_dim**-0.5),
            'vocab',
            'embed',
            axis=0,
            multiple=self.vocab_multiple,
        )
        shape = (self.vocab_size, self.embed_dim)
        self.table = without_padding(self.param('table', init, shape, jnp.float32), shape)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """`[...]` int32 ids -> `[..., embed]`."""
        x = jnp.take(self.table, tokens, axis=0).astype(self.dtype)
        return x * jnp.asarray(self.embed_dim**0.5, self.dtype) if self.scale else x

    def unembed(self, features: jax.Array) -> jax.Array:
        """`[..., embed]` -> `[..., vocab]` float32 logits, with the same table."""
        return jnp.einsum(
            '...e,ve->...v',
            features.astype(self.dtype),
            self.table.astype(self.dtype),
            preferred_element_type=jnp.float32,
        )


def logit_bias(module: nn.Module, vocab_size: int, vocab_multiple: int) -> jax.Array:
    """The parameter `logit_bias` of `module`, `[vocab]`, stored padded like the tables."""
    zeros = padded(nn.initializers.zeros, 'vocab', axis=0, multiple=vocab_multiple)
    stored = module.param('logit_bias', zeros, (vocab_size,), jnp.float32)
    return without_padding(stored, (vocab_size,))
