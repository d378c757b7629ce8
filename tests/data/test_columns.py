"""Tables of named columns become batches like sentences do."""

import itertools

import numpy as np
import pytest

from seqzoo.data.batching import BatchConfig
from seqzoo.data.bucketing import BucketPlan, EvaluationPlan
from seqzoo.data.columns import Columns, Fixed, Ragged
from seqzoo.data.pipeline import step_batches, step_specs

LENGTHS = [1, 4, 2, 7, 8, 3, 5, 1, 6, 8]
CONFIG = BatchConfig(tokens=32, max_length=8, buckets=(4, 8))


def table() -> Columns:
    words = [100 * i + np.arange(n) for i, n in enumerate(LENGTHS)]
    points = [np.stack([w, -w], axis=1) for w in words]
    return Columns(
        {
            'words': Ragged.of(words),
            'points': Ragged.of(points, np.float32),
            'label': Fixed(np.arange(len(LENGTHS), dtype=np.int32)),
        }
    )


def test_every_example_stands_whole_in_one_row_an_epoch():
    content = table()
    plan = BucketPlan(content.lengths, content.lengths, CONFIG, end_marks=0)
    words, seen = content.columns['words'], []
    assert isinstance(words, Ragged)
    for batch in itertools.islice(
        step_batches(content, plan, row_multiple=4), plan.steps_per_epoch
    ):
        arrays = batch.arrays
        for row in np.flatnonzero(arrays['weight']):
            label = int(arrays['label'][row])
            real = arrays['segments'][row] == 1
            assert real.sum() == LENGTHS[label]
            np.testing.assert_array_equal(arrays['words'][row][real], words[label])
            np.testing.assert_array_equal(
                arrays['points'][row][real][:, 1], -arrays['words'][row][real]
            )
            assert not arrays['words'][row][~real].any()
            seen.append(label)
    assert sorted(seen) == list(range(len(LENGTHS)))


def test_batches_have_the_announced_shapes_and_types():
    content = table()
    plan = BucketPlan(content.lengths, content.lengths, CONFIG, end_marks=0)
    specs = step_specs(content, plan, row_multiple=8, process_count=2)
    announced = [{k: (s.shape, s.dtype) for k, s in spec.items()} for spec in specs]
    for batch in itertools.islice(
        step_batches(content, plan, row_multiple=8, process_count=2, process_index=1), 4
    ):
        found = {k: (a.shape, str(a.dtype)) for k, a in batch.arrays.items()}
        assert found == announced[batch.bucket]


def test_two_processes_hold_the_rows_of_one():
    content = table()
    plan = EvaluationPlan(content.lengths, None, CONFIG, end_marks=0)
    options = {'steps': plan.steps_per_epoch, 'row_multiple': 2}
    whole = list(step_batches(content, plan, **options))
    halves = [
        list(step_batches(content, plan, process_index=i, process_count=2, **options))
        for i in range(2)
    ]
    for batch, first, second in zip(whole, *halves, strict=True):
        for name, array in batch.arrays.items():
            both = np.concatenate([first.arrays[name], second.arrays[name]])
            np.testing.assert_array_equal(both, array)


def test_an_example_of_one_position_is_not_empty():
    content = table()
    plan = BucketPlan(content.lengths, content.lengths, CONFIG, end_marks=0)
    assert plan.selection.dropped_empty == 0
    assert len(plan.selection.ids) == len(LENGTHS)


def test_a_table_without_ragged_columns_has_the_length_it_is_given():
    content = Columns({'pixels': Fixed(np.zeros((5, 9), np.float32))}, length=9)
    config = BatchConfig(tokens=18, max_length=9, buckets=(9,))
    plan = BucketPlan(content.lengths, content.lengths, config, end_marks=0)
    batch = next(step_batches(content, plan))
    assert batch.arrays['pixels'].shape == (2, 9)
    assert batch.arrays['segments'].shape == (2, 9)


def test_columns_of_unlike_examples_are_refused():
    with pytest.raises(ValueError, match='number of examples'):
        Columns({'a': Fixed(np.zeros(3)), 'b': Fixed(np.zeros(4))})
    with pytest.raises(ValueError, match='lengths of column b'):
        Columns({'a': Ragged.of([[1], [2, 3]]), 'b': Ragged.of([[1, 2], [3]])})


def test_the_fingerprint_knows_values_and_lengths():
    first, same = table(), table()
    assert first.fingerprint == same.fingerprint
    one = Columns({'a': Ragged.of([[1, 2], [3]])})
    other = Columns({'a': Ragged.of([[1], [2, 3]])})
    assert one.fingerprint != other.fingerprint
