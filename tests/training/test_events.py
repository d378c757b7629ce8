"""The event log and the metrics that wait on the device."""

import json
import math
import struct
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.errors import UserError
from seqzoo.training.events import (
    METRICS_FILE,
    TENSORBOARD_FOLDER,
    DeferredMetrics,
    EventLog,
    read_events,
)


def numbers(run, kind=None):
    return [
        {name: value for name, value in event.items() if name != 'time'}
        for event in read_events(run, kind)
    ]


def test_events_come_back_in_order_and_by_kind(tmp_path):
    with EventLog(tmp_path, tensorboard=False) as log:
        log.write('train', 1, loss=np.float32(2.5), tokens=np.int64(7), note='größer')
        log.write('evaluation', 1, bleu=12.5, table={'a': [1, 2.0]})
        assert len(read_events(tmp_path)) == 2, 'events are readable while the log is open'
    assert numbers(tmp_path) == [
        {'kind': 'train', 'step': 1, 'loss': 2.5, 'tokens': 7, 'note': 'größer'},
        {'kind': 'evaluation', 'step': 1, 'bleu': 12.5, 'table': {'a': [1, 2.0]}},
    ]
    assert numbers(tmp_path, 'evaluation') == numbers(tmp_path)[1:]


def test_numbers_that_are_not_finite_stay_valid_json(tmp_path):
    with EventLog(tmp_path, tensorboard=False) as log:
        log.write('train', 1, loss=float('nan'), norm=np.float32('inf'), parts=[1.0, -math.inf])

    def refuse(name):
        raise AssertionError(f'{name} is not JSON')

    line = (tmp_path / METRICS_FILE).read_text()
    event = json.loads(line, parse_constant=refuse)
    assert (event['loss'], event['norm'], event['parts']) == (None, None, [1.0, None])
    assert event['non_finite'] == {'loss': 'nan', 'norm': 'inf', 'parts.1': '-inf'}


def test_going_back_forgets_what_came_after(tmp_path):
    with EventLog(tmp_path, tensorboard=False) as log:
        for step in range(1, 7):
            log.write('train', step, loss=float(step))
    with EventLog(tmp_path, tensorboard=False) as log:
        log.resume(4)
        log.write('resume', 4)
        log.write('train', 5, loss=50.0)
    assert [(event['kind'], event['step']) for event in read_events(tmp_path)] == [
        *(('train', step) for step in (1, 2, 3, 4)),
        ('resume', 4),
        ('train', 5),
    ]
    assert read_events(tmp_path)[-1]['loss'] == 50.0
    assert [path.name for path in tmp_path.iterdir()] == [METRICS_FILE]


def test_half_a_line_of_a_killed_run_is_cut_off(tmp_path):
    with EventLog(tmp_path, tensorboard=False) as log:
        log.write('train', 1, loss=1.0)
    with (tmp_path / METRICS_FILE).open('a') as file:
        file.write('{"kind": "train", "st')
    assert len(read_events(tmp_path)) == 1
    with EventLog(tmp_path, tensorboard=False) as log:
        log.write('train', 2, loss=2.0)
    assert [event['step'] for event in read_events(tmp_path)] == [1, 2]


def test_a_line_that_is_not_json_is_named(tmp_path):
    (tmp_path / METRICS_FILE).write_text('{"kind": "train", "step": 1}\nnonsense\n')
    with pytest.raises(UserError, match=r'line 2 of .*not JSON'):
        read_events(tmp_path)
    assert read_events(tmp_path / 'no-run') == []


def test_a_disabled_log_writes_nothing(tmp_path):
    with EventLog(tmp_path / 'run', enabled=False) as log:
        log.write('train', 1, loss=1.0)
        log.resume(0)
    assert not (tmp_path / 'run').exists()


def tensorboard_scalars(folder):
    """Reads event files by hand: records of (length, crc, data, crc), data in protocol buffers."""
    from tensorboardX.proto.event_pb2 import Event

    scalars = []
    for path in sorted(folder.iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from('<Q', content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += 16 + length
            scalars += [
                (value.tag, event.step, value.simple_value) for value in event.summary.value
            ]
    return scalars


def test_tensorboard_gets_the_finite_numbers(tmp_path):
    with EventLog(tmp_path) as log:
        log.write('train', 3, loss=0.5, note='text', bad=float('nan'), on=True)
        log.write('evaluation', 3, bleu=20)
    assert tensorboard_scalars(tmp_path / TENSORBOARD_FOLDER) == [
        ('train/loss', 3, 0.5),
        ('evaluation/bleu', 3, 20.0),
    ]


def test_tensorboard_does_not_bring_in_torch(tmp_path):
    program = """
import sys
from pathlib import Path
from seqzoo.training.events import EventLog
with EventLog(Path(sys.argv[1])) as log:
    log.write('train', 1, loss=1.0)
assert 'torch' not in sys.modules
"""
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, '-c', program, str(tmp_path)], cwd=root, check=True)


def test_a_number_on_the_device_is_refused_instead_of_waited_for(tmp_path):
    with (
        EventLog(tmp_path, tensorboard=False) as log,
        pytest.raises(TypeError, match='loss is still on the device'),
    ):
        log.write('train', 1, loss=jnp.float32(1.0))


@pytest.fixture
def fetches(monkeypatch):
    """The number of arrays in each call of `jax.device_get`."""
    calls = []
    real = jax.device_get

    def counted(tree):
        calls.append(len(jax.tree.leaves(tree)))
        return real(tree)

    monkeypatch.setattr(jax, 'device_get', counted)
    return calls


def test_deferred_metrics_fetch_many_steps_at_once_and_never_the_newest(fetches):
    deferred = DeferredMetrics(every=4, lag=2)
    seen = []
    for step in range(1, 13):
        due = deferred.push(step, {'loss': jnp.float32(step), 'norm': jnp.ones(2) * step})
        assert all(past.step <= step - 2 for past in due)
        seen += due
    assert fetches == [8, 8]
    seen += deferred.drain()
    assert fetches == [8, 8, 8]
    assert [past.step for past in seen] == list(range(1, 13))
    assert all(past.values['loss'] == past.step for past in seen)
    np.testing.assert_array_equal(seen[4].values['norm'], [5, 5])
    assert deferred.drain() == []


def test_pushing_does_not_wait_for_the_device():
    class Unfinished:
        """Stands for an array that is still being computed: any look at its value is an error."""

        def __array__(self, *arguments, **keywords):
            raise AssertionError('waited for the device')

    deferred = DeferredMetrics(every=3, lag=1)
    for step in range(3):
        assert deferred.push(step, {'loss': Unfinished()}) == []


def test_host_facts_come_back_with_their_step():
    deferred = DeferredMetrics(every=2, lag=1)
    seen = []
    for step in range(1, 6):
        seen += deferred.push(step, {'loss': jnp.float32(step)}, digest=f'd{step}')
    seen += deferred.drain()
    assert [past.facts for past in seen] == [{'digest': f'd{step}'} for step in range(1, 6)]


def test_going_back_tells_how_much_work_is_lost(tmp_path, monkeypatch):
    clock = iter([100.0, 110.0, 130.0, 1000.0, 1005.0])
    monkeypatch.setattr('time.time', lambda: next(clock))
    with EventLog(tmp_path, tensorboard=False) as log:
        log.write('train', 10)
        log.write('train', 20)  # 10 seconds after the checkpoint of step 10
        log.write('train', 30)  # 20 more
        log.write('start', 20)  # hours later another process tried from step 20
        log.write('train', 25)  # and worked for 5 seconds
        assert log.resume(10) == 35.0
    assert [event['step'] for event in read_events(tmp_path)] == [10]


def test_a_disk_without_room_is_one_sentence_for_both_files(tmp_path, monkeypatch):
    import os

    real = os.write

    def full(file, data):
        if b'tag' in data or b'brain' in data or b'train/' in data:
            return real(file, data[:5])
        return real(file, data)

    with EventLog(tmp_path) as log:
        log.write('train', 1, loss=1.0)
        monkeypatch.setattr(os, 'write', full)
        with pytest.raises(UserError, match=r'tensorboard: No space left on device; make room'):
            log.write('train', 2, loss=2.0)
    # What came before is whole, and the half record is gone.
    assert tensorboard_scalars(tmp_path / TENSORBOARD_FOLDER) == [('train/loss', 1, 1.0)]


def test_a_damaged_line_is_named_before_anything_is_forgotten(tmp_path):
    with EventLog(tmp_path, tensorboard=False) as log:
        log.write('train', 1, loss=2.0)
    file = tmp_path / 'metrics.jsonl'
    file.write_text(file.read_text() + '{"kind": "train"}\n')
    before = file.read_text()
    with EventLog(tmp_path, tensorboard=False) as log, pytest.raises(UserError, match='line 2 of'):
        log.resume(1)
    assert file.read_text() == before
