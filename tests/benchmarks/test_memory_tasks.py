"""The grid of families and problems of memory, without training it."""

import importlib.util
import json
import pathlib

import pytest
from PIL import Image

PROGRAM = pathlib.Path(__file__).resolve().parents[2] / 'benchmarks' / 'memory_tasks.py'


@pytest.fixture(scope='module')
def program():
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(PROGRAM.parent)  # it imports what lies beside it
    spec = importlib.util.spec_from_file_location('memory_tasks', PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    patch.undo()


@pytest.mark.parametrize('sizes', ['small', 'published'])
def test_every_cell_is_a_configuration_of_that_problem_and_size(program, sizes):
    steps = {
        'small': {'adding': 200, 'copy': 520, 'listops': 100},
        'published': {'adding': 600, 'copy': 1020, 'listops': 2000},
    }[sizes]
    cells = program.grid(program.PUBLISHED, program.FAMILIES, sizes)
    assert len(cells) == len(program.PUBLISHED) * len(program.FAMILIES)
    described = set()
    for cell in cells:
        experiment = cell.experiment()
        assert experiment.batch.max_length == steps.get(cell.task, 784)
        assert experiment.batch.tokens >= experiment.batch.max_length
        permuted = getattr(experiment.task.corpus, 'permutation_seed', None) is not None
        assert permuted == (cell.task == 'permuted')
        described.add((cell.task, repr(experiment.model)))
    assert len(described) == len(cells)  # no two cells of a problem have one model


def row(program, task, family, **more):
    return {
        **{'task': task, 'family': family, 'data': f'{task} 200', 'parameters': 1000},
        **{'steps': 50, 'of_steps': 100, 'minutes': 1.5, 'published': '', 'curve': [[1, 1.0]]},
        'test': {'loss': 0.0123, 'baseline': 1 / 6, 'accuracy': 98.7, 'majority_accuracy': 15.1},
        **more,
    }


def test_rows_that_are_there_are_shown_and_drawn_and_not_trained_again(
    program, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(program, 'train', lambda *_: pytest.fail('trained'))
    for family in ('elman', 'tcn'):
        folder = tmp_path / 'runs' / f'adding_small_{family}'
        folder.mkdir(parents=True)
        note = row(program, 'adding', family, published='0.177 (T = 600)')
        (folder / 'memory_tasks_row.json').write_text(json.dumps(note))
    out = tmp_path / 'out'
    words = ['--runs', str(tmp_path / 'runs'), '--tasks', 'adding', '--output', str(out)]
    program.main([*words, '--families', 'elman', 'tcn'])
    said = capsys.readouterr().out
    assert (
        '| adding 200 | tcn | 1,000 | 0.012 | 0.167 | 0.177 (T = 600) | 50 of 100 | 1.5 |' in said
    )
    assert (out / 'memory_tasks.md').read_text() in said
    assert [r['family'] for r in json.loads((out / 'memory_tasks.json').read_text())['rows']] == [
        *('elman', 'tcn')
    ]
    with Image.open(out / 'memory_tasks.png') as image:
        assert image.width > 300


def test_accuracies_stand_beside_the_most_frequent_class(program):
    test = {'accuracy': 42.0, 'majority_accuracy': 15.1}
    found = row(program, 'listops', 'lstm', test=test)
    assert (program.measured(found), program.baseline(found)) == ('42.0 %', '15.1 %')


@pytest.mark.parametrize('minutes', ['-1', '0', 'nan'])
def test_no_time_is_refused(program, minutes, tmp_path, capsys):
    with pytest.raises(SystemExit):
        program.main(['--runs', str(tmp_path), f'--minutes={minutes}'])
    assert 'give a time above 0' in capsys.readouterr().err
