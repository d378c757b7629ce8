"""Learning-rate schedules: frozen dataclasses that build a function of the update number.

Update numbers start at 0; papers count from 1, so formulas below use n = update + 1.
"""

import abc
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from seqzoo.configuration.checks import check_sizes, check_types
from seqzoo.errors import ConfigError

ScheduleFunction = Callable[[jax.Array | int], Any]


@dataclass(frozen=True, kw_only=True)
class Schedule(abc.ABC):
    """A learning rate as a function of the update."""

    def __post_init__(self) -> None:
        check_types(self)
        # Which of these a schedule has is its own affair, what they may be is not.
        names = {field.name for field in dataclasses.fields(self)}
        not_negative = ('peak', 'initial', 'final', 'rate', 'factor', 'warmup_steps')
        check_sizes(self, *names.intersection(not_negative), least=0)

    @abc.abstractmethod
    def build(self, steps_per_epoch: int) -> ScheduleFunction:
        """The function; `steps_per_epoch` serves those that count epochs."""

    @property
    def zero_from(self) -> int | None:
        """The update from which on the rate is 0 and training idles; `None` if it never is."""
        return None


@dataclass(frozen=True, kw_only=True)
class Noam(Schedule):
    """factor * embed_dim^-0.5 * min(n^-0.5, n * warmup^-1.5) (Vaswani et al. 2017, equation 3)."""

    embed_dim: int = 512
    warmup_steps: int = 4000
    factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, 'embed_dim', 'warmup_steps')

    def build(self, steps_per_epoch: int) -> ScheduleFunction:
        def rate(step: jax.Array | int) -> jax.Array:
            n = jnp.asarray(step, jnp.float32) + 1.0
            shape = jnp.minimum(n**-0.5, n * self.warmup_steps**-1.5)
            return self.factor * self.embed_dim**-0.5 * shape

        return rate


@dataclass(frozen=True, kw_only=True)
class InverseSquareRoot(Schedule):
    """Linear warm-up from `initial` to `peak`, then peak * sqrt(warmup / n)."""

    peak: float = 5e-4
    warmup_steps: int = 4000
    initial: float = 1e-7

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, 'warmup_steps')

    def build(self, steps_per_epoch: int) -> ScheduleFunction:
        def rate(step: jax.Array | int) -> jax.Array:
            n = jnp.asarray(step, jnp.float32) + 1.0
            warm = self.initial + (self.peak - self.initial) * n / self.warmup_steps
            return jnp.where(
                n < self.warmup_steps, warm, self.peak * jnp.sqrt(self.warmup_steps / n)
            )

        return rate


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """Linear warm-up to `peak`, then half a cosine down to `final` at `decay_steps`."""

    peak: float = 1e-3
    warmup_steps: int = 100
    decay_steps: int = 10_000
    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_decay(self.warmup_steps, self.decay_steps)

    @property
    def zero_from(self) -> int | None:
        return self.decay_steps if self.final == 0 else None

    def build(self, steps_per_epoch: int) -> ScheduleFunction:
        return optax.warmup_cosine_decay_schedule(
            0.0, self.peak, self.warmup_steps, self.decay_steps, self.final
        )


@dataclass(frozen=True, kw_only=True)
class Linear(Schedule):
    """Linear warm-up to `peak`, then a straight line down to `final` at `decay_steps`."""

    peak: float = 1e-3
    warmup_steps: int = 100
    decay_steps: int = 10_000
    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_decay(self.warmup_steps, self.decay_steps)

    @property
    def zero_from(self) -> int | None:
        return self.decay_steps if self.final == 0 else None

    def build(self, steps_per_epoch: int) -> ScheduleFunction:
        up = optax.linear_schedule(0.0, self.peak, self.warmup_steps)
        down = optax.linear_schedule(self.peak, self.final, self.decay_steps - self.warmup_steps)
        return optax.join_schedules([up, down], [self.warmup_steps])


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """One rate throughout, after an optional linear warm-up."""

    rate: float = 1e-3
    warmup_steps: int = 0

    def build(self, steps_per_epoch: int) -> ScheduleFunction:
        if not self.warmup_steps:
            return optax.constant_schedule(self.rate)
        return optax.linear_schedule(0.0, self.rate, self.warmup_steps)


@dataclass(frozen=True, kw_only=True)
class EpochDecay(Schedule):
    """`rate` for `constant_epochs`, then divided by `divisor` once per epoch (Zaremba et al. 2014;
    Luong 2015).
    """

    rate: float = 1.0
    constant_epochs: int = 4
    divisor: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, 'constant_epochs', least=0)
        check_sizes(self, 'divisor')

    def build(self, steps_per_epoch: int) -> ScheduleFunction:
        def rate(step: jax.Array | int) -> jax.Array:
            epoch = jnp.asarray(step) // steps_per_epoch
            decays = jnp.maximum(epoch + 1 - self.constant_epochs, 0).astype(jnp.float32)
            return self.rate * self.divisor**-decays

        return rate


def _check_decay(warmup_steps: int, decay_steps: int) -> None:
    if decay_steps <= warmup_steps:
        raise ConfigError(
            f'decay_steps is {decay_steps}, but the warm-up alone takes {warmup_steps}: the rate '
            'falls from there to decay_steps, which has to lie behind it'
        )
