"""Mirrors and locks of a bucket, against a stand-in object store."""

import importlib.util
import os
import pathlib
import threading
import time

import pytest

from seqzoo import buckets
from seqzoo.buckets import Mirror
from seqzoo.errors import UserError
from seqzoo.training.bucket_lock import BucketLock
from seqzoo.training.integrity import damage, write_checksums

# The tests are no package: the stand-in is found by its place.
_spec = importlib.util.spec_from_file_location(
    'object_store', pathlib.Path(__file__).with_name('object_store.py')
)
object_store = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(object_store)

RUN = 'gs://bucket/my runs/one'


@pytest.fixture
def store(monkeypatch):
    with object_store.serving(monkeypatch) as served:
        import fsspec

        fsspec.filesystem('gcs').clear_instance_cache()
        yield served
        fsspec.filesystem('gcs').clear_instance_cache()


def test_two_mirrors_of_a_bucket_come_to_hold_the_same(store, tmp_path):
    here, there = (Mirror.of(RUN + '/', tmp_path / name) for name in ('a', 'b'))
    here.pull()
    (here.folder / 'pictures').mkdir()
    (here.folder / 'pictures' / 'loss 1.png').write_bytes(b'\x00\r\n\xff')
    (here.folder / 'metrics.jsonl').write_text('{}\n')
    (here.folder / '.half.part').write_text('half')
    here.push()
    assert store.names('bucket') == [
        'my runs/one/metrics.jsonl',
        'my runs/one/pictures/loss 1.png',
    ]
    there.pull()
    assert (there.folder / 'pictures' / 'loss 1.png').read_bytes() == b'\x00\r\n\xff'
    (there.folder / 'metrics.jsonl').write_text('{}\n{}\n')
    there.push()
    here.pull()
    assert (here.folder / 'metrics.jsonl').read_text() == '{}\n{}\n'
    # Gone there is gone here.
    del store.objects['bucket', 'my runs/one/metrics.jsonl']
    here.pull()
    assert not (here.folder / 'metrics.jsonl').exists()


def test_only_what_changed_goes_over_the_line_and_what_grew_here_stays(store, tmp_path):
    mirror = Mirror.of(RUN, tmp_path)
    mirror.pull()
    (mirror.folder / 'a').write_text('1')
    (mirror.folder / 'b').write_text('1')
    mirror.push()
    (mirror.folder / 'b').write_text('12')
    store.log.clear()
    mirror.push()
    assert sum(method == 'POST' for method, _ in store.log) == 1
    (mirror.folder / 'b').write_text('123')  # killed before it was pushed
    store.log.clear()
    mirror.pull()
    assert (mirror.folder / 'b').read_text() == '123'
    assert not [path for _, path in store.log if 'alt=media' in path]


def test_checkpoints_and_the_lock_are_left_to_others(store, tmp_path):
    for name in ('checkpoints/3/state/d/x', 'snapshots/1/x', 'lock.json', 'experiment.json'):
        store.put('bucket', f'my runs/one/{name}', b'1', {})
    mirror = Mirror.of(RUN, tmp_path)
    mirror.pull()
    assert sorted(os.listdir(mirror.folder)) == [buckets.MIRROR_FILE, 'experiment.json']
    assert str(buckets.home_of(mirror.folder)) == RUN
    assert str(buckets.home_of(tmp_path)) == str(tmp_path)


def test_a_block_is_pushed_while_it_runs_and_at_its_end(store, tmp_path):
    mirror = Mirror.of(RUN, tmp_path)
    mirror.pull()
    with mirror.pushed(seconds=0.05):
        (mirror.folder / 'a').write_text('early')
        end = time.monotonic() + 20
        while not store.names('bucket') and time.monotonic() < end:
            time.sleep(0.02)
        assert store.read('bucket', 'my runs/one/a') == b'early'
        (mirror.folder / 'z').write_text('late')
    assert store.read('bucket', 'my runs/one/z') == b'late'


def test_a_bucket_that_refuses_is_a_sentence(store, tmp_path):
    store.refuse = lambda method, path: 403
    with pytest.raises(UserError, match=r'cannot be used .* check the name of the bucket'):
        Mirror.of(RUN, tmp_path).pull()


def test_addresses_keep_their_slashes_and_paths_are_paths():
    assert buckets.place('gs://b/r') == 'gs://b/r'
    assert buckets.place('runs/r') == pathlib.Path('runs/r')


def test_of_several_runs_one_gets_the_lock_and_the_others_a_sentence(store):
    locks = [BucketLock(RUN, renew=0.05, silence=0.4) for _ in range(4)]
    refused, taken, barrier = [], [], threading.Barrier(len(locks))

    def take(lock):
        barrier.wait()
        try:
            lock.acquire()
            taken.append(lock)
        except UserError as error:
            refused.append(str(error))

    # To a process of the same machine a holder is known to live.
    threads = [threading.Thread(target=take, args=(lock,)) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), len(refused)) == (1, 3)
    assert all('is being written by another run' in said for said in refused)
    taken[0].check()
    taken[0].release()
    assert store.names('bucket') == []
    with locks[1]:
        assert store.names('bucket') == ['my runs/one/lock.json']


def test_a_silent_holder_is_replaced_and_hears_of_it(store):
    old = BucketLock(RUN, renew=60, silence=0.2)
    old._me = old._me.__class__('elsewhere', 1, 'then', 'token')
    old.acquire()
    with BucketLock(RUN, renew=0.1, silence=0.3):
        # It wakes up, and tries to renew what is no longer its own.
        with pytest.raises(buckets.Changed):
            old._write(old._generation)
        old._renew = 0.01
        old._stop.set()
        old._thread.join()
        old._stop.clear()
        old._keep()
        with pytest.raises(UserError, match='was taken over by process'):
            old.check()
        old.release()
        assert store.names('bucket') == ['my runs/one/lock.json']


def test_a_dead_process_of_this_machine_is_not_waited_for(store):
    dead = BucketLock(RUN, renew=60)
    dead._me = dead._me.__class__(**{**vars(dead._me), 'born': '1'})
    dead.acquire()
    started = time.monotonic()
    BucketLock(RUN, renew=60, silence=60).acquire()
    assert time.monotonic() - started < 30


def test_the_checksums_of_a_bucket_are_those_of_the_store(store):
    from etils import epath

    for name in ('state/d/1', 'meta/metadata', 'commit_success.txt'):
        store.put('bucket', f'my runs/one/checkpoints/3/{name}', name.encode(), {})
    folder = epath.Path(f'{RUN}/checkpoints/3')
    store.log.clear()
    write_checksums(folder)
    assert not [path for method, path in store.log if 'alt=media' in path]
    assert damage(folder) == ''
    store.put('bucket', 'my runs/one/checkpoints/3/state/d/1', b'state/d/2', {})
    assert damage(folder) == 'state/d/1 is not what was written'
    del store.objects['bucket', 'my runs/one/checkpoints/3/state/d/1']
    assert damage(folder) == 'state/d/1 is missing'


def test_what_is_discarded_does_not_come_back_from_the_bucket(store, tmp_path):
    here, there = (Mirror.of(RUN, tmp_path / name) for name in ('a', 'b'))
    here.pull()
    for name in ('old.model', 'new.model'):
        (here.folder / name).write_text(name)
    here.push()
    there.pull()
    (here.folder / 'unpushed').write_text('')
    buckets.discard(here.folder, ['old.model', 'unpushed', 'never.there'])
    assert store.names('bucket') == ['my runs/one/new.model']
    for mirror in (here, there):
        mirror.pull()
        assert [path.name for path in buckets.held(mirror.folder)] == ['new.model']
    buckets.discard(tmp_path, ['never.there'])
