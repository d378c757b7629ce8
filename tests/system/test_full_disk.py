"""A disk that is full while a run writes to it: one sentence, and nothing lost that was kept.

A file system of a few megabytes in memory is really full; mounting it needs root.
"""

import json
import os
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from seqzoo.training import load_run

pytestmark = pytest.mark.filterwarnings('ignore')


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 16 MB, and a function that leaves so many kilobytes of it."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    mount = shutil.which('mount')
    options = ['-t', 'tmpfs', '-o', 'size=16m', 'tmpfs', str(folder)]
    if not mount or subprocess.run([mount, *options], capture_output=True, check=False).returncode:
        pytest.skip('mounting a small file system needs root')

    def leave(kilobytes):
        filler = folder / 'filler'
        filler.unlink(missing_ok=True)
        if kilobytes is None:
            return
        status = os.statvfs(folder)
        free = status.f_bavail * status.f_frsize - kilobytes * 1024
        with filler.open('wb') as file:
            file.write(bytes(max(0, free)))

    yield folder, leave
    subprocess.run(['umount', '-l', str(folder)], check=True)


def saved(run):
    return sorted(int(p.name) for p in (run / 'checkpoints').iterdir() if p.name.isdigit())


def half_written(folder):
    return [p for p in folder.rglob('*') if 'tmp' in p.name.removeprefix(folder.name)]


@pytest.mark.slow
@pytest.mark.parametrize('kilobytes', [0, 60])
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_where_there_is_room(
    train, small_disk, tmp_path, kilobytes
):
    folder, leave = small_disk
    assert (first := train('disk/run', steps=3)).status == 0, first.err
    before = saved(folder / 'run')
    leave(kilobytes)
    full = train('disk/run', steps=6)
    assert full.status == 2, full.err
    complaint = [line for line in full.err.splitlines() if line.startswith('seqzoo: ')]
    assert len(complaint) == 1
    assert re.search('No space left on device', complaint[0])
    assert 'make room' in complaint[0]
    assert 'Traceback' not in full.err
    # What was there can still be used, and nothing half written counts as a checkpoint.
    assert set(before) <= set(saved(folder / 'run'))
    assert load_run(folder / 'run', step='latest').step >= 3
    leave(None)
    assert train('disk/run', steps=6).status == 0
    assert not half_written(folder / 'run' / 'checkpoints')
    assert train('whole', steps=6).status == 0
    ends = [load_run(tmp_path / name, step='latest') for name in ('disk/run', 'whole')]
    assert [run.step for run in ends] == [6, 6]
    jax.tree.map(np.testing.assert_array_equal, *(jax.device_get(run.params) for run in ends))
    events = [json.loads(x) for x in (folder / 'run' / 'metrics.jsonl').read_text().splitlines()]
    steps = [e['step'] for e in events if e['kind'] == 'train']
    assert steps == sorted(set(steps))


@pytest.mark.slow
def test_a_full_disk_is_named_once_and_last(train, small_disk, corpus, small):
    """In a process of its own: libraries also speak when it ends, on a busy machine even late."""
    folder, leave = small_disk
    assert train('disk/run', steps=3).status == 0
    leave(60)
    command = [
        sys.executable, '-m', 'seqzoo', 'train', 'transformer_tiny_text', '--quiet', '--run',
        folder / 'run', '--data-dir', corpus, *small, '--train.steps=6',
        '--train.checkpoint-every=2',
    ]  # fmt: skip
    full = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert full.returncode == 2, full.stderr
    said = [line for line in full.stderr.splitlines() if line.startswith('seqzoo: ')]
    assert said == full.stderr.splitlines()[-1:], full.stderr
    assert full.stdout == ''


@pytest.mark.slow
def test_a_snapshot_that_finds_no_room_is_one_sentence_too(train, small_disk):
    folder, leave = small_disk
    assert train('disk/run', steps=2).status == 0
    leave(60)
    full = train('disk/run', '--train.snapshot-every=1', '--train.checkpoint-every=1000', steps=6)
    assert full.status == 2, full.err
    assert 'Traceback' not in full.err
    assert 'No space left on device' in full.err
    assert load_run(folder / 'run', step='latest').step == 2
