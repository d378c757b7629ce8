"""One writer per run folder, and a dead one never blocks."""

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from seqzoo.errors import UserError
from seqzoo.training import lock
from seqzoo.training.lock import LOCK_FILE, RunLock

BEAT = 0.1


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path`."""
    program = """
import sys, time
from pathlib import Path
from seqzoo.training.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print('held', flush=True)
    sys.stdin.readline()
print('released', flush=True)
"""
    child = subprocess.Popen(
        [sys.executable, '-c', program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert child.stdout.readline() == 'held\n'
    yield child
    child.kill()
    child.communicate()


def write_holder(run, **changes):
    (run / LOCK_FILE).write_text(
        json.dumps(
            {
                'host': 'elsewhere',
                'pid': 7,
                'started': '2020-01-01 00:00:00',
                'token': 'theirs',
                **changes,
            }
        )
    )


@contextlib.contextmanager
def beating(run):
    """While it is entered, the holder in the lock file of a run gives signs of life."""
    stop = threading.Event()

    def beat():
        while not stop.wait(BEAT):
            os.utime(run / LOCK_FILE)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_second_process_is_refused_and_told_who_has_it(tmp_path, holder):
    with pytest.raises(UserError, match=rf'process {holder.pid} on .*, started 20'):
        RunLock(tmp_path).acquire()


def test_a_lock_that_was_given_back_is_free(tmp_path, holder):
    holder.stdin.write('\n')
    holder.stdin.flush()
    assert holder.stdout.readline() == 'released\n'
    with RunLock(tmp_path):
        pass


def test_the_lock_of_a_killed_process_does_not_block(tmp_path, holder):
    holder.kill()
    holder.wait()
    with RunLock(tmp_path) as lock:
        lock.check()


def test_a_forked_worker_that_outlives_the_run_does_not_block(tmp_path):
    program = """
import os, sys, time
from pathlib import Path
from seqzoo.training.lock import RunLock
RunLock(Path(sys.argv[1])).acquire()
if os.fork() == 0:
    time.sleep(30)
    os._exit(0)
os.kill(os.getpid(), 9)
"""
    subprocess.run(
        [sys.executable, '-c', program, str(tmp_path)],
        cwd=Path(__file__).resolve().parents[2],
        check=False,
    )
    with RunLock(tmp_path):
        pass


def test_the_same_process_cannot_take_it_twice(tmp_path):
    with RunLock(tmp_path), pytest.raises(UserError, match=f'process {os.getpid()}'):
        RunLock(tmp_path).acquire()
    with RunLock(tmp_path):
        pass


def test_a_dead_holder_on_another_host_does_not_block(tmp_path):
    write_holder(tmp_path)
    with RunLock(tmp_path, heartbeat=BEAT, silence=3 * BEAT) as lock:
        lock.check()


def test_a_live_holder_on_another_host_is_refused_by_its_heartbeat(tmp_path):
    write_holder(tmp_path)
    with beating(tmp_path), pytest.raises(UserError, match='process 7 on elsewhere, started 2020'):
        RunLock(tmp_path, heartbeat=BEAT, silence=3 * BEAT).acquire()


def test_a_holder_that_slept_while_another_host_took_over_notices(tmp_path):
    with RunLock(tmp_path, heartbeat=BEAT, silence=3 * BEAT) as lock:
        write_holder(tmp_path)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and lock._lost_to is None:
            time.sleep(BEAT)
        with pytest.raises(UserError, match='taken over by process 7 on elsewhere'):
            lock.check()
    assert json.loads((tmp_path / LOCK_FILE).read_text())['token'] == 'theirs'


def test_a_folder_and_a_link_to_it_are_one_folder(tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'run')
    with RunLock(tmp_path / 'run'), pytest.raises(UserError, match=f'process {os.getpid()}'):
        RunLock(tmp_path / 'link').acquire()


def test_nonsense_in_the_lock_file_does_not_block(tmp_path):
    (tmp_path / LOCK_FILE).write_text('{"host": "els')
    with RunLock(tmp_path, heartbeat=BEAT, silence=3 * BEAT):
        pass


@pytest.fixture
def no_locks(monkeypatch):
    """A file system on which nobody can lock."""

    def refuse(file, operation):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(lock.fcntl, 'lockf', refuse)


def test_without_locks_a_live_process_of_this_machine_is_refused_by_its_heartbeat(
    tmp_path, no_locks
):
    # The very process that holds it, so that its number and birth are those of a living one.
    with RunLock(tmp_path, heartbeat=BEAT, silence=3 * BEAT):
        del lock._held[tmp_path / LOCK_FILE]  # as another process would see it
        try:
            with pytest.raises(UserError, match=f'process {os.getpid()}'):
                RunLock(tmp_path, heartbeat=BEAT, silence=3 * BEAT).acquire()
        finally:
            lock._held[tmp_path / LOCK_FILE] = None


@pytest.mark.parametrize('pid', ['unused', 'reused'])
def test_without_locks_a_dead_process_of_this_machine_blocks_for_no_time(tmp_path, no_locks, pid):
    child = subprocess.Popen([sys.executable, '-c', ''])
    child.wait()
    number = child.pid if pid == 'unused' else os.getppid()
    write_holder(tmp_path, pid=number, machine=lock._machine(), born='12')
    began = time.monotonic()
    with RunLock(tmp_path, heartbeat=5):
        assert time.monotonic() - began < 2


def test_another_machine_of_the_same_name_is_another_machine(tmp_path):
    write_holder(tmp_path, host=socket.gethostname(), machine='another boot', born='12')
    with beating(tmp_path), pytest.raises(UserError, match='process 7 on'):
        RunLock(tmp_path, heartbeat=BEAT, silence=3 * BEAT).acquire()
    with RunLock(tmp_path, heartbeat=BEAT, silence=3 * BEAT):  # now it beats no more
        pass
