"""The program that times decoding, at a size at which only its workings show."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / 'benchmarks' / 'decode.py'
pytestmark = pytest.mark.slow

TINY = {
    'sentences': 3,
    'source-length': 4,
    'target-length': 6,
    'vocab-size': 40,
    'num-layers': 1,
    'embed-dim': 8,
    'mlp-dim': 8,
    'num-heads': 2,
}


@pytest.fixture(scope='module')
def report(tmp_path_factory):
    """A tiny run of ours, and of a flax that is not there."""
    output = tmp_path_factory.mktemp('decode') / 'tiny'
    sizes = [word for name, size in TINY.items() for word in (f'--{name}', str(size))]
    options = ['--beams', '2', '--repeats', '3', '--systems', 'seqzoo', 'flax_wmt']
    subprocess.run(
        [sys.executable, PROGRAM, *sizes, *options, '--output', output],
        check=True,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'},
        capture_output=True,
        timeout=300,
    )
    return json.loads(output.with_suffix('.json').read_text()), output.with_suffix('.md')


def test_times_memory_and_the_first_call_are_reported(report):
    (ours, _), _ = report[0]['results'], report[1]
    assert len(ours['seconds']) == 3
    lower, upper = ours['quartiles_seconds']
    assert 0 < lower <= ours['median_seconds'] <= upper
    assert ours['sentences_per_second'] == pytest.approx(3 / ours['median_seconds'])
    assert ours['first_call_seconds'] > ours['median_seconds']  # it compiles
    assert ours['peak_bytes'] > 50e6  # an interpreter with jax in it


def test_a_system_that_is_not_there_leaves_the_others_alone(report):
    ours, flax = report[0]['results']
    assert 'failed' in flax
    assert 'failed' not in ours


def test_the_table_has_a_row_per_system_and_no_path_of_this_machine(report):
    text = report[1].read_text()
    assert text.count('\n| seqzoo') == text.count('\n| flax_wmt') == 1
    assert str(Path.home()) not in text
    assert str(PROGRAM.parent) not in text + json.dumps(report[0])
