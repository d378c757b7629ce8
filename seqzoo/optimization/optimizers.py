"""Optimizers as frozen dataclasses that build an optax transformation without a learning rate.

The step multiplies the result by -(schedule x plateau scale): one place applies the rate, whatever
the optimizer.
"""

import abc
import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from seqzoo.configuration.checks import check_rates, check_sizes, check_types
from seqzoo.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Optimizer(abc.ABC):
    """Base: gradient clipping, then the method's direction.

    Attributes:
        clip_norm: gradients of a larger global norm are scaled down to it; `None` leaves them.
        clip_value: each element of a gradient is moved into plus and minus this; `None` leaves it.
    """

    clip_norm: float | None = None
    clip_value: float | None = None

    def __post_init__(self) -> None:
        check_types(self)
        names = {field.name for field in dataclasses.fields(self)}
        check_rates(self, *names.intersection(('beta1', 'beta2', 'momentum', 'decay_rate', 'rho')))
        check_sizes(self, *names.intersection(('weight_decay', 'initial', 'epsilon')), least=0)
        for name in ('clip_norm', 'clip_value'):
            if (bound := getattr(self, name)) is not None and not bound > 0:
                raise ConfigError(f'{name} is {bound}: give a bound above 0, or none')

    @abc.abstractmethod
    def direction(self) -> optax.GradientTransformation:
        """The method's update for learning rate 1, before its sign is turned."""

    def build(self) -> optax.GradientTransformation:
        """Clipping (if asked for) followed by `direction`."""
        chain = [self.direction()]
        if self.clip_value is not None:
            chain.insert(0, optax.clip(self.clip_value))
        if self.clip_norm is not None:
            chain.insert(0, optax.clip_by_global_norm(self.clip_norm))
        return chain[0] if len(chain) == 1 else optax.chain(*chain)


def _matrices(params: Any) -> Any:
    """Weight decay concerns kernels and tables, not biases and scales, whose only axis may be
    stacked by layer.
    """

    def is_matrix(path: Any, leaf: jax.Array) -> bool:
        del leaf
        return not str(getattr(path[-1], 'key', '')).endswith(('bias', 'scale'))

    return jax.tree_util.tree_map_with_path(is_matrix, params)


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Kingma and Ba 2015; the defaults are those of Vaswani et al. 2017, section 5.3.

    Attributes:
        weight_decay: decoupled (Loshchilov and Hutter 2019), on kernels and tables only; 0 is plain
            Adam.
    """

    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1e-9
    weight_decay: float = 0.0

    def direction(self) -> optax.GradientTransformation:
        adam = _scale_by_adam(self.beta1, self.beta2, self.epsilon)
        if not self.weight_decay:
            return adam
        return optax.chain(adam, optax.add_decayed_weights(self.weight_decay, _matrices))


def _scale_by_adam(beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformation:
    """`optax.scale_by_adam`, state included, whose direction is read from the finished moments.

    Without the barrier XLA on CPU computes the moments once more inside the update of the
    parameters, needs their old values for it, and so copies all of them before it overwrites them:
    for the base Transformer 390 MB a step.
    """
    inner = optax.scale_by_adam(beta1, beta2, epsilon)

    def update(
        updates: Any, state: optax.OptState, params: Any = None
    ) -> tuple[Any, optax.OptState]:
        del params
        assert isinstance(state, optax.ScaleByAdamState)
        count = jnp.asarray(optax.safe_increment(state.count))
        mu = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * jnp.square(g), state.nu, updates)
        mu, nu = jax.lax.optimization_barrier((mu, nu))
        mean, square = (1 - beta ** count.astype(jnp.float32) for beta in (beta1, beta2))
        direction = jax.tree.map(lambda m, v: (m / mean) / (jnp.sqrt(v / square) + epsilon), mu, nu)
        return direction, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(inner.init, update)


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent, optionally with (Nesterov) momentum.

    Attributes:
        momentum: of the running sum of gradients; `None`: none.
        nesterov: look ahead along it.
        weight_decay: this share of kernels and tables is added to their gradient, after clipping.
    """

    momentum: float | None = None
    nesterov: bool = False
    weight_decay: float = 0.0

    def direction(self) -> optax.GradientTransformation:
        if self.momentum is None:
            step = optax.identity()
        else:
            step = optax.trace(self.momentum, self.nesterov)
        if not self.weight_decay:
            return step
        return optax.chain(optax.add_decayed_weights(self.weight_decay, _matrices), step)


@dataclass(frozen=True, kw_only=True)
class RMSProp(Optimizer):
    """Tieleman and Hinton 2012: gradient / (root of the running mean square + epsilon).

    The defaults are those of Karpathy's char-rnn; torch's decay is 0.99.
    """

    decay_rate: float = 0.95
    epsilon: float = 1e-8

    def direction(self) -> optax.GradientTransformation:
        return optax.scale_by_rms(self.decay_rate, self.epsilon, eps_in_sqrt=False)


@dataclass(frozen=True, kw_only=True)
class Adagrad(Optimizer):
    """Duchi, Hazan, Singer 2011: gradient / root of the sum of all squares so far.

    Attributes:
        initial: what that sum starts at; 1 for Jozefowicz et al. 2016.
    """

    initial: float = 0.1

    def direction(self) -> optax.GradientTransformation:
        return optax.scale_by_rss(self.initial)


@dataclass(frozen=True, kw_only=True)
class Adafactor(Optimizer):
    """Shazeer and Stern 2018: second moments factored into rows and columns, no first moment."""

    decay_rate: float = 0.8

    def direction(self) -> optax.GradientTransformation:
        return optax.chain(
            optax.scale_by_factored_rms(decay_rate=self.decay_rate),
            optax.clip_by_block_rms(1.0),
            optax.scale_by_param_block_rms(),
        )


@dataclass(frozen=True, kw_only=True)
class Adadelta(Optimizer):
    """Zeiler 2012; the defaults are those of Bahdanau et al. 2014."""

    rho: float = 0.95
    epsilon: float = 1e-6

    def direction(self) -> optax.GradientTransformation:
        return optax.scale_by_adadelta(self.rho, self.epsilon)
