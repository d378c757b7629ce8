"""What pre-training is worth: sums over seeds, and what is done already is not done again."""

import importlib.util
import json
import pathlib

import pytest

PROGRAM = pathlib.Path(__file__).resolve().parents[2] / 'benchmarks' / 'fine_tuning.py'


@pytest.fixture(scope='module')
def program():
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(PROGRAM.parent)  # it imports what lies beside it
    spec = importlib.util.spec_from_file_location('fine_tuning', PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    patch.undo()


def test_mean_and_deviation_are_over_the_seeds(program):
    found = [{'metrics': {'accuracy': a, 'classes': {}}} for a in (70.0, 72.0, 77.0)]
    summary = program.over_seeds(found)
    assert summary == {'accuracy': {'mean': 73.0, 'deviation': 3.6056, 'each': [70.0, 72.0, 77.0]}}
    assert program.over_seeds(found[:1])['accuracy']['deviation'] is None
    assert '73.00 +- 3.61' in program.as_line('tagger', 'scratch', summary['accuracy'])


def test_each_seed_is_trained_both_ways_once(program, monkeypatch, tmp_path):
    commands = []

    def run(words, **options):
        commands.append(words[3:])
        (folder := pathlib.Path(words[4 if words[3] == 'evaluate' else 6])).mkdir(
            parents=True, exist_ok=True
        )
        text = json.dumps({'metrics': {'accuracy': 50.0}, 'step': 4, 'data': folder.name})
        return type('Done', (), {'stdout': text})

    monkeypatch.setattr(program.subprocess, 'run', run)
    monkeypatch.setattr(program, 'load_run', lambda path: path)
    monkeypatch.setattr(program.facts_of_runs, 'describe', lambda run, **said: said)
    monkeypatch.setattr(program.record_run, 'dev_curve', lambda run: [])
    written = []
    monkeypatch.setattr(program.rows, 'write', lambda row, folder: written.append(row))
    asked = ['--data-dir', 'D', '--runs', str(tmp_path / 'runs'), '--results', str(tmp_path)]
    program.main([*asked, '--seeds', '2', '--', '--train.steps', '4'])
    trained = [words for words in commands if words[0] == 'train']
    assert len(trained) == 1 + 2 * 2 * 2
    assert all(words[-4:-2] == ['--train.steps', '4'] for words in trained[1:])
    assert sum('--pretrained' in words for words in trained) == 4
    assert len(commands) == 2 * len(trained)
    assert [row['name'] for row in written[:4]] == [
        f'bert_small_rt_polarity_{way}_seed{seed}' for way in program.WAYS for seed in (0, 1)
    ]
    assert not any(str(tmp_path) in row['command'] for row in written)
    assert [row['command'].rpartition(' ')[2] for row in written] == ['0', '1'] * 4
    assert ['--pretrained P' in row['command'] for row in written] == [True, True, False, False] * 2
    assert ['pretrained' in row for row in written] == [True, True, False, False] * 2
    best = {'step': 4, 'test': {'accuracy': 50.0}}
    assert all(row['results'] == {'best_checkpoint': best} for row in written)
    program.main([*asked, '--seeds', '2', '--', '--train.steps', '4'])
    assert len(commands) == 2 * len(trained)
