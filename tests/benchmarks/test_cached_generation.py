"""The time of a step early and late in a text, at the size of tests."""

import importlib.util
import json
import pathlib

import pytest

PROGRAM = pathlib.Path(__file__).resolve().parents[2] / 'benchmarks' / 'cached_generation.py'


@pytest.fixture(scope='module')
def program():
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(PROGRAM.parent)  # it imports what lies beside it
    spec = importlib.util.spec_from_file_location('cached_generation', PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    patch.undo()


@pytest.mark.slow
def test_a_family_of_either_kind_is_timed_and_recorded(program, tmp_path):
    sizes = ['--tiny', '--early=2', '--late=9', '--pairs=3', '--limit=1000']
    chosen = ['--families', 'TCN', 'ByteNet', '--output', str(tmp_path / 'found')]
    assert program.main([*sizes, *chosen]) == 0
    rows = json.loads((tmp_path / 'found.json').read_text())['families']
    assert [row['family'] for row in rows] == ['TCN', 'ByteNet']
    assert all(row['late_microseconds'] > 0 for row in rows)


def test_a_step_that_grows_is_seen(program, monkeypatch, tmp_path):
    monkeypatch.setattr(program, 'measure', lambda *_: program.Timing(early=100.0, late=120.0))
    options = ['--tiny', '--families', 'LSTM', '--output', str(tmp_path / 'found')]
    assert program.main(options) == 1
    assert program.main([*options, '--limit=1.3']) == 0
    assert '| LSTM |' in (tmp_path / 'found.md').read_text()
    assert '| 100 | 120 | 1.20 |' in (tmp_path / 'found.md').read_text()
