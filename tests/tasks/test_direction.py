"""Rising and falling: classes by hand, stretches that look at the past, the scale of training."""

import numpy as np
import pytest

from seqzoo.data.batching import BatchConfig
from seqzoo.data.columns import Columns, Fixed
from seqzoo.data.series_directions import RisingOrFalling
from seqzoo.data.time_series import Scale, SeriesFile
from seqzoo.errors import UserError
from seqzoo.tasks.direction import Direction

SERIES = np.random.default_rng(0).normal(size=100).cumsum().round(2)
TRAIN, DEV, TEST = range(0, 70), range(70, 80), range(80, 100)


@pytest.fixture
def task(tmp_path):
    rows = '\n'.join(f'{i},{value!r}' for i, value in enumerate(SERIES.tolist()))
    (tmp_path / 'a.csv').write_text(f'time,value\n{rows}\n')
    series = SeriesFile(file='a.csv')
    return Direction(corpus=RisingOrFalling(series=series, window=6, ahead=4))


@pytest.mark.parametrize(
    ('split', 'own', 'first'), [('train', TRAIN, 5), ('dev', DEV, 70), ('test', TEST, 80)]
)
def test_a_stretch_rises_if_the_series_stands_higher_some_steps_later(
    task, tmp_path, split, own, first
):
    found = task.read(split, tmp_path)
    ends = range(first, own[-1] - 4 + 1)  # the deciding value lies in the part, too
    assert len(found) == len(ends)
    for example, end in enumerate(ends):
        np.testing.assert_array_equal(found.inputs[example][:, 0], SERIES[end - 5 : end + 1])
        assert found.labels[example] == (SERIES[end + 4] > SERIES[end])
    assert {0, 1} == set(found.labels.tolist())


def test_the_model_reads_values_and_changes_on_the_scale_of_training(task, tmp_path):
    batch = BatchConfig(tokens=64, max_length=8)
    found = task.prepare(batch, data_dir=tmp_path, cache_dir=tmp_path, splits=('train', 'test'))
    scale = Scale.of(SERIES[:66])  # those that end a stretch of training or lie before
    assert found.learnt['scale'] == pytest.approx(vars(scale))
    values = scale.standardised(SERIES[75:81])
    wanted = np.stack([values, np.diff(values, prepend=values[0]) / scale.change], axis=-1)
    column = found.splits['test'].columns['inputs']
    np.testing.assert_allclose(column[0], wanted, rtol=1e-4, atol=1e-6)
    line = ', '.join(map(str, SERIES[75:81].tolist()))
    parsed = task.parse([line], found.learnt)
    np.testing.assert_array_equal(parsed.columns['inputs'][0], column[0])


def test_rules_without_a_model_stand_beside_its_accuracy(task, tmp_path):
    batch = BatchConfig(tokens=64, max_length=8)
    found = task.prepare(batch, data_dir=tmp_path, cache_dir=tmp_path, splits=('train', 'test'))
    table, examples = found.splits['test'], task.read('test', tmp_path)
    says = np.log(np.tile([0.3, 0.7], (len(table), 1)).astype(np.float32))
    metrics = task.measure(table, Columns({'log_probs': Fixed(says)}), found.learnt)
    rises = examples.labels == 1
    stretches = np.array(examples.inputs)[..., 0]
    assert metrics['accuracy'] == pytest.approx(100 * rises.mean())
    reversion = [(x[-1] < x.mean()) == y for x, y in zip(stretches, rises, strict=True)]
    momentum = [(x[-1] > x[-5]) == y for x, y in zip(stretches, rises, strict=True)]
    assert metrics['reversion_accuracy'] == pytest.approx(100 * np.mean(reversion))
    assert metrics['momentum_accuracy'] == pytest.approx(100 * np.mean(momentum))


def test_what_cannot_be_read_is_refused(task, tmp_path):
    with pytest.raises(UserError, match="'1;2': '1;2' is not a number"):
        task.read_line('1;2')
    with pytest.raises(UserError, match='give at least 2 values and 1 step'):
        RisingOrFalling(ahead=0)
    with pytest.raises(UserError, match='too few for stretches of 6 and 20 steps ahead'):
        RisingOrFalling(series=task.corpus.series, window=6, ahead=20).read('dev', tmp_path)
