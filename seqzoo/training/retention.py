"""Which checkpoints survive: the newest, to go on from, and the best beside them.

Orbax's own `max_to_keep` with a metric deletes the newest.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from orbax.checkpoint.checkpoint_managers import preservation_policy

from seqzoo.errors import UserError

Metrics = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Retention:
    """A rule for keeping checkpoints, by their steps and metrics.

    Attributes:
        keep: How many of the newest survive; at least 1.
        keep_best: How many of the best by `best_metric` survive beside them.
        best_metric: The name of a metric, or None to go by age alone.
        best_mode: Whether a higher or a lower metric is better.
    """

    keep: int
    keep_best: int
    best_metric: str | None
    best_mode: Literal['min', 'max']

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise UserError(
                f'keep must be at least 1, not {self.keep}; a run without checkpoints cannot go on'
            )

    def kept(self, metrics: Mapping[int, Metrics]) -> set[int]:
        """Which steps survive, given the metrics of every step."""
        best = sorted(self._ranked(metrics), reverse=True)[: self.keep_best]
        return set(sorted(metrics)[-self.keep :]) | {step for _, step in best}

    def best(self, metrics: Mapping[int, Metrics]) -> int | None:
        """The best step, the newest of equals; None if no step has the metric."""
        return max(self._ranked(metrics), default=(0.0, None))[1]

    def policy(
        self, metrics_of: Callable[[int], Metrics]
    ) -> preservation_policy.PreservationPolicy:
        """The rule as Orbax asks for it, reading the metrics of a step when it matters."""
        return _Policy(self, metrics_of)

    def _ranked(self, metrics: Mapping[int, Metrics]) -> list[tuple[float, int]]:
        sign = 1 if self.best_mode == 'max' else -1
        name = self.best_metric
        return [
            (sign * found[name], step) for step, found in metrics.items() if name and name in found
        ]


class _Policy(preservation_policy.PreservationPolicy):
    """Tells Orbax what survives, from the steps alone: it has not read their metrics."""

    def __init__(self, retention: Retention, metrics_of: Callable[[int], Metrics]) -> None:
        self._retention = retention
        self._metrics_of = metrics_of

    def should_preserve(
        self,
        checkpoints: Sequence[Any],
        *,
        context: preservation_policy.PreservationContext,
    ) -> Sequence[bool]:
        kept = self._retention.kept(
            {info.step: self._metrics_of(info.step) for info in checkpoints}
        )
        return [info.step in kept for info in checkpoints]
