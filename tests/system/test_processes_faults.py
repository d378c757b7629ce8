"""What may befall one of two processes; the other one never hangs, and nothing is lost."""

import functools
import itertools
import json
import os
import resource
import signal
import time

import jax
import numpy as np
import pytest

from seqzoo.training import load_run

# Seconds each on a quiet machine; the limit is for a busy one.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ENDLESS = 100_000


@pytest.fixture
def launch(launch):
    """Processes of one device each: these tests are about processes."""
    return functools.partial(launch, devices=1)


@pytest.fixture
def words(corpus, small, tmp_path):
    """The words of a training into a run folder up to a step."""

    def build(name, steps, *more, data=corpus):
        return [
            *('train', 'transformer_tiny_text', '--run', tmp_path / name, '--data-dir', data),
            *(word for word in small if '--mesh' not in word),
            *('--mesh.data=1', '--mesh.fsdp=-1', '--train.log-every=1'),
            *('--train.checkpoint-every=10', '--train.evaluate-every=0'),
            f'--train.steps={steps}',
            *more,
        ]  # fmt: skip

    return build


def wait_for_step(run, step, since=0.0, seconds=200):
    """Until a step from `step` on was logged after the time `since`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        log = run / 'metrics.jsonl'
        for line in log.read_text().splitlines(keepends=True) if log.exists() else []:
            event = json.loads(line) if line.endswith('\n') else {'kind': 'half a line'}
            if event['kind'] == 'train' and event['step'] >= step and event['time'] > since:
                return
        time.sleep(0.05)
    raise AssertionError(f'{run} did not come to step {step}')


def final(path):
    run = load_run(path, step='latest')
    return run.step, jax.device_get(run.params)


def assert_bit_equal(*runs):
    (step, one), (other, two) = map(final, runs)
    assert step == other
    jax.tree.map(np.testing.assert_array_equal, one, two)


def one_sentence(text):
    """The last lines of standard error are one sentence of ours and nothing of C++."""
    assert 'Traceback' not in text
    assert 'Check failure' not in text
    lines = [line for line in text.splitlines() if line.startswith('seqzoo: ')]
    assert len(lines) == 1, text
    return lines[0]


def test_sigterm_to_one_of_two_saves_the_same_step_and_goes_on_bit_for_bit(words, launch, tmp_path):
    stopped = launch(words('stopped', ENDLESS))
    wait_for_step(tmp_path / 'stopped', 3)
    stopped.processes[1].send_signal(signal.SIGTERM)
    assert [outcome.status for outcome in stopped.ends()] == [75, 75]
    step = load_run(tmp_path / 'stopped', step='latest').step
    assert 3 <= step < ENDLESS
    for name in ('stopped', 'whole'):
        outcomes = launch(words(name, step + 3)).ends()
        assert [outcome.status for outcome in outcomes] == [0, 0], outcomes[0].err
    assert_bit_equal(tmp_path / 'stopped', tmp_path / 'whole')


@pytest.mark.parametrize('dead', [0, 1])
def test_when_one_is_killed_the_other_leaves_to_be_started_again(words, launch, tmp_path, dead):
    both = launch(words('run', ENDLESS))
    wait_for_step(tmp_path / 'run', 12)
    both.processes[dead].kill()
    killed = time.monotonic()
    assert both.processes[1 - dead].wait(60) == 75
    assert time.monotonic() - killed < 30
    left = both.ends()[1 - dead]
    assert f'process {dead} on' in one_sentence(left.err)
    assert 'start all processes again' in left.err
    assert final(tmp_path / 'run')[0] >= 10


@pytest.mark.parametrize('full', [0, 1])
def test_when_one_cannot_write_both_say_so_and_end(words, launch, tmp_path, full):
    both = launch(words('run', ENDLESS))
    wait_for_step(tmp_path / 'run', 1)
    pid = both.processes[full].pid
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (20_000, 20_000))  # bytes a file may have
    outcomes = both.ends(100)
    assert [outcome.status for outcome in outcomes] == [2, 2]
    for outcome in outcomes:
        assert 'could not be saved' in one_sentence(outcome.err)
        assert 'File too large' in one_sentence(outcome.err)


def test_a_mistake_of_one_process_ends_both(words, launch, corpus, tmp_path):
    empty = tmp_path / 'empty'
    empty.mkdir()
    outcomes = launch(lambda number: words('run', ENDLESS, data=(corpus, empty)[number])).ends(100)
    assert [outcome.status for outcome in outcomes] == [2, 2]
    assert 'process 1 stopped' in one_sentence(outcomes[0].err)
    assert 'empty' in one_sentence(outcomes[1].err)
    assert not (tmp_path / 'run' / 'experiment.json').exists()


def test_other_data_in_one_process_is_refused(words, launch, corpus, write_corpus, tmp_path):
    (tmp_path / 'other').mkdir()
    other = write_corpus(tmp_path / 'other', pairs=150)
    outcomes = launch(lambda number: words('run', ENDLESS, data=(corpus, other)[number])).ends(100)
    assert [outcome.status for outcome in outcomes] == [2, 2]
    for outcome in outcomes:
        assert 'not the same for process 1' in one_sentence(outcome.err)


def test_a_second_run_in_the_folder_of_two_processes_is_refused_and_damage_is_survived(
    words, launch, seqzoo, tmp_path
):
    both = launch(words('run', ENDLESS, '--train.keep=2'))
    wait_for_step(tmp_path / 'run', 22)
    refused = seqzoo(*words('run', ENDLESS))
    assert refused.status == 2
    assert 'is being written by another run' in refused.err
    both.processes[0].terminate()
    assert [outcome.status for outcome in both.ends()] == [75, 75]

    folder = tmp_path / 'run' / 'checkpoints'
    older, newest = sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    damage(folder / str(newest))
    first, second = launch(words('run', newest)).ends()
    assert (first.status, second.status) == (0, 0), first.err
    assert f'{folder / str(newest)} is damaged' in first.err
    assert f'going on from step {older}' in first.err
    for path in folder.iterdir():
        damage(path)
    outcomes = launch(words('run', newest + 1)).ends()
    for outcome in outcomes:
        assert outcome.status == 2, outcome.err
        assert 'no good checkpoint' in one_sentence(outcome.err)
        assert f'step {newest}: ' in outcome.err


def damage(checkpoint):
    """Flips a bit in the largest file."""
    files = [path for path in checkpoint.rglob('*') if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


@pytest.mark.parametrize(
    'kind',
    [
        ['--batch.fitted-buckets=2'],
        pytest.param(
            ['--batch.packing=true'],
            marks=pytest.mark.skipif(
                'SEQZOO_THOROUGH' not in os.environ, reason='SEQZOO_THOROUGH=1 runs it too'
            ),
        ),
    ],
)
def test_kills_at_random_moments_change_nothing(words, launch, tmp_path, kind):
    """SEQZOO_KILL_ROUNDS sets how often, SEQZOO_KILL_PROCESSES how many processes take part."""
    rounds = int(os.environ.get('SEQZOO_KILL_ROUNDS', '2'))
    count = int(os.environ.get('SEQZOO_KILL_PROCESSES', '1'))
    steps = 40 * rounds
    more = [*kind, '--train.checkpoint-every=3', '--model.dropout-rate=0.1']
    whole = launch(words('whole', steps, *more), count)
    assert all(outcome.status == 0 for outcome in whole.ends())
    rng = np.random.default_rng(int(os.environ.get('SEQZOO_KILL_SEED', '0')))
    run = tmp_path / 'killed'
    for number in itertools.count():
        if number == rounds:
            outcomes = launch(words('killed', steps, *more), count).ends()
            assert all(outcome.status == 0 for outcome in outcomes), outcomes[0].err
            break
        begun = time.time()
        killed = launch(words('killed', steps, *more), count)
        wait_for_step(run, 1, since=begun)
        time.sleep(float(rng.uniform(0, 1)))
        victim = killed.processes[rng.integers(count)]
        victim.kill()
        statuses = [outcome.status for outcome in killed.ends(100)]
        assert set(statuses) <= {-9, 75, 0}
    events = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    assert [e['step'] for e in events if e['kind'] == 'train'] == list(range(1, steps + 1))
    assert_bit_equal(tmp_path / 'whole', run)
