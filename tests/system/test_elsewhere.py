"""A trained run on other devices, in folders of other people, and set to run in other ways."""

import gzip
import json

import jax
import pytest

from seqzoo.errors import UserError
from seqzoo.training import load_run
from seqzoo.training import run as runs
from seqzoo.training.lock import RunLock

GREEDY = ['--decode.method=greedy', '--decode.extra-length=2']


@pytest.fixture
def devices(monkeypatch):
    """Pretends that a machine has fewer devices."""

    def show(count):
        build = runs.build_mesh
        here = jax.devices()[:count]
        monkeypatch.setattr(runs, 'build_mesh', lambda mesh: build(mesh, here))

    return show


def test_a_run_is_worked_with_elsewhere(train, seqzoo, corpus, tmp_path, devices):
    assert train(steps=2).status == 0
    run, source, out = tmp_path / 'run', tmp_path / 'input.gz', tmp_path / 'output'
    source.write_bytes(gzip.compress(b'ba be\n\nlu\n'))

    # The folder of the run cannot be written: the result is printed all the same.
    (run / '.results.json.part').mkdir()
    outcome = seqzoo(
        'evaluate', run, '--data-dir', corpus, '--json', *GREEDY, '--mesh.data=8', '--mesh.fsdp=1',
        '--batch.evaluation-rows=16', '--model.attention-implementation=xla',
    )  # fmt: skip
    assert outcome.status == 0
    assert json.loads(outcome.out)['split'] == 'test'
    assert 'results.json cannot be written' in outcome.err
    assert 'Traceback' not in outcome.err

    # Only a mesh that was asked for is refused where it does not fit, and what defines the run.
    devices(2)
    outcome = seqzoo('predict', run, '--input', source, '--mesh.fsdp=4')
    assert outcome.status == 2
    assert 'needs 4 devices, but there are 2' in outcome.err
    with pytest.raises(UserError, match=r'differs in model\.norm'):
        load_run(run, overrides={'model.norm': 'post'})

    # The mesh of the training needs 8 devices.
    assert load_run(run).runtime.mesh.shape['data'] == 2
    outcome = seqzoo('predict', run, '--input', source, '--output', out, *GREEDY)
    assert outcome.status == 0
    lines = out.read_text().split('\n')
    assert len(lines) == 4
    assert lines[1] == ''


def test_a_run_goes_on_in_another_way_of_running(train):
    assert train(steps=2).status == 0
    ways = ['--model.scan-layers=false', '--model.remat=full', '--batch.evaluation-rows=16']
    assert train('run', *ways, steps=3).status == 0
    outcome = train('run', *ways, '--batch.tokens=512', steps=4)
    assert outcome.status == 2
    assert 'batch.tokens: 256 -> 512' in outcome.err
    assert 'remat' not in outcome.err


def test_a_run_folder_that_cannot_be_one_is_refused(tmp_path):
    (tmp_path / 'file').write_text('')
    for folder in ('file', 'file/run'):
        with pytest.raises(UserError, match=rf'{folder} cannot be the folder of a run \('):
            RunLock(tmp_path / folder).acquire()
