"""What language models of causal convolutions share: the past as a tuple of histories.

Each convolution needs its last `dilation x (window - 1)` inputs and nothing else of the past
(`layers.convolution`). So the state that goes from batch to batch in training and evaluation and
the cache of generation are the same, of a size that does not depend on how much was read, and one
more token costs the same at any place.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqzoo.layers.convolution import Rows, rows_of
from seqzoo.layers.recurrent import length_mask
from seqzoo.models.base import LMOutput

Histories = Any  # a pytree of `[batch, ...]` arrays, as `config.initial_carry(batch)` makes them


class ConvolutionalLM(nn.Module):
    """A `models.base.CausalLM` from four parts that an architecture brings along.

    `config.initial_carry(batch)` is the empty past; `embed`, `run` and `unembed` are methods.

    Attributes:
        config: of the architecture.
    """

    config: Any

    def embed(self, tokens: jax.Array, train: bool) -> jax.Array:
        """`[batch, length]` ids -> `[batch, length, embed]`."""
        raise NotImplementedError

    def run(
        self, x: jax.Array, rows: Rows | None, before: Histories, train: bool
    ) -> tuple[jax.Array, Histories]:
        """Features of every place, and the histories behind the last one."""
        raise NotImplementedError

    def unembed(self, features: jax.Array) -> jax.Array:
        """`[..., embed]` features -> `[..., vocab]` float32 logits."""
        raise NotImplementedError

    def __call__(
        self,
        tokens: jax.Array,
        *,
        segments: jax.Array | None = None,
        positions: jax.Array | None = None,
        carry: Histories = (),
        train: bool = False,
    ) -> LMOutput:
        """Features of every position at once.

        Args:
            tokens: `[batch, length]` int32 ids, shifted already.
            segments: `[batch, length]`: 1, 2, ... for packed texts, 0 for padding; `None`: all
                real. A segment at the first place of a row goes on from the carry.
            positions: of no effect; a convolution knows distances only.
            carry: the histories that an earlier call returned; `()` begins anew.
            train: whether dropout is on (it draws from the `'dropout'` stream).
        """
        del positions
        before = carry or self.initial_carry(tokens.shape[0])
        features, after = self.run(self.embed(tokens, train), rows_of(segments), before, train)
        if self.is_initializing():
            self.unembed(features)  # creates the parameters that only the logits use
        return LMOutput(features, after)

    def initial_carry(self, batch: int) -> Histories:
        """Histories of zeros, every leaf `[batch, ...]`."""
        return self.config.initial_carry(batch)

    def init_cache(self, batch: int, max_length: int) -> Histories:
        """The past before the first token; it does not grow with `max_length`."""
        del max_length
        return self.initial_carry(batch)

    def extend(
        self, tokens: jax.Array, lengths: jax.Array, cache: Histories
    ) -> tuple[jax.Array, Histories]:
        """Reads the first `lengths` `[batch]` of `tokens` `[batch, n]`; logits `[batch, n,
        vocab]`.
        """
        rows = Rows(length_mask(lengths, tokens.shape[1]).astype(jnp.int32))
        features, cache = self.run(self.embed(tokens, train=False), rows, cache, train=False)
        return self.unembed(features), cache
