"""The program that times models on a GPU, at toy size on a processor."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_every_model_is_the_same_in_both_systems(tmp_path):
    program = ROOT / 'benchmarks' / 'gpu_models.py'
    words = ['--toy', '--repeats', '2', '--systems', 'seqzoo', 'torch', '--output', tmp_path]
    done = subprocess.run(
        [sys.executable, program, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / 'gpu_models.json').read_text())['results']
    assert [one['system'] for one in found] == ['seqzoo', 'torch'] * 4
    for ours, theirs in zip(found[::2], found[1::2], strict=True):
        assert ours['model'] == theirs['model']
        # The same shapes; of sizes, only biases and tables of positions differ.
        assert ours['tokens_per_step'] == theirs['tokens_per_step'] == 16
        assert ours['parameters'] == pytest.approx(theirs['parameters'], rel=0.1)
        assert ours['flops_per_step'] > 0
        assert ours['mfu'] is None
        for one in (ours, theirs):
            assert len(one['all_seconds']) == 2
            assert one['tokens_per_second'] == pytest.approx(16 / one['seconds_per_step']['median'])
    text = (tmp_path / 'gpu_models.md').read_text()
    assert 'peak unknown' in text
    assert str(ROOT) not in text
