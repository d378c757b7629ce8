"""From an experiment and a folder to a trained run: everything around the loop."""

import functools
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax

from seqzoo import buckets, provenance
from seqzoo.errors import UserError
from seqzoo.experiment import Experiment
from seqzoo.parallel import agreement
from seqzoo.parallel.compile import check_strategy
from seqzoo.parallel.mesh import build_mesh, put_rows
from seqzoo.parallel.storage import true_count
from seqzoo.tasks.base import Prepared, Runtime
from seqzoo.training.averaging import Snapshots
from seqzoo.training.bucket_lock import BucketLock, lock_of
from seqzoo.training.checkpoint import Checkpoints
from seqzoo.training.clock import Clock
from seqzoo.training.events import EventLog, read_events
from seqzoo.training.fork import Origin, Source, begin_with, overlap_with, source_of
from seqzoo.training.lengths import refuse_long_rows, refuse_uneven_lengths
from seqzoo.training.lock import RunLock
from seqzoo.training.loop import History, Improvement, Loop
from seqzoo.training.program import build_program
from seqzoo.training.progress import Mode, Progress
from seqzoo.training.recompilation import StepGuard
from seqzoo.training.run_folder import (
    CHECKPOINTS,
    EXPERIMENT,
    SNAPSHOTS,
    default_cache_dir,
    default_data_dir,
    load_experiment_of,
    newest_checkpoint,
    opened,
    refuse_differences,
    refuse_imported,
    refuse_other_data,
    save_experiment,
    save_prepared,
)
from seqzoo.training.signals import Stopped, StopRequest
from seqzoo.training.state import TrainState

PROFILE_STARTS_AFTER = 10  # steps, so that compilation is not in the picture

_OTHER_FOLDER = (
    'other files for {other} than for process 0; --run must be on a file system that all see'
)
_OTHER_DATA = 'not the same for {other} and for process 0; give all the same --data-dir'

Status = Literal['done', 'interrupted', 'preempted']


@dataclass(frozen=True)
class TrainResult:
    """How a training ended.

    Attributes:
        status: `'done'`, or why it left early; either way everything is saved.
        step: updates done.
        run: the folder.
    """

    status: Status
    step: int
    run: Path


def train(
    experiment: Experiment,
    run_dir: str | Path,
    *,
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    progress: Mode = 'auto',
    require: str | None = None,
    profile_steps: int | None = None,
    fork_from: str | Path | None = None,
    pretrained: str | Path | None = None,
) -> TrainResult:
    """Trains into a folder, or goes on from the folder's newest good checkpoint.

    Args:
        experiment: what to train and how.
        run_dir: made if it does not exist.
        data_dir: where the data of the experiment lies; `SEQZOO_DATA_DIR` if not given.
        cache_dir: for tokenizers and encoded text.
        progress: a bar, lines, or nothing, on standard error.
        require: `'tpu'`, `'gpu'` or `'cpu'`: refuse to run on anything else.
        profile_steps: trace this many steps for xprof, into `profile/`.
        fork_from: a run whose newest parameters are the first ones of this run.
        pretrained: a run of which only what lies below the heads is taken, with its tokenizer.

    Raises:
        UserError: bad data or configuration, another run in the folder, a loss that is not finite.
    """
    backend = jax.default_backend()
    if require is not None and backend != require:
        raise UserError(
            f'--require {require}: JAX runs on {backend} here; see seqzoo doctor for what it finds.'
        )
    run = agreement.once_a_host(lambda: opened(run_dir, '--run'))
    mesh = build_mesh(experiment.mesh)
    check_strategy(experiment.strategy, mesh)
    refuse_uneven_lengths(experiment.batch, mesh)
    others = (fork_from, pretrained)
    arguments = (experiment, run, data_dir, cache_dir, progress, profile_steps, others)
    with StopRequest(at_once=True) as stop:
        try:
            return _prepare_and_train(*arguments, stop)
        except Stopped as stopped:
            return TrainResult(stopped.status, newest_checkpoint(run) or 0, run)


def _prepare_and_train(
    experiment: Experiment,
    run: Path,
    data_dir: str | Path | None,
    cache_dir: str | Path | None,
    progress: Mode,
    profile_steps: int | None,
    others: tuple[str | Path | None, str | Path | None],
    stop: StopRequest,
) -> TrainResult:
    with ExitStack() as stack:
        clock = stack.enter_context(Clock())
        lock = lock_of(run)  # one for all processes
        agreement.first_does(lambda: stack.enter_context(lock))
        if agreement.is_first() and (mirror := buckets.Mirror.at(run)) is not None:
            stack.enter_context(mirror.pushed())
        is_new = newest_checkpoint(run) is None
        source = source_of(run, *others) if is_new else None
        agreement.same_everywhere(str(is_new), f'{run} holds {_OTHER_FOLDER}')
        bar = Progress(experiment.train.steps, mode=progress if agreement.is_first() else 'none')
        prepared = agreement.once_a_host(
            lambda: _prepared(
                experiment,
                source,
                None if is_new else run,
                data_dir=default_data_dir(data_dir),
                cache_dir=Path(cache_dir) if cache_dir else default_cache_dir(),
                announce=bar.announce,
            )
        )
        agreement.same_everywhere(str(prepared.identity), f'the data is {_OTHER_DATA}')
        # Together: nobody may still read what the first process is about to write anew.
        resolved, changed = agreement.together(lambda: _checked(experiment, prepared, run, is_new))
        plan = experiment.task.plan(prepared, experiment.batch, experiment.seed)
        refuse_long_rows(resolved, prepared, plan)
        if not is_new and any(others):
            option = '--fork-from' if others[0] else '--pretrained'
            bar.announce(f'{run} has checkpoints of its own: {option} is left out')
        if changed:
            bar.announce(f'going on with other settings: {"; ".join(changed)}')
        return _train(
            resolved, prepared, plan, run, stack, lock, clock, stop, progress, profile_steps, source
        )


def _prepared(
    experiment: Experiment, source: Source | None, run: Path | None, **options: Any
) -> Prepared:
    """The data, cut as the run, or the one that it begins with, has learnt to read it."""
    task, batch = experiment.task, experiment.batch
    if source is None or source.part == 'all':
        return task.prepare(batch, run_dir=run if source is None else source.run, **options)
    prepared = task.prepare_from(source.run, batch, **options)
    refuse_other_data(prepared, source.run, names=('tokenizer',))
    return prepared


def _claim(experiment: Experiment, prepared: Prepared, run: Path, origin: Origin | None) -> None:
    """The folder becomes this run's: only now, when all input is known to be good."""

    def write() -> None:
        save_prepared(prepared, run)
        save_experiment(experiment, run)
        if origin is not None:
            origin.save(run)
        buckets.push(run)

    agreement.first_does(write)
    agreement.once_a_host(lambda: buckets.pull(run))
    seen = str((run / EXPERIMENT).exists())
    agreement.same_everywhere(seen, f'{run} holds {_OTHER_FOLDER}')


def _checked(
    experiment: Experiment, prepared: Prepared, run: Path, is_new: bool
) -> tuple[Experiment, list[str]]:
    """The experiment with everything resolved, if it is that of the run, and what has changed."""
    changed = []
    resolved = replace(experiment, model=experiment.task.resolve(experiment.model, prepared))
    if not is_new:
        refuse_imported(run)
        changed = refuse_differences(load_experiment_of(run), resolved, run)
        refuse_other_data(prepared, run)
    _refuse_idle_steps(experiment)
    return resolved, changed


def _train(
    experiment: Experiment,
    prepared: Prepared,
    plan: Any,
    run: Path,
    stack: ExitStack,
    lock: RunLock | BucketLock,
    clock: Clock,
    stop: StopRequest,
    mode: Mode,
    profile_steps: int | None,
    source: Source | None,
) -> TrainResult:
    task, config = experiment.task, experiment.train
    metric, best_mode = task.best_metric
    writer, home = agreement.is_first(), buckets.home_of(run)
    mesh = build_mesh(experiment.mesh)
    agreement.connect(mesh)
    program = build_program(experiment, plan, mesh)
    factory = program.factory
    checkpoints = stack.enter_context(
        Checkpoints(
            home / CHECKPOINTS,
            keep=config.keep,
            keep_best=config.keep_best,
            best_metric=metric,
            best_mode=best_mode,  # type: ignore[arg-type]
        )
    )
    overlap = None if source is None else overlap_with(source, experiment)
    improvement, history, origin = Improvement(best_mode), History(), None
    restored = checkpoints.restore(factory.abstract())
    if restored is not None:
        state: TrainState = restored.state
        improvement = Improvement(**restored.meta['improvement'])
        history = History(restored.meta.get('examples_digest', history.digest))
    else:
        state = factory.create()
        if source is not None:
            state, origin = begin_with(source, state, overlap)
    _claim(experiment, prepared, run, origin)
    start = int(state.step)
    events = stack.enter_context(EventLog(run, enabled=writer))
    lost = events.resume(start)  # also where a run ended before its first checkpoint
    before = sum(event.get('lost_seconds', 0.0) for event in read_events(run, 'start'))
    spent = {} if restored is None else restored.meta.get('spent', {})
    clock.earlier = {**spent, 'lost': before + lost} if before or lost or spent else {}
    shardings = factory.shardings()
    placed = {**shardings.variables, 'params': shardings.params}
    runtime = Runtime(program.model, None, placed, mesh)

    def evaluate(state: TrainState) -> dict[str, Any]:
        variables = {**state.variables, 'params': state.params}
        decoding = (
            replace(experiment.decode, method='greedy', n_best=1)
            if config.evaluate_decoding
            else None
        )
        return task.evaluate(
            runtime.with_variables(variables), prepared, 'dev', experiment.batch, decoding
        )

    bar = stack.enter_context(Progress(config.steps, start=start, mode=mode if writer else 'none'))
    for line in origin.said() if origin is not None else ():
        bar.announce(line)
    for line in _opening(experiment, plan, mesh, start):
        bar.announce(line)
    events.write(
        'start',
        start,
        devices=mesh.size,
        backend=jax.default_backend(),
        seed=experiment.seed,
        examples_digest=history.digest,
        lost_seconds=round(lost, 3),
        **(provenance.facts(mesh.devices.flat) if writer else {}),
        **({} if origin is None else origin.event()),
    )
    loop = Loop(
        config=config,
        step=program.compiled(),
        guard=StepGuard(program.specs),
        batches=program.batches(prepared, start),
        put=lambda arrays: put_rows(arrays, mesh),
        evaluate=evaluate,
        metric=metric,
        improvement=improvement,
        meta=lambda: {'identity': prepared.identity, 'improvement': vars(improvement)},
        checkpoints=checkpoints,
        snapshots=stack.enter_context(Snapshots(home / SNAPSHOTS, keep=config.keep_snapshots))
        if config.snapshot_every
        else None,
        events=events,
        progress=bar,
        stop=stop,
        lock=lock,
        clock=clock,
        history=history,
        profile=stack.enter_context(
            _Profiler(run / 'profile', start, profile_steps if writer else None)
        ),
    )
    stop.note()
    state, status = loop.run(state)
    return TrainResult(status, int(state.step), run)  # type: ignore[arg-type]


def _opening(experiment: Experiment, plan: Any, mesh: Any, start: int) -> list[str]:
    model = experiment.model
    init = functools.partial(jax.eval_shape, model.build().init, jax.random.key(0))
    parameters = true_count(init(*model.example_inputs())['params'])
    lines = [
        f'{parameters:,} parameters on {mesh.size} {jax.default_backend()} '
        f'device{"s" if mesh.size > 1 else ""}; {plan.steps_per_epoch:,} steps an epoch in '
        f'{len(plan.shapes)} batch shapes (one compilation each), {plan.padding.both:.0%} padding'
    ]
    selection = plan.selection
    left_out = {
        'dropped for their length': selection.dropped_long,
        'dropped for an empty side': selection.dropped_empty,
        'truncated': selection.truncated,
    }
    counted = [f'{count:,} {what}' for what, count in left_out.items() if count]
    if counted:
        lines.append(
            f'training pairs {", ".join(counted)} (batch.max_length {experiment.batch.max_length})'
        )
    if start:
        lines.append(f'going on from step {start:,}')
    return lines


def _refuse_idle_steps(experiment: Experiment) -> None:
    last, steps = experiment.schedule.zero_from, experiment.train.steps
    if last is not None and steps > last:
        raise UserError(
            f'The learning rate is 0 from step {last:,} on, but train.steps is {steps:,}; set '
            '--schedule.decay-steps for a new run, or go on from this one with --fork-from.'
        )


class _Profiler:
    """Traces some steps for xprof, after those that compile; a run that ends earlier keeps them."""

    def __init__(self, folder: Path, start: int, steps: int | None) -> None:
        self._folder, self._steps = folder, steps
        self._first = start + PROFILE_STARTS_AFTER
        self._running = False

    def __enter__(self) -> '_Profiler':
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()

    def __call__(self, step: int) -> None:
        if self._steps is None:
            return
        if step == self._first:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        elif step == self._first + self._steps:
            self._stop()

    def _stop(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
