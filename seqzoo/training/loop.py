"""The one training loop.

It hands steps to the devices and never waits for one: metrics of a step are fetched when later
    steps are already on
their way. Everything that people see (log, bar, TensorBoard) and everything that survives
(checkpoints, snapshots) hangs on this loop through small objects.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqzoo.errors import UserError
from seqzoo.experiment import TrainConfig
from seqzoo.tasks.base import Sums
from seqzoo.training.averaging import Snapshots
from seqzoo.training.checkpoint import Checkpoints
from seqzoo.training.events import DeferredMetrics, EventLog, StepMetrics
from seqzoo.training.progress import Progress
from seqzoo.training.signals import StopRequest
from seqzoo.training.state import TrainState


class NonFinite(UserError):
    """A loss or gradient stopped being finite."""


@dataclass
class Clock:
    """Seconds of the run by what they were spent on; compilation happens inside the first call of
    each shape.
    """

    started: float = field(default_factory=time.monotonic)
    spent: dict[str, float] = field(default_factory=dict)

    def add(self, kind: str, since: float) -> float:
        """Books the time since `since`; returns now."""
        now = time.monotonic()
        self.spent[kind] = self.spent.get(kind, 0.0) + now - since
        return now

    @property
    def total(self) -> float:
        """Seconds since the loop began."""
        return time.monotonic() - self.started


@dataclass
class Improvement:
    """Watches the dev metric for early stopping and for reducing the learning rate on a plateau."""

    mode: str
    best: float | None = None
    stale: int = 0
    stale_since_reduction: int = 0

    def update(self, value: float) -> bool:
        """Takes the value of one evaluation; whether it is the best so far."""
        better = self.best is None or (
            value > self.best if self.mode == 'max' else value < self.best
        )
        if better:
            self.best, self.stale, self.stale_since_reduction = value, 0, 0
        else:
            self.stale += 1
            self.stale_since_reduction += 1
        return better


@dataclass
class Loop:
    """What one run of the loop works with.

    Attributes:
        step: compiled `(state, batch) -> (state, metrics)`.
        batches: iterator over `StepBatch`, beginning at the state's step.
        put: moves a host batch onto the mesh.
        evaluate: dev metrics of a state; only called by `evaluate_every` and at the end.
        metric: name of the metric that says which checkpoint is best.
    """

    config: TrainConfig
    step: Callable[..., Any]
    batches: Iterator[Any]
    put: Callable[[dict[str, np.ndarray]], Any]
    evaluate: Callable[[TrainState], dict[str, Any]]
    metric: str
    improvement: Improvement
    meta: Callable[[], dict[str, Any]]
    checkpoints: Checkpoints
    snapshots: Snapshots | None
    events: EventLog
    progress: Progress
    stop: StopRequest
    clock: Clock = field(default_factory=Clock)
    profile: Callable[[int], None] = lambda step: None
    _logged_at: float = 0.0

    def run(self, state: TrainState) -> tuple[TrainState, str]:
        """Trains to the end of the configuration, or until asked to stop.

        Returns:
            The last state, and `'done'`, `'interrupted'` or `'preempted'`.

        Raises:
            NonFinite: with the step, the last good checkpoint and what to try.
        """
        config, status = self.config, 'done'
        step = int(state.step)
        if step >= config.steps:
            self.progress.announce(f'All {config.steps:,} steps are done.')
            return state, status
        if self._is_stale(step):
            return state, status
        deferred = DeferredMetrics(every=config.log_every)
        saved = self.checkpoints.latest()
        evaluated = -1
        now = self._logged_at = time.monotonic()
        while step < config.steps:
            batch = next(self.batches)
            now = self.clock.add('data', now)
            self.profile(step)
            state, device_metrics = self.step(state, self.put(batch.arrays))
            step += 1
            self._log(deferred.push(step, device_metrics))
            self.progress.update(step)
            now = self.clock.add('step', now)
            metrics: dict[str, Any] = {}
            if config.evaluate_every and step % config.evaluate_every == 0 and step < config.steps:
                self._log(deferred.drain())
                now = self.clock.add('step', now)
                metrics, evaluated = self._evaluate(state, step), step
                state = self._plateau(state)
                now = self.clock.add('evaluation', now)
            if config.snapshot_every and step % config.snapshot_every == 0 and self.snapshots:
                self.snapshots.save(step, state.params)
                now = self.clock.add('checkpoint', now)
            due = step % config.checkpoint_every == 0 and step < config.steps
            if due or metrics.get('improved'):
                self._log(
                    deferred.drain()
                )  # a step that was not finite must not be followed by a checkpoint
                self._save(step, state, metrics)
                saved, now = step, self.clock.add('checkpoint', now)
            if self.stop.after(step):
                status = self.stop.status or status
                break
            if self._exhausted(step):
                break
        self._log(deferred.drain())
        if status == 'done' and evaluated != step:
            self._save(step, state, self._evaluate(state, step))
        elif saved != step:
            self._save(step, state, {})
        self.checkpoints.wait()
        self._goodput(step)
        return state, status

    def _exhausted(self, step: int) -> bool:
        config = self.config
        if config.max_minutes is not None and self._training_seconds() > 60 * config.max_minutes:
            self.progress.announce(
                f'{config.max_minutes:g} minutes of training are over at step {step}.'
            )
            return True
        return self._is_stale(step)

    def _is_stale(self, step: int) -> bool:
        config = self.config
        if config.early_stopping is not None and self.improvement.stale >= config.early_stopping:
            self.progress.announce(
                f'No improvement of {self.metric} in {self.improvement.stale} evaluations: '
                f'stopping at step {step}.'
            )
            return True
        return False

    def _training_seconds(self) -> float:
        """Time for which `max_minutes` pays: everything but evaluation."""
        return self.clock.total - self.clock.spent.get('evaluation', 0.0)

    def _log(self, due: list[StepMetrics]) -> None:
        """Writes the metrics of past steps, one event for all of them."""
        if not due:
            return
        for past in due:
            if not past.values['finite']:
                self._not_finite(past.step, past.values)
        now = time.monotonic()
        good = [past.values for past in due if past.values['finite']] or [due[-1].values]
        last, tokens = due[-1], float(sum(past.values['loss'].weight for past in due))
        values = {
            **_means(good),
            'tokens': tokens,
            'tokens_per_second': round(tokens / max(now - self._logged_at, 1e-9), 1),
            'learning_rate': float(last.values['learning_rate']),
            'gradient_norm': float(last.values['gradient_norm']),
            'seconds': round(self.clock.total, 3),
        }
        if skipped := sum(not past.values['finite'] for past in due):
            values['skipped_steps'] = skipped
        self._logged_at = now
        self.events.write('train', last.step, **values)
        shown = ('loss', 'tokens_per_second', 'learning_rate')
        self.progress.update(last.step, **{name: values[name] for name in shown})

    def _not_finite(self, step: int, metrics: Any) -> None:
        if self.config.non_finite == 'skip':
            return
        self.checkpoints.wait()
        last = self.checkpoints.latest()
        kept = (
            f'the last good checkpoint is step {last}'
            if last is not None
            else 'no checkpoint exists yet'
        )
        norm = float(metrics['gradient_norm'])
        self.events.write('non_finite', step, gradient_norm=norm)
        raise NonFinite(
            f'The loss or gradient of step {step} is not finite (gradient norm {norm}); {kept}; '
            'try a lower learning rate, a longer warm-up, --optimizer.clip-norm 1 or '
            '--train.non-finite skip.'
        )

    def _evaluate(self, state: TrainState, step: int) -> dict[str, Any]:
        started = time.monotonic()
        metrics = self.evaluate(state)
        value = metrics.get(self.metric)
        improved = value is not None and self.improvement.update(float(value))
        self.events.write('evaluation', step, seconds=round(self.clock.total, 3), **metrics)
        shown = ', '.join(f'{k} {v:.4g}' for k, v in metrics.items() if isinstance(v, float))
        self.progress.announce(
            f'step {step}: dev {shown}{" (best)" if improved else ""}, '
            f'{time.monotonic() - started:.1f} s'
        )
        self._logged_at += time.monotonic() - started  # tokens per second speaks of training
        return {**metrics, 'improved': improved}

    def _plateau(self, state: TrainState) -> TrainState:
        patience, factor = self.config.plateau_patience, self.config.plateau_factor
        if patience is None or self.improvement.stale_since_reduction < patience:
            return state
        self.improvement.stale_since_reduction = 0
        scale = state.learning_rate_scale * jnp.asarray(factor, state.learning_rate_scale.dtype)
        self.progress.announce(
            f'No improvement in {patience} evaluations: learning rate times {factor}.'
        )
        return replace(
            state, learning_rate_scale=jax.device_put(scale, state.learning_rate_scale.sharding)
        )

    def _save(self, step: int, state: TrainState, metrics: dict[str, Any]) -> None:
        numbers = {k: float(v) for k, v in metrics.items() if isinstance(v, int | float)}
        self.checkpoints.save(step, state, self.meta(), metrics=numbers or None)

    def _goodput(self, step: int) -> None:
        """Where the time went: data wait, steps, evaluation, checkpoints, each a share."""
        total = max(self.clock.total, 1e-9)
        shares = {f'share_{kind}': round(s / total, 4) for kind, s in self.clock.spent.items()}
        self.events.write('goodput', step, seconds=round(total, 3), **shares)


def _means(fetched: list[dict[str, Any]]) -> dict[str, float]:
    """Weighted means over steps of everything that came as sums."""
    names = [k for k, v in fetched[-1].items() if isinstance(v, Sums)]
    return {
        name: float(
            sum(m[name].total for m in fetched) / max(sum(m[name].weight for m in fetched), 1e-9)
        )
        for name in names
    }
