"""A run that is told to stop saves, says so by its exit status, and goes on as if nothing was."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from seqzoo.tasks.translation import Translation
from seqzoo.training import load_run


def start(run, data, small, steps):
    command = [
        sys.executable, '-m', 'seqzoo', 'train', 'transformer_tiny_text', '--run', str(run),
        '--data-dir', str(data), *small, f'--train.steps={steps}', '--train.checkpoint-every=10000',
        '--train.evaluate-every=0', '--train.log-every=1',
    ]  # fmt: skip
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for_step(run, step, seconds=240):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        log = run / 'metrics.jsonl'
        lines = log.read_text().splitlines() if log.exists() else []
        if any(json.loads(x)['kind'] == 'train' and json.loads(x)['step'] >= step for x in lines):
            return
        time.sleep(0.05)
    raise AssertionError(f'{run} did not come to step {step}')


@pytest.mark.slow
@pytest.mark.parametrize(('number', 'status'), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_stopped_run_saves_and_goes_on_bit_for_bit(corpus, small, tmp_path, number, status):
    steps = 1000
    process = start(tmp_path / 'stopped', corpus, small, steps)
    wait_for_step(tmp_path / 'stopped', 3)
    process.send_signal(number)
    assert process.wait(120) == status, process.stderr.read()
    stopped = load_run(tmp_path / 'stopped', step='latest')
    assert 3 <= stopped.step < steps
    last = stopped.step + 4
    for name in ('stopped', 'whole'):
        assert start(tmp_path / name, corpus, small, last).wait(240) == 0
    ends = [load_run(tmp_path / name, step='latest') for name in ('stopped', 'whole')]
    assert [run.step for run in ends] == [last, last]
    jax.tree.map(np.testing.assert_array_equal, *(jax.device_get(run.params) for run in ends))


def test_sigterm_while_the_data_is_read_leaves_with_75_and_nothing_written(
    train, monkeypatch, tmp_path
):
    def terminated(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Translation, 'prepare', terminated)
    assert train(steps=2).status == 75
    assert not (tmp_path / 'run' / 'experiment.json').exists()
    monkeypatch.undo()
    assert train(steps=1).status == 0


@pytest.mark.slow
def test_a_profile_of_some_steps_is_kept(train, tmp_path):
    assert train('run', '--profile', '2', steps=14).status == 0
    assert list((tmp_path / 'run' / 'profile').rglob('*.xplane.pb'))


def test_a_run_that_is_done_is_left_alone(train, tmp_path):
    assert train(steps=2).status == 0
    before = sorted(
        (p.name, p.stat().st_mtime_ns) for p in (tmp_path / 'run/checkpoints').iterdir()
    )
    again = train(steps=2)
    assert again.status == 0
    assert 'done' in again.err
    after = sorted((p.name, p.stat().st_mtime_ns) for p in (tmp_path / 'run/checkpoints').iterdir())
    assert before == after


@pytest.mark.slow
def test_the_other_commands_speak_of_a_real_run(train, seqzoo, small, corpus, tmp_path):
    assert train(steps=2).status == 0
    shown = seqzoo('data', 'show', 'transformer_tiny_text', '--data-dir', corpus, *small)
    assert shown.status == 0
    assert 'padding' in shown.out
    listed = json.loads(seqzoo('list', '--json').out)
    assert {'transformer_base_wmt14_ende', 'transformer_tiny_numerals'} <= {
        entry['name'] for entry in listed['configs']
    }
    base = json.loads(seqzoo('show', 'transformer_base_wmt14_ende', '--json').out)
    assert base['parameters'] == 63_045_632
    texts = [tmp_path / name for name in ('hypotheses', 'references')]
    for path in texts:
        path.write_text('eins zwei drei vier\nfünf sechs sieben acht\n')
    assert seqzoo('score', *texts).status == 0
    assert 'jaxlib' in seqzoo('doctor').out
    (tmp_path / 'input').write_text('ba be bi\n')
    (tmp_path / 'target').write_text('BA BE BI\n')
    scored = seqzoo(
        'predict', tmp_path / 'run', '--input', tmp_path / 'input', '--target', tmp_path / 'target'
    )
    assert scored.status == 0
    assert float(scored.out.split('\t')[0]) < 0
