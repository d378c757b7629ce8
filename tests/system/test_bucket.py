"""A run whose folder and data are in a bucket: trained, killed, resumed, evaluated, drawn."""

import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

_spec = importlib.util.spec_from_file_location(
    'object_store', pathlib.Path(__file__).parents[1] / 'object_store.py'
)
object_store = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(object_store)

RUN, DATA = 'gs://bucket/my runs/one', 'gs://bucket/my data'


@pytest.fixture
def store(monkeypatch, corpus):
    with object_store.serving(monkeypatch) as served:
        import fsspec

        fsspec.filesystem('gcs').clear_instance_cache()
        for file in corpus.iterdir():
            served.put('bucket', f'my data/{file.name}', file.read_bytes(), {})
        yield served
        fsspec.filesystem('gcs').clear_instance_cache()


def losses(text):
    events = [json.loads(line) for line in text.splitlines()]
    return {e['step']: e['loss'] for e in events if e['kind'] == 'train'}


@pytest.mark.slow
def test_a_run_in_a_bucket_is_killed_and_goes_on_elsewhere(
    store, seqzoo, small, train, tmp_path, monkeypatch
):
    words = ['train', 'transformer_tiny_text', '--run', RUN, '--data-dir', DATA, *small]
    words += ['--train.checkpoint-every=2', '--train.keep=2']
    # Killed outright, in a process of its own, once its second checkpoint is in the bucket.
    environment = {**os.environ, 'SEQZOO_CACHE_DIR': str(tmp_path / 'first host')}
    command = [sys.executable, '-m', 'seqzoo', *words, '--train.steps=4000', '--quiet']
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    committed = 'my runs/one/checkpoints/4/commit_success.txt'
    end = time.monotonic() + 200
    while ('bucket', committed) not in store.objects and time.monotonic() < end:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert 'my runs/one/lock.json' in store.names('bucket')
    # A save that the kill interrupted: everything of it, but not the end.
    newest = max(
        int(name.split('/')[3])
        for name in store.names('bucket', 'my runs/one/checkpoints/')
        if name.endswith('/commit_success.txt') and name.count('/') == 4
    )
    for name in store.names('bucket', f'my runs/one/checkpoints/{newest}/'):
        if not name.endswith(f'{newest}/commit_success.txt'):
            torn = name.replace(f'/{newest}/', f'/{newest + 2}/', 1)
            store.put('bucket', torn, store.read('bucket', name), {})

    # Another host, which has nothing but the address, takes the run up.
    monkeypatch.setenv('SEQZOO_CACHE_DIR', str(tmp_path / 'second host'))
    steps = newest + 4
    outcome = seqzoo(*words, f'--train.steps={steps}')
    assert outcome.status == 0, outcome.err
    assert f'going on from step {newest}' in outcome.err
    assert 'my runs/one/lock.json' not in store.names('bucket')
    gone_on = losses(store.read('bucket', 'my runs/one/metrics.jsonl').decode())

    # The same in a folder, without interruption, has the same losses.
    outcome = train('whole', steps=steps)
    assert outcome.status == 0, outcome.err
    whole = losses((tmp_path / 'whole' / 'metrics.jsonl').read_text())
    shared = [step for step in whole if step > newest]
    assert len(shared) >= 2
    for step in shared:
        assert gone_on[step] == pytest.approx(whole[step], rel=1e-5)

    # A third host evaluates, and what it finds is in the bucket.
    monkeypatch.setenv('SEQZOO_CACHE_DIR', str(tmp_path / 'third host'))
    outcome = seqzoo('evaluate', RUN, '--data-dir', DATA, '--json')
    assert outcome.status == 0, outcome.err
    (recorded,) = json.loads(store.read('bucket', 'my runs/one/results.json'))
    assert recorded == json.loads(outcome.out)
    assert recorded['step'] == steps
    assert seqzoo('plot', RUN).status == 0
    assert 'my runs/one/pictures/loss.png' in store.names('bucket')

    # A damaged checkpoint is known without being read, and the one before is used.
    name = next(n for n in store.names('bucket', f'my runs/one/checkpoints/{steps}/state/d/'))
    store.put('bucket', name, store.read('bucket', name)[::-1], {})
    shutil.rmtree(tmp_path / 'third host')
    outcome = seqzoo('evaluate', RUN, '--data-dir', DATA, '--step', 'latest', '--json')
    assert outcome.status == 0, outcome.err
    assert json.loads(outcome.out)['step'] == steps - 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_hosts_with_nothing_in_common_but_a_bucket_are_one_run(
    store, seqzoo, small, launch, tmp_path, monkeypatch
):
    kept = [word for word in small if '--mesh' not in word]

    def words(steps):
        return [
            *('train', 'transformer_tiny_text', '--run', RUN, '--data-dir', DATA, *kept),
            *('--train.checkpoint-every=2', '--mesh.data=1', '--mesh.fsdp=-1'),
            f'--train.steps={steps}',
        ]

    def host(generation):
        return lambda n: {'SEQZOO_CACHE_DIR': str(tmp_path / f'host {generation} {n}')}

    first = launch(words(3), environment=host(1)).ends()
    assert [outcome.status for outcome in first] == [0, 0], [outcome.err for outcome in first]
    # Both are replaced: the new ones know the address alone.
    second = launch(words(5), environment=host(2)).ends()
    assert [outcome.status for outcome in second] == [0, 0], [outcome.err for outcome in second]
    assert 'going on from step 3' in second[0].err
    found = losses(store.read('bucket', 'my runs/one/metrics.jsonl').decode())
    assert list(found)[-1] == 5
    monkeypatch.setenv('SEQZOO_CACHE_DIR', str(tmp_path / 'last'))
    outcome = seqzoo('evaluate', RUN, '--data-dir', DATA, '--step', 'latest', '--json')
    assert outcome.status == 0, outcome.err
    assert json.loads(outcome.out)['step'] == 5


def test_data_that_is_not_in_the_bucket_is_a_sentence(store, seqzoo, small, tmp_path):
    words = ['train', 'transformer_tiny_text', '--run', tmp_path / 'run', *small]
    outcome = seqzoo(*words, '--data-dir', 'gs://bucket/nothing here')
    assert outcome.status == 2
    assert 'gs://bucket/nothing here: there is nothing below that address' in outcome.err
    outcome = seqzoo('evaluate', 'gs://bucket/nothing here')
    assert outcome.status == 2
    assert 'is not the folder of a run' in outcome.err
