"""The sparsely-gated mixture of experts (Shazeer et al. 2017).

    y = sum over i of G(x)_i E_i(x)        E_i(x) = relu(x W1_i) W2_i             (equation 1)
    G(x) = softmax(KeepTopK(H(x), k))                                             (3)
    H(x)_i = (x W_g)_i + noise_i softplus((x W_noise)_i), noise while training    (4, 5)

Balance, over the tokens x of the batch, CV(v) = standard deviation / mean:

    importance_i = sum of G(x)_i           L = w_importance CV(importance)^2      (6, 7)
    load_i = sum of P(x, i)                L = w_load CV(load)^2                  (10, 11)
    P(x, i) = Phi(((x W_g)_i - (k-th largest of H(x) without i)) / softplus((x W_noise)_i))   (9)

Both gates start at zero, as the paper has it: every expert is then equally likely and only the
noise chooses. Neither experts nor gates have biases: so the paper's counts come out. The paper's
language models put a sigmoid and dropout behind the mixture and add its input; that is the model's.

Deviation: the paper's experts take any number of tokens. Here `dispatch='dense'` runs every expert
on every token, which is exact and costs `num_experts / k` times as much; `'capacity'` gives each
expert a fixed number of places and leaves out what does not fit (Lepikhin et al. 2020), first
choices before second ones. The hierarchical mixture of appendix B is not here.
"""

import math
from dataclasses import dataclass
from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from seqzoo.errors import ConfigError
from seqzoo.layers.linear import glorot_uniform
from seqzoo.parallel import prng
from seqzoo.parallel.axes import constrain, named, sum_over_shards


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """A mixture of experts.

    Attributes:
        num_experts: how many there are.
        top_k: how many see a token.
        mlp_dim: hidden width of each.
        importance_weight: of the loss that balances the sums of gates (0.1 in the paper's language
            models, 0.01 in its translation).
        load_weight: of the loss that balances the numbers of tokens.
        dispatch: `'dense'` or `'capacity'`.
        evaluation_dispatch: the same outside of training; `None`: as in training. Which tokens find
            a place depends on later ones too, so that a causal model is evaluated `'dense'`.
        capacity_factor: places per expert as a multiple of its fair share, of the real tokens of a
            row or of all that the batch has room for.
        group: whether places are shared out within a row, whatever else is in the batch, or over
            all rows that a device holds under `shard_map` and `pmap`, and all of the batch under
            `jit`.
    """

    num_experts: int
    top_k: int
    mlp_dim: int
    importance_weight: float = 0.1
    load_weight: float = 0.1
    dispatch: Literal['dense', 'capacity'] = 'dense'
    evaluation_dispatch: Literal['dense', 'capacity'] | None = None
    capacity_factor: float = 1.25
    group: Literal['row', 'batch'] = 'row'

    def __post_init__(self) -> None:
        """Checks the values."""
        if not 1 <= self.top_k <= self.num_experts:
            raise ConfigError(
                f'top_k is {self.top_k}: choose between 1 and num_experts, {self.num_experts}'
            )
        for name in ('dispatch', 'evaluation_dispatch'):
            value = getattr(self, name)
            if value not in ('dense', 'capacity') and (name, value) != (
                'evaluation_dispatch',
                None,
            ):
                raise ConfigError(f'{name} is {value!r}: choose dense or capacity')
        if self.group not in ('row', 'batch'):
            raise ConfigError(f'group is {self.group!r}: choose row or batch')
        if self.capacity_factor <= 0:
            raise ConfigError(f'capacity_factor is {self.capacity_factor}: it must be positive')

    def capacity(self, tokens: int) -> int:
        """Places of an expert for that many tokens."""
        fair = self.top_k * tokens / self.num_experts
        return max(1, min(tokens, math.ceil(self.capacity_factor * fair)))


@flax.struct.dataclass
class MixtureOutput:
    """What a mixture returns.

    Attributes:
        features: `[batch, length, embed]`.
        losses: `'importance'` and `'load'`, weighted scalars, made from sums over all shards:
            multiply each by the shard's own weight (see `parallel.axes.sum_over_shards`).
    """

    features: jax.Array
    losses: dict[str, jax.Array]


class MixtureOfExperts(nn.Module):
    """Sends each token to the `top_k` experts that its gate prefers.

    Sows (into 'intermediates') `expert_share`, `[experts]`: which share of the choices of real
    tokens falls on each expert; and with `'capacity'` `overflow`: which share found no place.

    Attributes:
        config: hyperparameters.
        dtype: dtype of the experts; gates are float32.
    """

    config: MixtureConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: jax.Array, *, mask: jax.Array | None = None, train: bool = False
    ) -> MixtureOutput:
        """`x`: `[batch, length, embed]`; `mask`: `[batch, length]`, True at real tokens."""
        config, (batch, length, embed) = self.config, x.shape
        zeros, names = nn.initializers.zeros, ('embed', 'experts')
        shape = (embed, config.num_experts)
        gate_kernel = self.param('gate_kernel', named(zeros, *names), shape, jnp.float32)
        noise_kernel = self.param('noise_kernel', named(zeros, *names), shape, jnp.float32)
        real = jnp.ones((batch, length), jnp.float32) if mask is None else mask.astype(jnp.float32)
        clean = x.astype(jnp.float32) @ gate_kernel
        spread = jax.nn.softplus(x.astype(jnp.float32) @ noise_kernel)
        noisy = clean
        if train:
            noisy = clean + spread * _normal(self.make_rng('dropout'), clean.shape)
        values, chosen = jax.lax.top_k(noisy, config.top_k)  # [batch, length, k]
        weights = jax.nn.softmax(values, axis=-1) * real[..., None]
        losses, share = self._balance(clean, spread, noisy, weights, chosen, real, train)
        self.sow('intermediates', 'expert_share', share)
        dispatch = config.dispatch if train else config.evaluation_dispatch or config.dispatch
        run = self._dense if dispatch == 'dense' else self._within_capacity
        return MixtureOutput(run(x.astype(self.dtype), weights, chosen, real), losses)

    def _balance(
        self,
        clean: jax.Array,
        spread: jax.Array,
        noisy: jax.Array,
        weights: jax.Array,
        chosen: jax.Array,
        real: jax.Array,
        train: bool,
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        """The two losses, and which share of the choices falls on each expert."""
        config = self.config
        one_hot = jax.nn.one_hot(chosen, config.num_experts, dtype=jnp.float32)
        importance = jnp.einsum('blk,blkx->x', weights, one_hot)
        count = jnp.einsum('bl,blkx->x', real, one_hot)
        load = count
        if train and config.top_k < config.num_experts:
            load = jnp.einsum('bl,blx->x', real, _chance(clean, spread, noisy, config.top_k))
        importance, load, count = sum_over_shards((importance, load, count))
        losses = {
            'importance': config.importance_weight * squared_variation(importance),
            'load': config.load_weight * squared_variation(load),
        }
        return losses, count / jnp.maximum(jnp.sum(count), 1.0)

    def _experts(self, x: jax.Array) -> jax.Array:
        """`[groups, experts, places, embed]` to the same shape, each expert on its own places."""
        config, embed = self.config, x.shape[-1]
        sizes = {
            'up_kernel': ((config.num_experts, embed, config.mlp_dim), ('embed', 'mlp')),
            'down_kernel': ((config.num_experts, config.mlp_dim, embed), ('mlp', 'embed')),
        }
        init = jax.vmap(glorot_uniform(1), in_axes=(0, None, None))

        def start(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
            return init(jax.random.split(key, shape[0]), shape[1:], dtype)

        up, down = (
            self.param(name, named(start, 'experts', *names), shape, jnp.float32)
            for name, (shape, names) in sizes.items()
        )
        hidden = nn.relu(jnp.einsum('gxpe,xem->gxpm', x, up.astype(self.dtype)))
        return jnp.einsum('gxpm,xme->gxpe', hidden, down.astype(self.dtype))

    def _away(self, sent: jax.Array, by_row: bool) -> jax.Array:
        """The same as `_experts`, for places that were filled where the rows of the batch lie.

        Where experts lie on other devices than the rows, a place goes to the device of its expert
        and comes back: two all-to-all.
        """
        here, there = ('batch', 'groups') if by_row else (None, None)
        sent = constrain(
            constrain(sent, here, None, None, 'embed'), there, 'experts', None, 'embed'
        )
        out = constrain(self._experts(sent), there, 'experts', None, 'embed')
        return constrain(out, here, None, None, 'embed')

    def _dense(
        self, x: jax.Array, weights: jax.Array, chosen: jax.Array, real: jax.Array
    ) -> jax.Array:
        """Every expert on every token."""
        experts = self.config.num_experts
        everywhere = jnp.broadcast_to(x[:, None], (x.shape[0], experts, *x.shape[1:]))
        out = self._experts(constrain(everywhere, 'groups', 'experts', 'length', 'embed'))
        one_hot = jax.nn.one_hot(chosen, experts, dtype=jnp.float32)
        gates = jnp.einsum('blk,blkx->blx', weights, one_hot)
        mixed = jnp.einsum('bxle,blx->ble', out, gates.astype(self.dtype))
        return constrain(mixed, 'batch', 'length', 'embed')

    def _within_capacity(
        self, x: jax.Array, weights: jax.Array, chosen: jax.Array, real: jax.Array
    ) -> jax.Array:
        """Each expert on the tokens that found a place."""
        config, shape = self.config, x.shape
        groups = shape[0] if config.group == 'row' else 1
        tokens = x.reshape(groups, -1, shape[-1])
        places, real = config.capacity(tokens.shape[1]), real.reshape(groups, -1)
        weights, chosen = (a.reshape(groups, -1, config.top_k) for a in (weights, chosen))
        slots = jax.vmap(_slots, in_axes=(0, 0, 0, None, None))(
            chosen, real, self._open(real), config.num_experts, places
        )  # [groups, tokens, k]; one past the last where there was no place
        lost = sum_over_shards(jnp.sum((slots == config.num_experts * places) * (weights > 0)))
        total = sum_over_shards(jnp.sum(weights > 0))
        self.sow('intermediates', 'overflow', lost / jnp.maximum(total, 1))

        def dispatch(tokens: jax.Array, slots: jax.Array) -> jax.Array:
            room = jnp.zeros((config.num_experts * places, shape[-1]), self.dtype)
            # Each choice of a token goes to a place of its own, or out of bounds and is dropped.
            sent = jnp.repeat(tokens, config.top_k, axis=0)
            return room.at[slots.reshape(-1)].set(sent, mode='drop', unique_indices=False)

        def gather(room: jax.Array, slots: jax.Array, weights: jax.Array) -> jax.Array:
            found = room.at[slots].get(mode='fill', fill_value=0)
            return jnp.sum(found * weights[..., None].astype(self.dtype), axis=1)

        sent = jax.vmap(dispatch)(tokens, slots)
        sent = sent.reshape(groups, config.num_experts, places, shape[-1])
        out = self._away(sent, config.group == 'row').reshape(groups, -1, shape[-1])
        return jax.vmap(gather)(out, slots, weights).reshape(shape)

    def _open(self, real: jax.Array) -> jax.Array:
        """`[groups]` int32: how many places of an expert a group may fill.

        What a row gets does not depend on how far it is padded; a batch fills what it has room for.
        """
        (groups, tokens), config = real.shape, self.config
        if config.group == 'batch':
            return jnp.full(groups, config.capacity(tokens), jnp.int32)
        by_count = np.array([config.capacity(n) for n in range(tokens + 1)], np.int32)
        return jnp.asarray(by_count)[jnp.sum(real, axis=1).astype(jnp.int32)]


def _slots(
    chosen: jax.Array, real: jax.Array, limit: jax.Array, experts: int, places: int
) -> jax.Array:
    """`[tokens, k]` int32: `expert * places + place`, or `experts * places` if none was free.

    Of the places of each expert the first `limit` are open. All first choices are served before the
    second ones; among equals the earlier token comes first.
    """
    one_hot = jax.nn.one_hot(chosen.T, experts, dtype=jnp.int32)  # [k, tokens, experts]
    one_hot *= real.astype(jnp.int32)[None, :, None]
    flat = one_hot.reshape(-1, experts)
    rank = jnp.sum((jnp.cumsum(flat, axis=0) - 1) * flat, axis=-1).reshape(chosen.T.shape).T
    free = (rank < limit) & (real > 0)[:, None]
    return jnp.where(free, chosen * places + rank, experts * places)


def _chance(clean: jax.Array, spread: jax.Array, noisy: jax.Array, k: int) -> jax.Array:
    """P(x, i): the probability that i is among the k with a new draw of its noise alone."""
    largest = jax.lax.top_k(noisy, k + 1)[0]
    inside, outside = largest[..., k - 1 : k], largest[..., k:]
    # Without i, the k-th largest is the k-th of all, or the next one if i is itself among them.
    threshold = jnp.where(noisy >= inside, outside, inside)
    return jax.scipy.stats.norm.cdf((clean - threshold) / spread)


def squared_variation(values: jax.Array) -> jax.Array:
    """Squared coefficient of variation: variance over squared mean."""
    return jnp.var(values) / (jnp.square(jnp.mean(values)) + 1e-10)


def _normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal `[batch, ...]`; a row's values depend on its global number alone."""
    keys = jax.random.wrap_key_data(prng.row_keys(key, shape[0]))
    return jax.vmap(lambda one: jax.random.normal(one, shape[1:]))(keys)
