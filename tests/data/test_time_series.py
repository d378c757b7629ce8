"""A series is read exactly or not at all; its parts share no value, its windows count each once."""

import numpy as np
import pytest

from seqzoo.data.time_series import (
    Part,
    Scale,
    SeriesFile,
    overlapping_windows,
    parse_numbers,
    read_series,
    scoring_windows,
)
from seqzoo.errors import UserError


def written(path, lines, end='\r\n'):
    path.write_bytes(end.join(['"Month","Value"', *lines, '']).encode())
    return path


def test_quotes_and_either_line_end_are_read(tmp_path):
    for end in ('\r\n', '\n'):
        file = written(tmp_path / 'a.csv', ['"1749-01",58.0', '1749-02,62', ''], end)
        times, values = read_series(file)
        assert times == ('1749-01', '1749-02')
        np.testing.assert_array_equal(values, [58.0, 62.0])


@pytest.mark.parametrize(
    'line', ['"1982-07-20",?0.2', '1982-07-20', '1982-07-20,1,2', 'a,nan', 'a,1_000', 'a,\u0663']
)
def test_a_line_that_is_no_measurement_is_named_and_not_guessed(tmp_path, line):
    file = written(tmp_path / 'a.csv', ['"1982-07-19",1.5', line])
    with pytest.raises(UserError, match=r'a\.csv, line 3: .* is not a time stamp and a number'):
        read_series(file)


def test_a_first_line_that_is_a_measurement_is_no_header(tmp_path):
    file = tmp_path / 'a.csv'
    file.write_text('1749-01,58\n1749-02,62\n')
    with pytest.raises(UserError, match=r'line 1: .* is a measurement'):
        read_series(file)


def test_a_cell_without_end_is_named(tmp_path):
    file = written(tmp_path / 'a.csv', ['a,1', 'b' * 140_000 + ',1'])
    with pytest.raises(UserError, match=r'a\.csv, line 3 cannot be read \(field larger'):
        read_series(file)


@pytest.mark.parametrize(
    ('values', 'logarithm'),
    [(np.arange(90) * 0.1, False), (1.1 ** np.arange(90), True), (np.array([1.0, 2.0]), False)],
)
def test_a_series_that_changes_by_the_same_always_is_refused(values, logarithm):
    with pytest.raises(UserError, match='differ from the one before by the same'):
        Scale.of(values, logarithm=logarithm)


def test_missing_and_empty_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r'neither none\.csv nor none\.csv\.gz'):
        SeriesFile(file='none.csv').part('train', tmp_path)
    with pytest.raises(UserError, match='no values'):
        read_series(written(tmp_path / 'a.csv', []))
    with pytest.raises(UserError, match='--data-dir'):
        SeriesFile().part('train', None)


def test_parts_follow_one_another_and_share_no_value(tmp_path):
    written(tmp_path / 'a.csv', [f'{i},{i}' for i in range(53)])
    series = SeriesFile(file='a.csv', dev_share=0.1, test_share=0.2)
    parts = [series.part(split, tmp_path) for split in ('train', 'dev', 'test')]
    own = [part.values[part.begin :] for part in parts]
    np.testing.assert_array_equal(np.concatenate(own), np.arange(53))
    assert [len(part) for part in parts] == [37, 5, 11]
    np.testing.assert_array_equal(parts[1].values, np.arange(42))  # and what came before
    with pytest.raises(UserError, match="not 'valid'"):
        series.part('valid', tmp_path)


@pytest.mark.parametrize(('count', 'context', 'length'), [(53, 6, 10), (41, 30, 31), (30, 50, 60)])
def test_every_value_of_a_part_counts_once_after_enough_others(count, context, length):
    part = Part(np.arange(count, dtype=float), ('',) * count, 20)
    found = scoring_windows(part, context, length)
    counted = [np.arange(*pair) for pair in zip(found.scored, found.ends, strict=True)]
    np.testing.assert_array_equal(np.concatenate(counted), np.arange(20, count))
    np.testing.assert_array_equal(found.scored - found.starts, np.minimum(context, found.scored))
    assert (found.ends - found.starts <= length).all()


def test_training_windows_stay_within_the_part_and_reach_its_end():
    part = Part(np.arange(47, dtype=float), ('',) * 47, 0)
    found = overlapping_windows(part, 12, 5)
    np.testing.assert_array_equal(found.starts, [0, 5, 10, 15, 20, 25, 30, 35])
    assert found.ends[-1] == 47
    counted = [np.arange(*pair) for pair in zip(found.scored, found.ends, strict=True)]
    np.testing.assert_array_equal(np.concatenate(counted), np.arange(1, 47))
    with pytest.raises(UserError, match='holds no window of 48'):
        overlapping_windows(part, 48, 1)


@pytest.mark.parametrize('logarithm', [False, True])
def test_standardised_values_come_back_and_expectations_are_those_of_draws(logarithm):
    rng = np.random.default_rng(0)
    values = rng.uniform(100, 200, 500)
    scale = Scale.of(values, logarithm=logarithm)
    standardised = scale.standardised(values)
    np.testing.assert_allclose([standardised.mean(), standardised.std()], [0, 1], atol=1e-12)
    np.testing.assert_allclose(np.diff(standardised).std(), scale.change)
    np.testing.assert_allclose(scale.restored(standardised), values)
    draws = scale.restored(0.5 + 2.0 * rng.normal(size=400_000))
    np.testing.assert_allclose(scale.expected(0.5, 2.0), draws.mean(), rtol=3e-3)


def test_numbers_in_a_line_are_parted_by_commas():
    assert parse_numbers(' 112, 118.5,-3 ', 'record 1') == [112.0, 118.5, -3.0]
    for wrong in ('1;2', '1,,2', '1,x', '1,inf', '1,1e300'):
        with pytest.raises(UserError, match=r'record 7: .* is not a number'):
            parse_numbers(wrong, 'record 7')


@pytest.mark.parametrize(
    ('name', 'sizes'),
    [
        ('monthly-sunspots', (1974, 282, 564)),
        ('daily-min-temperatures', (2555, 365, 730)),
        ('airline-passengers', (101, 14, 29)),
    ],
)
def test_the_public_series_are_the_published_files(data_dir, name, sizes):
    series = SeriesFile(file=f'time_series/{name}.csv')
    whole, sentence = series.prepare(data_dir)  # compares the checksum
    assert whole.endswith('is whole')
    assert f'{sum(sizes):,} values' in sentence
    assert tuple(len(series.part(s, data_dir)) for s in ('train', 'dev', 'test')) == sizes
