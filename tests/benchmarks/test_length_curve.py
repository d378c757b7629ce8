"""BLEU by length of the source, on made-up translations."""

import importlib.util
import pathlib

import numpy as np
import pytest

PROGRAM = pathlib.Path(__file__).resolve().parents[2] / 'benchmarks' / 'length_curve.py'
WORDS = [2, 3, 5, 6, 6, 8, 9, 12]


@pytest.fixture(scope='module')
def program():
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(PROGRAM.parent)  # it imports what lies beside it
    spec = importlib.util.spec_from_file_location('length_curve', PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    patch.undo()


def sentence(count, word):
    return ' '.join(f'{word}{i}' for i in range(count))


SOURCES = [sentence(n, 's') for n in WORDS]
REFERENCES = [sentence(n + 3, 't') for n in WORDS]


def test_buckets_hold_about_equally_many_and_no_length_twice(program):
    np.testing.assert_array_equal(program.upper_bounds(np.array(WORDS), 4), [5, 6, 9, 12])
    np.testing.assert_array_equal(program.upper_bounds(np.array([7, 7, 7, 7, 9]), 4), [7, 9])


def test_each_bucket_is_scored_alone(program):
    # All of the long sentences are wrong.
    outputs = [r if n <= 6 else r.replace('t', 'x') for n, r in zip(WORDS, REFERENCES, strict=True)]
    order = np.random.default_rng(0).permutation(len(WORDS))
    shuffled = [[lines[i] for i in order] for lines in (SOURCES, outputs, REFERENCES)]
    rows = program.by_length(*shuffled, buckets=4)
    assert [(r['shortest'], r['longest'], r['sentences']) for r in rows] == [
        *((2, 5, 3), (6, 6, 2), (8, 9, 2), (12, 12, 1))
    ]
    assert [r['bleu'] > 99 for r in rows] == [True, True, False, False]
    assert rows[2]['bleu'] < 10
    assert rows[0]['mean'] == pytest.approx(10 / 3, abs=0.01)


def test_the_table_and_the_picture_show_every_run(program, tmp_path):
    model = {
        'what': 'a network',
        'data': 'pairs en-de',
        'seed': 0,
        'parameters': 1_500_000,
        'step': 3000,
        'decode': 'beam 5, alpha 1.0',
        'signature': 'BLEU|13a',
        'bleu': 25.0,
    }
    short = program.by_length(SOURCES, REFERENCES, REFERENCES, buckets=2)
    wrong = program.by_length(SOURCES, SOURCES, REFERENCES, buckets=2)
    found = {
        'split': 'test',
        'note': 'Made up.',
        'machine': program.machine.facts(['numpy']),
        'load_average': {'before': (0.0, 0.0, 0.0), 'after': (0.0, 0.0, 0.0)},
        'models': [
            {**model, 'label': 'attends', 'by_length': short},
            {**model, 'label': 'does not', 'by_length': wrong},
        ],
    }
    text = program.render(found)
    assert '| | parameters | all | 2-6 | 8-12 |' in text
    assert '| sentences | | 8 | 5 | 3 |' in text
    assert '| attends | 1.5M | 25.0 | 100.0 | 100.0 |' in text
    program.draw(found, tmp_path / 'curve.png')
    assert (tmp_path / 'curve.png').read_bytes().startswith(b'\x89PNG')


def test_runs_and_labels_go_together(program, capsys):
    with pytest.raises(SystemExit):
        program.main(['a', 'b', '--labels', 'one', '--name', 'x'])
    assert 'one label for each run' in capsys.readouterr().err
