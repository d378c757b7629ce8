"""The program that times the loop and the bare step, at a size at which only its workings show."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = {'layers': 1, 'embed-dim': 16, 'mlp-dim': 32, 'heads': 2, 'vocab': 64, 'batch': 2}


@pytest.mark.slow
def test_the_loop_and_the_bare_step_take_turns_and_saves_are_timed_apart(tmp_path):
    options = [word for name, value in TINY.items() for word in (f'--{name}', str(value))]
    done = subprocess.run(
        [
            sys.executable, ROOT / 'benchmarks' / 'loop.py', *options, '--length', '8',
            '--steps', '2', '--repeats', '3', '--output', tmp_path,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env={**os.environ, 'XLA_FLAGS': ''},  # one device
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / 'loop.json').read_text())
    for name, rounds in (('bare', 4), ('loop', 3)):
        seconds = result[name]['seconds']
        assert len(seconds['all']) == rounds
        low, high = seconds['quartiles']
        assert 0 < low <= seconds['median'] <= high
    bare, loop = (result[name]['seconds']['all'] for name in ('bare', 'loop'))
    expected = [2 * ours / (a + b) for ours, a, b in zip(loop, bare, bare[1:], strict=False)]
    assert result['quotient']['seconds']['all'] == pytest.approx(expected)
    save = result['save']
    assert len(save['all']) == 3
    assert all(0 < one['save'] <= one['until_committed'] for one in save['all'])
    # Parameters, two moments, and a few numbers.
    assert save['bytes'] == pytest.approx(12 * save['parameters'], rel=0.01)
    assert result['goodput']['step_compilations'] == 1
    assert str(ROOT) not in json.dumps(result) + done.stdout
