import numpy as np
import pytest

from seqzoo.data.batching import BatchConfig, evenly, permutation, rows_within, select_examples
from seqzoo.errors import UserError


@pytest.mark.parametrize(
    ('fields', 'named'),
    [
        ({'max_length': 1}, 'batch.max_length'),
        ({'tokens': 100}, 'batch.tokens is 100'),
        ({'packing': True, 'pack_length': 64}, 'batch.pack_length'),
        ({'packing': True, 'pack_length': 8192}, 'batch.tokens'),
        ({'buckets': ()}, 'batch.buckets'),
        ({'buckets': (16, 8, 128)}, 'ascending'),
        ({'buckets': (8, 64)}, 'batch.buckets ends at 64'),
        ({'fitted_buckets': 0}, 'batch.fitted_buckets'),
        ({'fitted_buckets': 3, 'buckets': (128,)}, 'choose one'),
        ({'length_multiple': 0}, 'batch.length_multiple'),
        ({'long_sentences': 'cut'}, 'batch.long_sentences'),
        ({'empty_lines': 'count'}, 'batch.empty_lines'),
        ({'evaluation_rows': 0}, 'batch.evaluation_rows'),
        ({'evaluation_max_length': 64}, 'batch.evaluation_max_length'),
    ],
)
def test_bad_settings_name_the_field(fields, named):
    with pytest.raises(UserError, match=named):
        BatchConfig(**fields)


SOURCE = np.array([3, 0, 20, 5, 4, 9])
TARGET = np.array([3, 5, 4, 0, 12, 10])


def test_long_and_empty_pairs_are_dropped_and_counted():
    kept = select_examples(SOURCE, TARGET, BatchConfig(max_length=11))
    assert kept.ids.tolist() == [0, 5]
    assert (kept.dropped_empty, kept.dropped_long, kept.truncated) == (2, 2, 0)
    assert kept.target_lengths.tolist() == [4, 11]  # with the end marker


def test_long_pairs_are_truncated_on_request():
    kept = select_examples(SOURCE, TARGET, BatchConfig(max_length=11, long_sentences='truncate'))
    assert kept.ids.tolist() == [0, 2, 4, 5]
    assert kept.source_lengths.tolist() == [4, 11, 5, 10]
    assert (kept.dropped_long, kept.truncated) == (0, 2)


def test_long_pairs_are_refused_on_request():
    config = BatchConfig(max_length=11, long_sentences='refuse')
    with pytest.raises(UserError, match=r'2 training pairs .* line 3 with 21 tokens'):
        select_examples(SOURCE, TARGET, config)


def test_empty_pairs_are_kept_on_request():
    kept = select_examples(SOURCE, TARGET, BatchConfig(max_length=32, empty_lines='keep'))
    assert kept.ids.tolist() == [0, 1, 2, 3, 4, 5]
    assert kept.dropped_empty == 0


def test_nothing_left_and_sides_that_differ_are_refused():
    with pytest.raises(UserError, match='no training pair is left: 1 are empty and 1 longer'):
        select_examples(np.array([0, 500]), np.array([1, 1]), BatchConfig())
    with pytest.raises(UserError, match='2 sentences and the target 1'):
        select_examples(np.array([1, 1]), np.array([1]), BatchConfig())


def test_a_permutation_depends_on_its_key_alone():
    assert sorted(permutation(100, 1, 2, 3).tolist()) == list(range(100))
    np.testing.assert_array_equal(permutation(100, 1, 2, 3), permutation(100, 1, 2, 3))
    assert not np.array_equal(permutation(100, 1, 2, 3), permutation(100, 1, 2, 4))
    assert permutation(4, -1, 0).size == 4
    # Stated, so that another version of NumPy cannot change the order of a run that goes on.
    assert permutation(8, 0, 0, 0).tolist() == [0, 3, 7, 5, 1, 2, 6, 4]


def test_rows_fill_the_budget_in_multiples_of_eight():
    assert [rows_within(4096, n) for n in (8, 24, 48, 128, 600, 5000)] == [512, 168, 80, 32, 6, 0]


def test_parts_differ_by_at_most_one():
    sizes = np.diff(evenly(23, 5))
    assert sizes.sum() == 23
    assert set(sizes.tolist()) == {4, 5}
