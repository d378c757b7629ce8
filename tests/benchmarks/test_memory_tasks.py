"""The grid of families and problems of memory, without training it."""

import importlib.util
import json
import pathlib
import subprocess
import sys

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
        'share': 3.0,
        'test': {'loss': 0.0123, 'baseline': 1 / 6, 'accuracy': 98.7, 'majority_accuracy': 15.1},
        **more,
    }


def test_rows_that_are_there_are_shown_and_drawn_and_not_trained_again(program, tmp_path, capsys):
    for family in ('elman', 'tcn'):
        folder = tmp_path / 'runs' / f'adding_small_{family}'
        folder.mkdir(parents=True)
        note = row(program, 'adding', family, published='0.177 (T = 600)')
        (folder / 'memory_tasks_row.json').write_text(json.dumps(note))
    out = tmp_path / 'out'
    words = ['--runs', str(tmp_path / 'runs'), '--tasks', 'adding', '--output', str(out)]
    program.main([*words, '--families', 'elman', 'tcn', '--workers', '1'])
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
    assert (program.main([*words, '--families', 'elman', 'tcn', '--workers', '1'])) == 0
    assert sorted(x.name for x in (tmp_path / 'runs' / 'adding_small_tcn').iterdir()) == [
        'memory_tasks_row.json'  # nothing was trained
    ]


def test_what_a_cell_leaves_over_is_shared_by_those_that_have_not_begun(program):
    budget = program.side_by_side.Budget(left=60, waiting=3)
    assert budget.take() == 20
    budget.give_back(12)
    assert budget.take() == 26
    budget.give_back(-30)  # it overran
    assert budget.take() == 0


@pytest.mark.slow
def test_cells_are_trained_side_by_side_and_each_says_how_far_it_came(tmp_path):
    words = ['--runs', str(tmp_path / 'runs'), '--tasks', 'adding', '--output', str(tmp_path)]
    words += ['--families', 'elman', 'gru', '--workers', '2', '--minutes', '0.05']
    ran = subprocess.run(
        [sys.executable, str(PROGRAM), *words], check=True, capture_output=True, text=True
    )
    found = json.loads((tmp_path / 'memory_tasks.json').read_text())
    assert [(r['family'], r['cores']) for r in found['rows']] == [('elman', 1), ('gru', 1)]
    assert all(0 < r['steps'] < r['of_steps'] for r in found['rows'])
    assert 'each cell on one core' in ran.stdout
    assert '16,345 parameters' in (tmp_path / 'runs' / 'adding_small_gru' / 'log.txt').read_text()


def test_accuracies_stand_beside_the_most_frequent_class(program):
    test = {'accuracy': 42.0, 'majority_accuracy': 15.1}
    found = row(program, 'listops', 'lstm', test=test)
    assert (program.measured(found), program.baseline(found)) == ('42.0 %', '15.1 %')


def test_only_what_ran_out_of_time_goes_on_and_only_if_there_is_more(program, tmp_path):
    def notes(*rows):
        found = {}
        for number, told in enumerate(rows):
            note = tmp_path / str(number) / 'row.json'
            note.parent.mkdir(exist_ok=True)
            note.write_text(json.dumps(told))
            found[note] = lambda minutes: pytest.fail('trained')
        return found

    out_of_time = row(program, 'adding', 'gru', minutes=3.0)
    assert program.side_by_side.could_go_on(out_of_time)
    assert not program.side_by_side.could_go_on(
        row(program, 'adding', 'gru', minutes=1.0)
    )  # no longer improved
    assert not program.side_by_side.could_go_on(
        row(program, 'adding', 'gru', minutes=3.0, steps=100)
    )
    turns = program.side_by_side.SideBySide(notes(out_of_time, out_of_time), 6.0, 1, str)
    turns.train()  # nothing is left over
    assert not turns.failures


@pytest.mark.slow
def test_a_cell_that_fails_is_named_and_the_others_are_trained(tmp_path):
    words = ['--runs', str(tmp_path / 'runs'), '--tasks', 'mnist', 'adding', '--output']
    words += [str(tmp_path), '--families', 'gru', '--workers', '1', '--minutes', '0.1']
    words += ['--data-dir', str(tmp_path / 'nothing')]
    ran = subprocess.run([sys.executable, str(PROGRAM), *words], capture_output=True, text=True)
    assert ran.returncode == 2
    assert 'not trained: mnist_small_gru: ' in ran.stderr
    assert 'Traceback' not in ran.stderr
    (found,) = json.loads((tmp_path / 'memory_tasks.json').read_text())['rows']
    assert found['task'] == 'adding'


def test_the_minutes_of_all_processes_count(program, tmp_path):
    lines = [{'kind': 'train', 'step': s, 'seconds': t} for s, t in ((1, 30), (2, 60), (3, 12))]
    (tmp_path / 'metrics.jsonl').write_text(''.join(json.dumps(x) + '\n' for x in lines))
    assert program.side_by_side.trained_minutes(tmp_path) == pytest.approx(1.2)
    assert program.side_by_side.trained_minutes(tmp_path / 'nothing') == 0


@pytest.mark.parametrize('minutes', ['-1', '0', 'nan', 'inf'])
def test_no_time_is_refused(program, minutes, tmp_path, capsys):
    with pytest.raises(SystemExit):
        program.main(['--runs', str(tmp_path), f'--minutes={minutes}'])
    assert 'give a time above 0' in capsys.readouterr().err
