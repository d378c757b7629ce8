"""The program that times generation, at a size at which only its workings show."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / 'benchmarks' / 'generate.py'
TINY = {
    'prompt-length': 5,
    'new-tokens': 6,
    'vocab-size': 40,
    'num-layers': 1,
    'embed-dim': 8,
    'num-heads': 2,
}


@pytest.mark.slow
def test_both_systems_generate_as_many_tokens_in_turns(tmp_path):
    pytest.importorskip('transformers', reason='transformers is not installed')
    output = tmp_path / 'tiny'
    sizes = [word for name, size in TINY.items() for word in (f'--{name}', str(size))]
    subprocess.run(
        [sys.executable, PROGRAM, *sizes, '--batches', '2', '--repeats', '2', '--output', output],
        check=True,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'},
        capture_output=True,
        timeout=300,
    )
    (result,) = json.loads(output.with_suffix('.json').read_text())['results']
    for system in result['systems'].values():
        rate = system['tokens_per_second']
        assert len(system['seconds']) == 2
        assert 0 < rate['low'] <= rate['median'] <= rate['high']
    assert result['ratio']['low'] <= result['ratio']['high']
    table = output.with_suffix('.md').read_text()
    assert table.count('\n| seqzoo') == table.count('\n| transformers') == 1
    assert str(PROGRAM.parent) not in table
