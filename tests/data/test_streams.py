"""Running text in batches: every token in its place, once, whoever asks for whichever step."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from seqzoo.data.batching import BatchConfig
from seqzoo.data.inspection import describe_plan
from seqzoo.data.pipeline import step_batches, step_specs
from seqzoo.data.streams import TextEvaluationPlan, TextPlan, TextRows
from seqzoo.errors import UserError

TEXT = 100 + np.arange(107, dtype=np.int32)  # each token says where it stands
BEFORE = 7
CONFIG = BatchConfig(tokens=20, max_length=5)  # 4 rows of 5 tokens


def batches(plan, count=None, *, padded=False, **options):
    count = plan.steps_per_epoch if count is None else count
    content = TextRows(TEXT, plan, BEFORE, padded)
    return list(itertools.islice(step_batches(content, plan, **options), count))


def predicted(found):
    """The tokens that batches predict."""
    parts = []
    for batch in found:
        targets = batch.arrays['tokens'][:, 1:]
        real = batch.arrays.get('segments', np.ones_like(targets)) > 0
        parts.append(targets[real])
    return np.concatenate(parts)


def test_streams_go_on_where_they_stopped_and_cover_the_text_once():
    plan = TextPlan(len(TEXT), CONFIG)
    found = batches(plan)
    assert plan.steps_per_epoch == 5
    assert plan.left_out == 7
    # [rows, steps x length]: a row read over all steps is a stretch of the text, and the next row
    # goes on behind it.
    rows = np.concatenate([batch.arrays['tokens'][:, 1:] for batch in found], axis=1)
    np.testing.assert_array_equal(rows.reshape(-1), TEXT[:100])
    for batch in found:
        tokens = batch.arrays['tokens']
        np.testing.assert_array_equal(tokens[1:, 0], tokens[1:, 1] - 1)  # what stands before
    assert found[0].arrays['tokens'][0, 0] == BEFORE


def test_streams_begin_anew_with_each_epoch_only():
    plan = TextPlan(len(TEXT), CONFIG)
    anew = [int(batch.arrays['anew'].min()) for batch in batches(plan, 11)]
    assert anew == [1, 0, 0, 0, 0] * 2 + [1]
    assert anew == [int(batch.arrays['anew'].max()) for batch in batches(plan, 11)]


def test_windows_are_shuffled_anew_in_each_epoch_and_begin_anew():
    plan = TextPlan(len(TEXT), CONFIG, order='windows', seed=3)
    first, second = (batches(plan, 5, start_step=start) for start in (0, 5))
    for found in (first, second):
        tokens = predicted(found)
        assert len(set(tokens)) == len(tokens) == 100
        assert all(batch.arrays['anew'].all() for batch in found)
    assert not np.array_equal(predicted(first), np.sort(predicted(first)))
    assert not np.array_equal(predicted(first), predicted(second))


@pytest.mark.parametrize('order', ['streams', 'windows'])
def test_with_an_offset_epochs_lie_otherwise_and_still_see_each_token_once(order):
    plan = TextPlan(len(TEXT), CONFIG, order=order, random_offset=True, seed=1)
    epochs = [predicted(batches(plan, 5, start_step=5 * epoch)) for epoch in range(6)]
    firsts = {int(tokens.min()) for tokens in epochs}
    assert len(firsts) > 1
    assert all(0 <= first - TEXT[0] < CONFIG.max_length for first in firsts)
    assert all(len(set(tokens)) == 100 for tokens in epochs)


@pytest.mark.parametrize('order', ['streams', 'windows'])
def test_a_step_is_the_same_however_it_is_reached(order):
    def plan(seed=0):
        return TextPlan(len(TEXT), CONFIG, order=order, random_offset=True, seed=seed)

    through, late = batches(plan(), 13), batches(plan(), 1, start_step=12)[0]
    assert late.digest == through[12].digest
    for name, array in late.arrays.items():
        np.testing.assert_array_equal(array, through[12].arrays[name])
    assert late.digest != batches(plan(seed=1), 1, start_step=12)[0].digest
    assert len({batch.digest for batch in through[:5]}) == 5


def test_two_processes_hold_the_rows_of_one():
    plan = TextPlan(len(TEXT), CONFIG, order='windows')
    # Four rows for six devices: two rows only fill up.
    options = {'padded': True, 'row_multiple': 6}
    whole = batches(plan, 2, **options)
    halves = [batches(plan, 2, process_index=i, process_count=2, **options) for i in (0, 1)]
    for batch, first, second in zip(whole, *halves, strict=True):
        assert first.digest == second.digest == batch.digest
        assert batch.arrays['segments'].sum(axis=1).tolist() == [5, 5, 5, 5, 0, 0]
        for name, array in batch.arrays.items():
            both = np.concatenate([first.arrays[name], second.arrays[name]])
            np.testing.assert_array_equal(both, array)


@pytest.mark.parametrize('padded', [False, True])
def test_batches_have_the_announced_shapes_and_types(padded):
    plan = TextPlan(len(TEXT), CONFIG)
    (spec,) = step_specs(TextRows(TEXT, plan, BEFORE, padded), plan)
    announced = {name: (s.shape, s.dtype) for name, s in spec.items()}
    (batch,) = batches(plan, 1, padded=padded)
    assert {k: (a.shape, str(a.dtype)) for k, a in batch.arrays.items()} == announced


@pytest.mark.parametrize('rows', [1, 3, 4, 500])
@pytest.mark.parametrize('length', [None, 16])
def test_evaluation_predicts_every_token_exactly_once(rows, length):
    config = replace(CONFIG, evaluation_rows=rows, evaluation_max_length=length)
    plan = TextEvaluationPlan(len(TEXT), config)
    found = batches(plan, padded=True, row_multiple=8)
    np.testing.assert_array_equal(np.sort(predicted(found)), TEXT)
    assert [bool(batch.arrays['anew'].all()) for batch in found] == [True] + [False] * (
        len(found) - 1
    )
    for row in range(plan.rows):  # each row is a stretch of the text
        tokens = predicted(
            [replace(b, arrays={k: a[row : row + 1] for k, a in b.arrays.items()}) for b in found]
        )
        np.testing.assert_array_equal(tokens, np.arange(tokens[0], tokens[0] + len(tokens)))


def test_evaluation_of_windows_begins_anew_each_time():
    plan = TextEvaluationPlan(len(TEXT), CONFIG, order='windows')
    assert all(batch.arrays['anew'].all() for batch in batches(plan, padded=True))


def test_a_text_shorter_than_a_batch_is_refused():
    with pytest.raises(UserError, match='19 tokens, fewer than the 4 x 5'):
        TextPlan(19, CONFIG)
    assert TextPlan(20, CONFIG).steps_per_epoch == 1


@pytest.mark.parametrize(
    'options', [{'packing': True}, {'fitted_buckets': 2}, {'long_sentences': 'truncate'}]
)
def test_options_of_sentences_are_refused(options):
    with pytest.raises(UserError, match=f'batch.{next(iter(options))} is for sentences'):
        TextPlan(len(TEXT), replace(CONFIG, **options))


def test_a_plan_says_what_an_epoch_is():
    text = describe_plan(TextPlan(len(TEXT), CONFIG))
    assert '4 streams of 25 tokens; 7 tokens are left out' in text
    assert '5 steps an epoch of 4 rows x 5 tokens' in text


@pytest.mark.parametrize('padded', [False, True])
def test_lines_kept_apart_have_numbers_of_their_own(padded):
    plan = TextPlan(len(TEXT), CONFIG)
    ids = np.where(np.arange(len(TEXT)) % 4 == 2, BEFORE, TEXT + 100)
    content = TextRows(ids, plan, BEFORE, padded, apart=True)
    (batch,) = itertools.islice(step_batches(content, plan), 1)
    for tokens, segments in zip(batch.arrays['tokens'], batch.arrays['segments'], strict=True):
        expected, line = [], 1
        for place, token in enumerate(tokens[:-1]):
            line += int(place > 0 and token == BEFORE)  # what closes a line begins the next
            expected.append(line)
        assert segments.tolist() == expected
        assert max(expected) > 1
    assert step_specs(content, plan)[0]['segments'].shape == batch.arrays['segments'].shape
