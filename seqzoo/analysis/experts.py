"""Which share of the tokens each expert of a mixture gets."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from seqzoo.errors import UserError


def expert_shares(model: nn.Module, variables: Any, batches: Iterable[Any]) -> np.ndarray:
    """`[experts]`: the share of all choices that falls on each expert, without noise.

    Args:
        model: a `models.base.CausalLM` with one mixture (`layers.mixture`) in it.
        variables: its collections.
        batches: `[rows, length]` int32 token ids each, all of them real.

    Raises:
        UserError: the model has no mixture, or there is no text.
    """

    @jax.jit
    def shares(variables: Any, tokens: jax.Array) -> Any:
        _, sown = model.apply(variables, tokens, mutable=['intermediates'])
        return [
            leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(sown)
            if any(getattr(key, 'key', None) == 'expert_share' for key in path)
        ]

    total, count = np.zeros(()), 0
    for tokens in batches:
        found = shares(variables, jnp.asarray(tokens))
        if len(found) != 1:
            raise UserError(f'{type(model).__name__} has {len(found)} mixtures; one is looked at')
        total = total + np.asarray(found[0], np.float64) * tokens.size
        count += tokens.size
    if not count:
        raise UserError('there is no text to send to the experts')
    return total / count
