"""The loop around a step: what it refuses, what it counts, what it keeps and where its time goes.

The step is the real one, over a model of one matrix: what goes wrong is made to go wrong by data.
"""

import contextlib
import dataclasses
import io
import json
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from seqzoo.data.batching import ArraySpec
from seqzoo.errors import UserError
from seqzoo.experiment import TrainConfig
from seqzoo.tasks.base import Losses, Sums
from seqzoo.training.averaging import Snapshots
from seqzoo.training.checkpoint import Checkpoints
from seqzoo.training.clock import KINDS, Clock
from seqzoo.training.events import EventLog, read_events
from seqzoo.training.lock import RunLock
from seqzoo.training.loop import History, Improvement, Loop, NonFinite, Recompilation
from seqzoo.training.progress import Progress
from seqzoo.training.recompilation import StepGuard
from seqzoo.training.signals import StopRequest
from seqzoo.training.state import TrainState
from seqzoo.training.step import make_train_step

WIDTH = 3
SPECS = [{'x': ArraySpec((rows, WIDTH), 'float32'), 'rows': ArraySpec((rows,))} for rows in (2, 4)]


class Regression:
    """The least task: `x` is to be mapped to ones."""

    def weights(self, batch):
        return {'loss': jnp.float32(batch['x'].shape[0])}

    def loss(self, model, variables, batch, carry, *, key):
        total = jnp.sum((model.apply(variables, batch['x']) - 1) ** 2)
        weight = jnp.float32(batch['x'].shape[0])
        return Losses({'loss': total}, {'loss': Sums(total, weight)}), carry


MODEL, ADAM = nn.Dense(1, use_bias=False), optax.scale_by_adam()


@pytest.fixture(scope='module')
def compiled():
    """The step by its limit on the gradient and its rate: each compiled once for all tests."""
    steps = {}

    def get(limit=None, rate=1e-2, transformation=ADAM):
        key = (limit, rate, transformation)
        if key not in steps:
            step = make_train_step(Regression(), MODEL, transformation, lambda s: rate, 1, limit)
            steps[key] = jax.jit(step, donate_argnums=0)
        return steps[key]

    return get


def first_state(transformation=ADAM):
    params = {'kernel': jnp.full((WIDTH, 1), 0.5, jnp.float32)}
    return TrainState.first(params, transformation, jax.random.key(0))


def batches(start=0, changes=None):
    """Two shapes in turn; `changes` by step puts other arrays into a batch."""
    step = start
    while True:
        rows = (2, 4)[step % 2]
        x = np.random.default_rng(step).normal(size=(rows, WIDTH)).astype(np.float32)
        arrays = {'x': x, 'rows': np.arange(rows, dtype=np.int32)}
        arrays |= (changes or {}).get(step, {})
        yield SimpleNamespace(step=step, arrays=arrays, digest=f'{step:016x}')
        step += 1


BAD = {'x': np.full((2, WIDTH), np.nan, np.float32)}
HUGE = {'x': np.full((2, WIDTH), 1e4, np.float32)}


class Outcome(SimpleNamespace):
    """What a run of the loop left behind."""

    def events(self, kind):
        return read_events(self.run, kind)


@pytest.fixture
def loop(tmp_path, compiled):
    """Runs the loop in a folder; goes on from its newest checkpoint."""

    def run(
        *,
        changes=None,
        state=None,
        step=None,
        put=lambda arrays: arrays,
        evaluate=lambda state: {'loss': 1.0},
        specs=SPECS,
        rate=1e-2,
        transformation=ADAM,
        lock=None,
        folder='run',
        stop_at=None,
        around=lambda loop: loop,
        **config,
    ):
        settings = {'steps': 8, 'log_every': 1, 'evaluate_every': 0, 'checkpoint_every': 1000}
        config = TrainConfig(**{**settings, **config})
        where, shown = tmp_path / folder, io.StringIO()
        outcome = Outcome(run=where, shown=shown, status=None, error=None, state=None)
        with contextlib.ExitStack() as stack:
            enter = stack.enter_context
            clock = enter(Clock())
            checkpoints = enter(Checkpoints(where / 'checkpoints', best_metric='loss'))
            abstract = jax.tree.map(ocp_shape, first_state(transformation))
            restored = checkpoints.restore(abstract)
            history, start = History(), 0
            if restored is not None:
                state, start = restored.state, restored.step
                history = History(restored.meta['examples_digest'])
                clock.earlier = restored.meta['spent']
            outcome.loop = around(
                Loop(
                    config=config,
                    step=step or compiled(config.max_gradient_norm, rate, transformation),
                    guard=StepGuard(specs),
                    batches=batches(start, changes),
                    put=put,
                    evaluate=evaluate,
                    metric='loss',
                    improvement=Improvement('min'),
                    meta=dict,
                    checkpoints=checkpoints,
                    snapshots=enter(Snapshots(where / 'snapshots', keep=9))
                    if config.snapshot_every
                    else None,
                    events=enter(EventLog(where, tensorboard=False)),
                    progress=enter(Progress(config.steps, stream=shown, mode='lines')),
                    stop=enter(StopRequest()),
                    lock=lock or RunLock(where),
                    clock=clock,
                    history=history,
                )
            )
            if stop_at is not None:
                outcome.loop.profile = lambda at: (
                    outcome.loop.stop.request('preempted') if at + 1 == stop_at else None
                )
            try:
                outcome.state, outcome.status = outcome.loop.run(
                    first_state(transformation) if state is None else state
                )
            except UserError as error:
                outcome.error = error
        print(outcome.error)
        with Checkpoints(where / 'checkpoints', read_only=True) as kept:
            outcome.checkpoints = kept.steps()
        return outcome

    return run


def ocp_shape(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def finite_everywhere(folder):
    """How many checkpoints a folder holds, all of which must be finite."""
    with Checkpoints(folder, read_only=True) as kept:
        part = {'params': jax.tree.map(ocp_shape, first_state().params)}
        for step in kept.steps():
            params = kept.restore_part(part, step).state['params']
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)), step
        return len(kept.steps())


# Which examples took part


def test_the_logged_digest_covers_every_step_and_goes_on_after_a_restart(loop):
    whole = loop(steps=7, folder='whole', log_every=3)
    loop(steps=4, folder='parts', log_every=3)
    parts = loop(steps=7, folder='parts', log_every=3)
    digests = {e['step']: e['examples_digest'] for e in whole.events('train')}
    assert set(digests) == {3, 6, 7}
    assert len(set(digests.values())) == 3
    again = {e['step']: e['examples_digest'] for e in parts.events('train')}
    assert again[7] == digests[7]
    assert again[3] == digests[3]
    # By hand: each step's digest is hashed into the one before.
    history = History()
    for step in range(7):
        history.add(f'{step:016x}')
    assert history.digest == digests[7]


def test_one_other_example_anywhere_changes_every_later_digest():
    one, other = History(), History()
    for step in range(5):
        one.add(f'{step:016x}')
        other.add(f'{step + (step == 1):016x}')
    assert one.digest != other.digest
    swapped = History()
    for step in (1, 0, 2, 3, 4):
        swapped.add(f'{step:016x}')
    assert swapped.digest != one.digest


def test_data_at_another_step_than_the_parameters_is_an_error(loop):
    with pytest.raises(RuntimeError, match='the data is at step 0, the parameters at step 2'):
        loop(state=dataclasses.replace(first_state(), step=jnp.int32(2)))


# Compilation


def wide(rows=2):
    return {'x': np.zeros((rows, WIDTH + 2), np.float32)}


def test_a_batch_that_was_not_announced_is_refused_with_the_name_of_the_argument(loop):
    refused = loop(changes={4: wide()}, checkpoint_every=2)
    assert isinstance(refused.error, Recompilation)
    assert 'Step 5 would be compiled anew' in str(refused.error)
    assert "batch['x'] is [2, 5] float32 instead of [2, 3] float32" in str(refused.error)
    assert "batch['rows']" not in str(refused.error)
    assert refused.checkpoints == [2, 4]


def test_the_first_batch_is_held_to_the_announcement_as_well(loop):
    refused = loop(changes={0: {'x': np.zeros((2, WIDTH), np.float64)}})
    assert "batch['x'] is [2, 3] float64 instead of [2, 3] float32" in str(refused.error)


def test_a_missing_and_a_superfluous_array_are_named(loop):
    refused = loop(changes={3: {'y': np.zeros(4, np.float32)}})
    assert "batch['y'] is [4] float32 and was never announced" in str(refused.error)
    guard = StepGuard(SPECS)
    assert guard.before(first_state(), {'rows': np.arange(2, dtype=np.int32)}, {}) == (
        "batch['x'] is missing"
    )


def test_a_python_number_among_the_arrays_is_named(loop):
    refused = loop(changes={1: {'rows': 7}})
    assert (
        "batch['rows'] is [] int32 (weakly typed, as Python numbers are) instead of [4] int32"
        in str(refused.error)
    )


@pytest.mark.parametrize('drift', ['weak', 'dtype'])
def test_a_state_that_changes_its_type_is_named(loop, drift):
    state = first_state()
    if drift == 'weak':
        state = dataclasses.replace(state, learning_rate_scale=jax.device_put(1.0))
        expected = 'state.learning_rate_scale is [] float32 (weakly typed'
    else:
        expected = "state.params['kernel'] is [3, 1] bfloat16 instead of [3, 1] float32"

    def drifting(state, batch):
        params = {'kernel': state.params['kernel'].astype(jnp.bfloat16)}
        metrics = {'loss': Sums(jnp.ones(()), jnp.ones(())), 'gradient_norm': jnp.ones(())}
        metrics |= {'learning_rate': jnp.ones(()), 'finite': True, 'applied': True}
        return dataclasses.replace(state, step=state.step + 1, params=params), metrics

    refused = loop(state=state, step=drifting)
    assert isinstance(refused.error, Recompilation)
    assert expected in str(refused.error)


def test_reporting_compiles_counts_and_goes_on(loop):
    step = jax.jit(make_train_step(Regression(), nn.Dense(1, use_bias=False), ADAM, lambda s: 1e-2))
    odd = {'x': np.ones((6, WIDTH), np.float32), 'rows': np.arange(6, dtype=np.int32)}
    done = loop(changes={2: odd, 5: odd}, step=step, on_recompile='report')
    assert done.status == 'done'
    reports = done.events('recompile')
    assert [e['step'] for e in reports] == [3], 'the second time it is compiled already'
    assert "batch['x'] is [6, 3] float32" in reports[0]['argument']
    assert done.events('goodput')[0]['recompilations'] == 1
    assert '1 compilations that the plan did not announce' in done.shown.getvalue()
    assert step._cache_size() == 3


def test_a_run_compiles_once_for_each_announced_shape_and_says_how_often(loop):
    def fresh(state, batch):
        return make_train_step(Regression(), MODEL, ADAM, lambda s: 1e-2)(state, batch)

    done = loop(step=jax.jit(fresh, donate_argnums=0), steps=10, checkpoint_every=3)
    programs = done.loop.clock.watch.programs
    assert sum('fresh' in name for name in programs) == len(SPECS)
    assert done.events('goodput')[0]['step_compilations'] == len(SPECS)
    assert done.events('recompile') == []


def test_a_second_evaluation_that_compiles_is_reported(loop):
    lengths = iter((3, 3, 5))

    def evaluate(state):
        return {'loss': float(jax.jit(lambda x: x.sum())(jnp.ones(next(lengths))))}

    done = loop(evaluate=evaluate, steps=6, evaluate_every=2)
    reports = done.events('recompile')
    assert reports
    assert all(e['argument'] == 'evaluation' for e in reports)


# Where the time goes


def test_the_shares_of_the_time_sum_to_one_and_are_what_was_spent(loop):
    import time

    def evaluate(state):
        time.sleep(0.3)
        return {'loss': 1.0}

    def put(arrays):
        time.sleep(0.05)  # stands for a slow step
        return arrays

    done = loop(evaluate=evaluate, put=put, steps=8, evaluate_every=4, checkpoint_every=4)
    goodput = done.events('goodput')[0]
    shares = {kind: goodput[f'share_{kind}'] for kind in (*KINDS, 'other')}
    assert math.isclose(sum(shares.values()), 1, abs_tol=1e-3)
    spent = done.loop.clock.spent
    assert 0.6 <= spent['evaluation'] < 1.5
    assert 0.4 <= spent['step'] < 1.5
    assert spent['data'] < 0.4
    assert shares['checkpoint'] > 0
    assert 'time: ' in done.shown.getvalue()
    assert 'evaluation' in done.shown.getvalue()


def test_compilation_is_counted_apart_wherever_it_happens():
    with Clock() as clock:
        clock.begin()
        before = clock.watch.seconds
        jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x).T + 3)(jnp.ones((5, 7))).block_until_ready()
        clock.lap('evaluation')
    assert clock.watch.seconds > before
    assert clock.spent['compile'] == pytest.approx(clock.watch.seconds)
    assert clock.spent['evaluation'] >= 0
    heard = clock.watch.seconds
    jax.jit(lambda x: x + 12)(jnp.ones(13))
    assert clock.watch.seconds == heard, 'it listens only while it is entered'


def test_the_whole_run_counts_every_process_and_what_was_lost(loop):
    first = loop(steps=4, checkpoint_every=2)
    second = loop(steps=6, checkpoint_every=2)
    whole = second.events('goodput')[-1]['whole_run']
    ours, before = second.loop.clock.spent, second.loop.clock.earlier
    assert 0 < before['step'] <= first.loop.clock.spent['step'] + 0.001
    assert whole['seconds'] == pytest.approx(sum(ours.values()) + sum(before.values()), rel=0.01)
    assert whole['share_step'] == pytest.approx(
        (ours['step'] + before['step']) / whole['seconds'], abs=0.01
    )
    assert math.isclose(sum(v for k, v in whole.items() if k != 'seconds'), 1, abs_tol=1e-3)
    clock = Clock()
    clock.earlier = {'step': 10.0, 'lost': 30.0}
    assert clock.whole_run()['share_lost'] == pytest.approx(0.75, abs=0.01)


# Steps that must not count


def test_a_gradient_that_is_not_finite_stops_the_run_and_nothing_after_it_is_kept(loop):
    stopped = loop(changes={4: BAD}, checkpoint_every=1, snapshot_every=1)
    assert isinstance(stopped.error, NonFinite)
    assert 'step 5 is not finite' in str(stopped.error)
    assert 'the last good checkpoint is step 4' in str(stopped.error)
    assert stopped.checkpoints == [3, 4]
    assert finite_everywhere(stopped.run / 'checkpoints') == 2
    assert finite_everywhere(stopped.run / 'snapshots') == 4


@pytest.mark.parametrize(('bad', 'limit'), [(BAD, None), (HUGE, 100.0)], ids=['nan', 'exploding'])
def test_a_skipped_step_is_counted_and_changes_nothing(loop, bad, limit):
    done = loop(changes={4: bad}, non_finite='skip', max_gradient_norm=limit)
    assert done.status == 'done'
    assert sum(e.get('skipped_steps', 0) for e in done.events('train')) == 1
    assert done.events('goodput')[0]['skipped_steps'] == 1
    assert '1 steps were left out' in done.shown.getvalue()
    assert int(done.state.step) == 8
    # The optimizer has seen seven gradients, and none of them bad.
    assert int(done.state.opt_state.count) == 7
    assert np.isfinite(done.state.params['kernel']).all()


def test_an_exploding_gradient_stops_the_run_with_norm_and_limit(loop):
    stopped = loop(changes={4: HUGE}, max_gradient_norm=100.0, checkpoint_every=2)
    assert isinstance(stopped.error, NonFinite)
    assert 'The gradient of step 5 exploded' in str(stopped.error)
    assert 'above 100' in str(stopped.error)
    assert stopped.checkpoints == [2, 4]
    assert loop(changes={4: HUGE}, folder='unlimited').status == 'done'


def test_a_run_that_skips_everything_is_stopped_in_the_end(loop):
    always = {step: {'x': np.full(((2, 4)[step % 2], WIDTH), np.nan, 'f4')} for step in range(400)}
    stopped = loop(changes=always, non_finite='skip', steps=400, log_every=10)
    assert 'as were those of the 99 steps before it' in str(stopped.error)


OVERFLOW = optax.scale(1e38)  # a finite gradient, and an update beyond float32

WAYS_TO_SAVE = {
    'interval': {'checkpoint_every': 1},
    'snapshot': {'snapshot_every': 1},
    'improved': {'evaluate_every': 1},
    'end': {'steps': 1},
    'minutes': {'max_minutes': 1e-9},
    'preempted': {'stop_at': 1},
}


@pytest.mark.parametrize('way', WAYS_TO_SAVE)
def test_parameters_that_are_not_finite_are_never_kept(loop, way):
    improving = iter(range(100, 0, -1))
    stopped = loop(
        transformation=OVERFLOW,
        rate=1e30,
        evaluate=lambda state: {'loss': float(next(improving))},
        **WAYS_TO_SAVE[way],
    )
    assert isinstance(stopped.error, NonFinite)
    assert 'After step 1 the parameters' in str(stopped.error)
    assert 'no checkpoint exists yet' in str(stopped.error)
    assert stopped.checkpoints == []
    if (stopped.run / 'snapshots').exists():
        assert finite_everywhere(stopped.run / 'snapshots') == 0


def test_snapshots_may_wait_until_the_dev_metric_stops_improving(loop):
    values = [5.0, 4.0, 4.5, 3.0, 3.5, 3.5, 2.0, 2.5]
    ways = {'evaluate_every': 1, 'snapshot_every': 1, 'snapshot_patience': 2}
    outcome = loop(evaluate=lambda state: {'loss': values[int(state.step) - 1]}, **ways)
    with Checkpoints(outcome.run / 'snapshots', read_only=True) as snapshots:
        assert snapshots.steps() == [6, 7, 8]


def test_an_evaluation_that_is_not_a_number_is_never_the_best():
    improvement = Improvement('min')
    assert not improvement.update(math.nan)
    assert improvement.update(3.0)
    assert not improvement.update(math.nan)
    assert improvement.update(2.0)
    assert not Improvement('max').update(math.inf)


# Locks


def test_a_run_whose_folder_was_taken_over_stops_before_it_writes(loop):
    class Lost:
        calls = 0

        def check(self):
            self.calls += 1
            if self.calls > 6:
                raise UserError('the folder was taken over')

    stopped = loop(lock=Lost(), checkpoint_every=2, steps=50)
    assert 'taken over' in str(stopped.error)
    last = stopped.events('train')[-1]['step']
    assert last < 8
    assert max(stopped.checkpoints) <= last + 1


def test_the_log_stays_json(loop):
    done = loop(changes={3: BAD}, non_finite='skip')
    for line in (done.run / 'metrics.jsonl').read_text().splitlines():
        json.loads(line)


def test_a_run_stopped_where_its_checkpoint_was_damaged_saves_it_anew(loop):
    first = loop(steps=20, checkpoint_every=4, stop_at=6)
    files = (first.run / 'checkpoints' / '6').rglob('*')
    largest = max((p for p in files if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    loop(steps=20, checkpoint_every=4, stop_at=6)
    with Checkpoints(first.run / 'checkpoints', read_only=True) as kept:
        restored = kept.restore(jax.tree.map(ocp_shape, first_state()))
    assert restored.step == 6


def test_a_run_stopped_at_its_last_step_is_evaluated_at_the_next_start(loop):
    def best(run):
        with Checkpoints(run / 'checkpoints', read_only=True, best_metric='loss') as kept:
            return kept.best()

    stopped = loop(steps=4, stop_at=4)
    assert (stopped.status, stopped.checkpoints, best(stopped.run)) == ('preempted', [4], None)
    again = loop(steps=4)
    assert (again.status, again.checkpoints, best(again.run)) == ('done', [4], 4)
    (event,) = again.events('evaluation')
    assert (event['step'], event['loss']) == (4, 1.0)
    once_more = loop(steps=4)
    assert once_more.status == 'done'
    assert len(once_more.events('evaluation')) == 1
    whole = loop(steps=4, folder='whole')
    assert whole.loop.history.digest == once_more.loop.history.digest
    longer = [loop(steps=6, folder=name) for name in ('run', 'whole')]
    jax.tree.map(np.testing.assert_array_equal, *(one.state.params for one in longer))
