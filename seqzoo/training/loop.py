"""The one training loop.

It hands steps to the devices and never waits for one: metrics of a step are fetched when later
steps are already on their way. Everything that people see (log, bar, TensorBoard) and everything
that survives (checkpoints, snapshots) hangs on this loop through small objects.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqzoo.errors import UserError
from seqzoo.experiment import TrainConfig
from seqzoo.parallel import agreement
from seqzoo.tasks.base import Sums
from seqzoo.training.averaging import Snapshots
from seqzoo.training.bucket_lock import BucketLock
from seqzoo.training.checkpoint import Checkpoints
from seqzoo.training.clock import Clock
from seqzoo.training.events import DeferredMetrics, EventLog, StepMetrics
from seqzoo.training.lock import RunLock
from seqzoo.training.progress import Progress
from seqzoo.training.recompilation import StepGuard
from seqzoo.training.signals import StopRequest
from seqzoo.training.state import TrainState

_OTHER_EXAMPLES = (
    'other examples have taken part in {other} than in process 0; give all processes the same '
    '--data-dir and configuration'
)
SKIPPED_IN_A_ROW = 100  # a run that learns nothing any more is stopped, whatever it may skip


class NonFinite(UserError):
    """A loss, a gradient or a parameter stopped being finite, or a gradient exploded."""


class Recompilation(UserError):
    """The step would be compiled for something that the plan did not announce."""


@dataclass
class Improvement:
    """Watches the dev metric for early stopping and for reducing the learning rate on a plateau."""

    mode: str
    best: float | None = None
    stale: int = 0
    stale_since_reduction: int = 0
    longest_stale: int = 0

    def update(self, value: float) -> bool:
        """Takes the value of one evaluation; whether it is the best so far. NaN never is."""
        better = np.isfinite(value) and (
            self.best is None or (value > self.best if self.mode == 'max' else value < self.best)
        )
        if better:
            self.best, self.stale, self.stale_since_reduction = value, 0, 0
        else:
            self.stale += 1
            self.stale_since_reduction += 1
            self.longest_stale = max(self.longest_stale, self.stale)
        return bool(better)


@dataclass
class History:
    """Which examples have taken part, step by step, in one number.

    Two runs with the same digest after a step have seen the same examples in the same steps.

    Attributes:
        digest: 16 hexadecimal digits; each step's own digest is hashed into it.
    """

    digest: str = '0' * 16

    def add(self, digest: str) -> None:
        """Takes the digest of one step's examples."""
        both = bytes.fromhex(self.digest + digest)
        self.digest = hashlib.blake2b(both, digest_size=8).hexdigest()


@dataclass
class Loop:
    """What one run of the loop works with.

    Attributes:
        step: compiled `(state, batch) -> (state, metrics)`.
        guard: knows what the step may be called with.
        batches: iterator over `StepBatch`, beginning at the state's step.
        put: moves a host batch onto the mesh.
        evaluate: dev metrics of a state; only called by `evaluate_every` and at the end.
        metric: name of the metric that says which checkpoint is best.
        meta: what a checkpoint carries beside what the loop itself puts there.
        history: of the steps before the state's.
        lock: of the run folder; nothing is written once it is lost.
    """

    config: TrainConfig
    step: Callable[..., Any]
    guard: StepGuard
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
    lock: RunLock | BucketLock
    clock: Clock
    history: History = field(default_factory=History)
    profile: Callable[[int], None] = lambda step: None
    skipped: int = 0
    recompiled: int = 0
    _deferred: DeferredMetrics = field(default_factory=DeferredMetrics)
    _skipped_in_a_row: int = 0
    _logged_at: float = 0.0
    _evaluating: float = 0.0  # seconds
    _has_evaluated: bool = False

    def run(self, state: TrainState) -> tuple[TrainState, str]:
        """Trains to the end of the configuration, or until asked to stop.

        Returns:
            The last state, and `'done'`, `'interrupted'` or `'preempted'`.

        Raises:
            NonFinite: with the step, the last good checkpoint and what to try.
            Recompilation: with the argument that no compiled step fits.
            UserError: the disk is full, or another run has taken the folder.
        """
        config, status = self.config, 'done'
        step = int(state.step)
        self.clock.begin()
        if step >= config.steps:
            self.progress.announce(f'All {config.steps:,} steps are done.')
            self._catch_up(step, state)
            return state, status
        if self._is_stale(step):
            return state, status
        self._deferred = DeferredMetrics(every=config.log_every)
        # Not the newest in the folder, which may be one that was damaged and passed over.
        saved, evaluated = step or None, -1
        while step < config.steps:
            batch = next(self.batches)
            self.clock.lap('data')
            self.profile(step)
            state, metrics = self._take(step, state, batch)
            step += 1
            self.history.add(batch.digest)
            facts = {'examples_digest': self.history.digest}
            self._log(self._deferred.push(step, metrics, **facts))
            self.progress.update(step)
            self.clock.lap('step')
            found: dict[str, Any] = {}
            if config.evaluate_every and step % config.evaluate_every == 0 and step < config.steps:
                found, evaluated = self._evaluate(state, step), step
                state = self._plateau(state)
            if config.snapshot_every and step % config.snapshot_every == 0:
                self._snapshot(step, state)
            due = step % config.checkpoint_every == 0 and step < config.steps
            if due or found.get('improved'):
                self._save(step, state, found)
                saved = step
            if self.stop.after(step):
                status = self.stop.status or status
                break
            if self._exhausted(step):
                break
        self._settle()
        if status == 'done' and evaluated != step:
            self._save(step, state, self._evaluate(state, step))
        elif saved != step:
            self._save(step, state, {})
        self._finish(step)
        return state, status

    # One step

    def _take(self, step: int, state: TrainState, batch: Any) -> tuple[TrainState, Any]:
        if batch.step != step:
            raise RuntimeError(f'the data is at step {batch.step}, the parameters at step {step}')
        placed = self.put(batch.arrays)
        if complaint := self.guard.before(state, batch.arrays, placed):
            self._would_recompile(step + 1, complaint)
        state, metrics = self.step(state, placed)
        if complaint := self.guard.after(state):
            self._would_recompile(step + 1, complaint)
        return state, metrics

    def _would_recompile(self, step: int, complaint: str) -> None:
        if self.config.on_recompile == 'refuse':
            raise Recompilation(
                f'Step {step} would be compiled anew, which the plan of the batches did not '
                f'announce: {complaint}; give the step what was announced, or set '
                '--train.on-recompile report.'
            )
        self.recompiled += 1
        self.events.write('recompile', step, argument=complaint)
        self.progress.announce(f'step {step} is compiled anew: {complaint}')

    def _exhausted(self, step: int) -> bool:
        config = self.config
        # Evaluation is not training: `max_minutes` does not pay for it.
        trained = self.clock.seconds - self._evaluating
        is_over = config.max_minutes is not None and trained > 60 * config.max_minutes
        if is_over and self.stop.expire():
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

    # What the steps said

    def _settle(self) -> None:
        """Waits for the steps on their way: what is wrong with them must be known now."""
        self._log(self._deferred.drain())
        self.clock.lap('step')

    def _log(self, due: list[StepMetrics]) -> None:
        """Writes the metrics of past steps, one event for all of them."""
        if not due:
            return
        self.lock.check()
        for past in due:
            self._count(past.step, past.values)
        now = self.clock.seconds
        good = [past.values for past in due if past.values['applied']] or [due[-1].values]
        last, tokens = due[-1], float(sum(past.values['loss'].weight for past in due))
        values = {
            **_means(good),
            'tokens': tokens,
            'tokens_per_second': round(tokens / max(now - self._logged_at, 1e-9), 1),
            'learning_rate': float(last.values['learning_rate']),
            'gradient_norm': float(last.values['gradient_norm']),
            'seconds': round(now, 3),
            **last.facts,
        }
        if skipped := sum(not past.values['applied'] for past in due):
            values['skipped_steps'] = skipped
        self._logged_at = now
        self.events.write('train', last.step, **values)
        shown = ('loss', 'tokens_per_second', 'learning_rate')
        self.progress.update(last.step, **{name: values[name] for name in shown})

    def _count(self, step: int, metrics: Any) -> None:
        """Stops the run at a step that was not applied, or counts it."""
        if metrics['applied']:
            self._skipped_in_a_row = 0
            return
        self.skipped += 1
        self._skipped_in_a_row += 1
        norm = float(metrics['gradient_norm'])
        if self.config.non_finite == 'skip' and self._skipped_in_a_row < SKIPPED_IN_A_ROW:
            return
        if metrics['finite']:
            limit = self.config.max_gradient_norm
            what = f'The gradient of step {step} exploded (norm {norm:g}, above {limit:g})'
        else:
            what = f'The loss or gradient of step {step} is not finite (gradient norm {norm})'
        remedy = (
            'try a lower learning rate, a longer warm-up, --optimizer.clip-norm 1 or '
            '--train.non-finite skip'
        )
        if self.config.non_finite == 'skip':
            what += f', as were those of the {self._skipped_in_a_row - 1} steps before it'
            remedy = 'go back to an older checkpoint with a lower learning rate'
        self.events.write('non_finite', step, gradient_norm=norm)
        raise NonFinite(f'{what}; {self._kept()}; {remedy}.')

    def _kept(self) -> str:
        self.checkpoints.wait()
        last = self.checkpoints.latest()
        if last is None:
            return 'no checkpoint exists yet'
        return f'the last good checkpoint is step {last}'

    def _evaluate(self, state: TrainState, step: int) -> dict[str, Any]:
        self._settle()
        programs = len(self.clock.watch.programs)
        metrics = self.evaluate(state)
        value = metrics.get(self.metric)
        improved = value is not None and self.improvement.update(float(value))
        self.events.write('evaluation', step, seconds=round(self.clock.seconds, 3), **metrics)
        shown = ', '.join(f'{k} {v:.4g}' for k, v in metrics.items() if isinstance(v, float))
        took = self.clock.since_lap
        self.progress.announce(
            f'step {step}: dev {shown}{" (best)" if improved else ""}, {took:.1f} s'
        )
        self._evaluating += took
        self._logged_at += took  # tokens per second speaks of training
        compiled = self.clock.watch.programs[programs:]
        if compiled and self._has_evaluated:  # the same split again, in the same shapes
            self.events.write('recompile', step, argument='evaluation', programs=compiled)
        self._has_evaluated = True
        self.clock.lap('evaluation')
        return {**metrics, 'improved': improved}

    def _catch_up(self, step: int, state: TrainState) -> None:
        """Evaluates a last step that was only saved: who stops a run waits for no evaluation, and a
        checkpoint without metrics is never the best.
        """
        if step and not self.checkpoints.has_metrics(step):
            self._save(step, state, self._evaluate(state, step))
            self._finish(step)

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

    # What survives

    def _save(self, step: int, state: TrainState, metrics: dict[str, Any]) -> None:
        # Moments need no look: the norm of a gradient that could make one infinite is infinite too,
        # and such a step is not applied.
        self._may_be_kept(step, (state.params, state.variables, state.carry))
        numbers = {k: float(v) for k, v in metrics.items() if isinstance(v, int | float)}
        meta = {
            **self.meta(),
            'examples_digest': self.history.digest,
            'spent': self.clock.so_far(),
        }
        self.checkpoints.save(step, state, meta, metrics=numbers or None)
        self.clock.lap('checkpoint')

    def _snapshot(self, step: int, state: TrainState) -> None:
        assert self.snapshots is not None
        if self.improvement.longest_stale < (self.config.snapshot_patience or 0):
            return
        self._may_be_kept(step, state.params)
        self.snapshots.save(step, state.params)
        self.clock.lap('checkpoint')

    def _may_be_kept(self, step: int, tree: Any) -> None:
        """Every way of writing parameters goes through here: nothing that is not finite is kept."""
        # Asked for before the steps are waited for: the devices go on to it without a pause.
        finite = _all_finite(tree)
        self._settle()
        if not bool(finite):
            self.events.write('non_finite', step)
            raise NonFinite(
                f'After step {step} the parameters are not finite, though losses and gradients '
                f'were; {self._kept()}; try a lower learning rate.'
            )
        self.lock.check()
        agreement.same_everywhere(self.history.digest, _OTHER_EXAMPLES)

    def _finish(self, step: int) -> None:
        """Waits for what is being written, and says where the time went."""
        self.checkpoints.wait()
        if self.snapshots is not None:
            self.snapshots.wait()
        self.clock.lap('checkpoint')
        shares = self.clock.goodput()
        watch = self.clock.watch
        self.events.write(
            'goodput',
            step,
            seconds=round(self.clock.seconds, 3),
            **shares,
            compile_seconds=round(watch.seconds, 3),
            step_compilations=self.guard.shapes,
            recompilations=self.recompiled,
            skipped_steps=self.skipped,
            whole_run=self.clock.whole_run(),
        )
        named = {kind.removeprefix('share_'): share for kind, share in shares.items()}
        parts = [f'{kind} {share:.1%}' for kind, share in named.items() if share >= 0.0005]
        self.progress.announce(f'time: {", ".join(parts)}')
        if self.skipped:
            self.progress.announce(f'{self.skipped:,} steps were left out (train.non_finite skip).')
        if self.recompiled:
            self.progress.announce(
                f'{self.recompiled:,} compilations that the plan did not announce; the "recompile" '
                'events of metrics.jsonl name their arguments.'
            )


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    # Zero times what is not finite is NaN, and a sum keeps NaN; asking each number by itself takes
    # twice as long on a CPU.
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.asarray([jnp.isfinite(jnp.sum(x * 0)) for x in leaves]))


def _means(fetched: list[dict[str, Any]]) -> dict[str, float]:
    """Weighted means over steps of everything that came as sums."""
    names = [k for k, v in fetched[-1].items() if isinstance(v, Sums)]
    return {
        name: float(
            sum(m[name].total for m in fetched) / max(sum(m[name].weight for m in fetched), 1e-9)
        )
        for name in names
    }
