"""The program that times a training step, at a size at which only its workings show."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = {'layers': 1, 'embed-dim': 16, 'mlp-dim': 32, 'heads': 2, 'vocab': 64, 'batch': 2}


@pytest.mark.slow
def test_two_systems_take_turns_and_every_time_has_its_memory_beside_it(tmp_path):
    program = ROOT / 'benchmarks' / 'train_step.py'
    options = [word for name, value in TINY.items() for word in (f'--{name}', str(value))]
    options += ['--length', '8', '--repeats', '2', '--systems', 'seqzoo', 'products']
    done = subprocess.run(
        [sys.executable, program, *options, '--output', tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / 'train_step.json').read_text())
    assert [one['name'] for one in result['systems']] == ['seqzoo', 'products']
    for one in result['systems']:
        assert len(one['all_seconds']) == 2
        low, high = one['seconds']['quartiles']
        assert 0 < low <= one['seconds']['median'] <= high
        assert one['peak_bytes'] > 1e7
    # Embeddings 64 x 16, an encoder layer and a decoder layer, as counted by hand.
    projections, feed_forward, norm = 4 * 16 * 16, 2 * 16 * 32 + 32 + 16, 2 * 16
    expected = 64 * 16 + 3 * projections + 2 * feed_forward + 5 * norm
    assert result['systems'][0]['parameters'] == expected
    assert str(ROOT) not in json.dumps(result) + done.stdout
    assert 'peak memory' in (tmp_path / 'train_step.md').read_text()
