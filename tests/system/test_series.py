"""Series and problems of memory from the command line: train, evaluate, predict, draw."""

import json

import numpy as np
import pytest


def write_series(folder, count=1200):
    """x_t = x_{t-1} / 2 + noise: the best forecast is off by 1, persistence by 1.15."""
    rng, value, lines = np.random.default_rng(0), 0.0, ['"Time","Value"']
    for time in range(count):
        value = value / 2 + rng.normal()
        lines.append(f'"{time}",{value:.4f}')
    (folder / 'a.csv').write_text('\r\n'.join(lines) + '\r\n')
    return folder


@pytest.mark.slow
def test_a_forecaster_beats_persistence_and_its_intervals_hold(seqzoo, tmp_path):
    data, run = write_series(tmp_path), tmp_path / 'run'
    assert seqzoo(
        'train', 'lstm_series_sunspots', '--run', run, '--data-dir', data,
        '--task.corpus.file=a.csv', '--task.corpus.period=none', '--task.context=16',
        '--task.window=32', '--batch.max-length=32', '--batch.buckets=32', '--batch.tokens=512',
        '--model.encoder.layers.cell.hidden-dim=8', '--schedule.peak=0.02', '--train.steps=60',
        '--train.evaluate-every=20', '--train.checkpoint-every=20',
    ).status == 0  # fmt: skip
    options = ['--data-dir', data, '--decode.extra-length=3', '--json']
    metrics = json.loads(seqzoo('evaluate', run, *options).out)['metrics']
    assert metrics['rmse'] < 0.95 * metrics['persistence_rmse']
    assert 85 <= metrics['coverage'] <= 95
    assert metrics['ahead_rmse'] < metrics['ahead_persistence_rmse']
    assert 'season_rmse' not in metrics

    (tmp_path / 'input').write_text('0.5,1.5,-0.5\n\n2\n')
    said = seqzoo('predict', run, '--input', tmp_path / 'input', '--decode.extra-length=2').out
    first, blank, last = said.splitlines()
    assert [line.count(' to ') for line in (first, blank, last)] == [2, 0, 2]
    (tmp_path / 'input').write_text('0.5,?0.2\n')
    refused = seqzoo('predict', run, '--input', tmp_path / 'input')
    assert refused.status == 2
    assert refused.err.splitlines()[-1] == (
        "seqzoo: record 1: '?0.2' is not a number, or too large; part numbers by commas."
    )

    plot = seqzoo('plot', run, '--data-dir', data, '--gradients')
    assert plot.status == 0, plot.err
    drawn = plot.out.split()
    names = ['loss.png', 'forecast.png', 'gradients.png', 'gradients.md', 'gradients.json']
    assert drawn == [str(run / 'pictures' / name) for name in names]
    rows = json.loads((run / 'pictures' / 'gradients.json').read_text())['rows']
    assert [(row['layer'], row['line']) for row in rows] == [
        ('encoder/stack', 'untrained'),
        ('encoder/stack', 'trained'),
    ]


@pytest.mark.slow
def test_a_recurrent_network_learns_to_add_what_it_has_to_remember(seqzoo, tmp_path):
    run = tmp_path / 'run'
    drawn = seqzoo('data', 'prepare', 'lstm_copy_memory', '--task.corpus.train-size=60')
    assert 'train: 60 examples, 4,200 positions' in drawn.out
    assert seqzoo(
        'train', 'lstm_adding', '--run', run, '--task.corpus.length=6', '--batch.max-length=6',
        '--batch.tokens=384', '--model.encoder.layers.cell.hidden-dim=16', '--schedule.peak=0.02',
        '--task.corpus.train-size=4000', '--train.steps=200', '--train.evaluate-every=100',
        '--train.checkpoint-every=100',
    ).status == 0  # fmt: skip
    metrics = json.loads(seqzoo('evaluate', run, '--json').out)['metrics']
    assert metrics['loss'] < 0.1 * metrics['baseline']
