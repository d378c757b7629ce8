"""The program that times models on a GPU, at toy size on a processor."""

import importlib
import json
import pathlib
import subprocess
import sys

import pytest

from seqzoo.analysis.parameters import count_parameters

ROOT = pathlib.Path(__file__).resolve().parents[2]


def layers(d, m, n=6):
    """Encoder and decoder by hand: three attentions, two feed-forward layers, five norms."""
    return n * (3 * 4 * d * d + 2 * (2 * d * m + m + d) + 5 * 2 * d)


@pytest.mark.parametrize(
    ('name', 'parameters'),
    [
        ('transformer-base', 37_000 * 512 + layers(512, 2048)),
        ('transformer-big', 37_000 * 1024 + layers(1024, 4096)),
        ('lstm', 2 * 10_000 * 1500 + 10_000 + 2 * 4 * 1500 * (2 * 1500 + 1)),
        ('gpt2-small', 124_439_808),  # as the weights that were published
    ],
)
def test_models_have_the_published_sizes(name, parameters, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    gpu_models = importlib.import_module('gpu_models')
    experiment = gpu_models.experiment(gpu_models.MODELS[name])
    assert count_parameters(experiment.model) == parameters
    plan = experiment.task.nominal_plan(experiment.batch)
    assert plan.shapes[0].rows * plan.shapes[0].target_length == gpu_models.MODELS[name].tokens


@pytest.mark.slow
def test_a_model_is_the_same_in_both_systems(tmp_path):
    program = ROOT / 'benchmarks' / 'gpu_models.py'
    words = ['--toy', '--repeats', '2', '--models', 'gpt2-small']
    words += ['--systems', 'seqzoo', 'torch', '--output', tmp_path]
    done = subprocess.run(
        [sys.executable, program, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / 'gpu_models.json').read_text())['results']
    assert [one['system'] for one in found] == ['seqzoo', 'torch']
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
