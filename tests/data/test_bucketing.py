import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqzoo.data.batching import BatchConfig
from seqzoo.data.bucketing import (
    BucketPlan,
    EvaluationPlan,
    fitted_ladder,
    geometric_ladder,
)
from seqzoo.errors import UserError

PAIRS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=80)
CONFIGS = st.sampled_from(
    [
        BatchConfig(tokens=64, max_length=32),
        BatchConfig(tokens=100, max_length=32, long_sentences='truncate', fitted_buckets=3),
        BatchConfig(tokens=41, max_length=41, empty_lines='keep', buckets=(5, 17, 41)),
    ]
)


def plan_of(pairs, config, seed=0):
    source, target = np.array(pairs).T
    try:
        return BucketPlan(source, target, config, seed=seed)
    except UserError:
        return None


@given(PAIRS, CONFIGS, st.integers(0, 5))
def test_every_kept_example_appears_once_an_epoch_within_shape_and_budget(pairs, config, epoch):
    plan = plan_of(pairs, config)
    if plan is None:
        return
    kept = plan.selection
    lengths = dict(
        zip(
            kept.ids.tolist(),
            zip(kept.source_lengths, kept.target_lengths, strict=True),
            strict=True,
        )
    )
    seen = []
    for step in range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch):
        batch = plan.batch(step)
        assert batch.shape == plan.shapes[batch.bucket]
        assert batch.shape.rows * batch.shape.target_length <= config.tokens
        assert 1 <= len(batch.examples) <= batch.shape.rows == len(batch.example_ids)
        assert batch.example_ids[batch.example_ids >= 0].tolist() == batch.examples.tolist()
        for i, example in enumerate(batch.examples.tolist()):
            own = (batch.source_lengths[i], batch.target_lengths[i])
            assert own == lengths[example]
            assert max(own) <= batch.shape.source_length == batch.shape.target_length
        seen += batch.examples.tolist()
    assert sorted(seen) == kept.ids.tolist()
    total = kept.dropped_empty + kept.dropped_long + len(kept.ids)
    assert total == len(pairs)


@given(PAIRS, CONFIGS, st.integers(0, 200))
def test_a_batch_depends_on_seed_and_step_alone(pairs, config, step):
    plan, other = plan_of(pairs, config, seed=7), plan_of(pairs, config, seed=7)
    if plan is None or other is None:
        return
    for earlier in range(0, step, 37):  # another history
        other.batch(earlier)
    np.testing.assert_array_equal(plan.batch(step).example_ids, other.batch(step).example_ids)


def test_epochs_and_seeds_differ_in_order_and_company():
    lengths = np.full(256, 7)
    config = BatchConfig(tokens=128, max_length=16)
    plan = BucketPlan(lengths, lengths, config, seed=0)
    other = BucketPlan(lengths, lengths, config, seed=1)
    steps = plan.steps_per_epoch

    def company(plan, epoch):
        return {frozenset(plan.batch(epoch * steps + i).examples.tolist()) for i in range(steps)}

    assert len({frozenset(company(plan, e)) for e in (0, 1)} | {frozenset(company(other, 0))}) == 3


def test_batches_of_an_epoch_come_in_mixed_order():
    lengths = np.repeat([3, 12, 28], 200)
    plan = BucketPlan(lengths, lengths, BatchConfig(tokens=256, max_length=32))
    orders = [
        [plan.batch(e * plan.steps_per_epoch + i).bucket for i in range(plan.steps_per_epoch)]
        for e in (0, 1)
    ]
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1] != sorted(orders[1])


def test_what_is_lacking_is_spread_over_the_batches_of_a_bucket():
    lengths = np.full(33, 7)
    plan = BucketPlan(lengths, lengths, BatchConfig(tokens=128, max_length=16))
    assert sorted(len(plan.batch(i).examples) for i in range(plan.steps_per_epoch)) == [11, 11, 11]


def test_padding_is_the_share_of_places_without_a_token():
    plan = BucketPlan(np.array([7, 3]), np.array([3, 3]), BatchConfig(tokens=32, max_length=8))
    # One batch of 4 rows of 8: 8 + 4 source tokens, 4 + 4 target tokens.
    assert plan.padding.source == pytest.approx(1 - 12 / 32)
    assert plan.padding.target == pytest.approx(1 - 8 / 32)
    assert plan.padding.both == pytest.approx(1 - 20 / 64)


def test_only_buckets_with_examples_are_compiled():
    lengths = np.array([3, 4, 100])
    plan = BucketPlan(lengths, lengths, BatchConfig())
    assert [s.target_length for s in plan.shapes] == [8, 120]


@given(st.integers(2, 300), st.integers(1, 16))
def test_the_ladder_ascends_in_multiples_to_the_longest(longest, multiple):
    ladder = geometric_ladder(longest, multiple)
    assert ladder[-1] == longest
    assert all(a < b for a, b in itertools.pairwise(ladder))
    assert all(length % multiple == 0 for length in ladder[:-1])


@given(
    st.lists(st.integers(1, 21), min_size=1, max_size=30),
    st.integers(1, 4),
    st.sampled_from([1, 4]),
)
def test_the_fitted_ladder_pads_least_of_all(lengths, count, multiple):
    values = np.array(lengths)
    longest = 21
    ladder = fitted_ladder(values, count, longest, multiple)

    def places(ladder):
        return sum(min(edge for edge in ladder if edge >= n) for n in lengths)

    top = min(-(-max(lengths) // multiple) * multiple, longest)
    edges = list(range(multiple, top, multiple))
    every = [
        (*choice, top) for size in range(count) for choice in itertools.combinations(edges, size)
    ]
    assert ladder[-1] == top
    assert len(ladder) <= count
    assert places(ladder) == min(places(other) for other in every)


@given(
    st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), min_size=1, max_size=60),
    st.booleans(),
)
def test_evaluation_visits_every_example_once_longest_first(pairs, with_target):
    source, target = np.array(pairs).T
    config = BatchConfig(tokens=64, max_length=16, evaluation_max_length=70)
    plan = EvaluationPlan(source, target if with_target else None, config)
    batches = [plan.batch(step) for step in range(plan.steps_per_epoch)]
    seen = np.concatenate([batch.examples for batch in batches])
    assert sorted(seen.tolist()) == list(range(len(pairs)))
    lengths = [batch.shape.source_length for batch in batches]
    assert lengths == sorted(lengths, reverse=True)
    assert max(lengths) <= 70
    longer = np.maximum(source, target) if with_target else source
    assert plan.selection.truncated == np.count_nonzero(longer + 1 > 70)
    for batch in batches:
        assert batch.source_lengths.max() <= batch.shape.source_length
        assert batch.shape in plan.shapes


def test_evaluation_rows_bound_the_batches_and_one_line_takes_few():
    lengths = np.full(100, 7)
    capped = EvaluationPlan(lengths, None, BatchConfig(evaluation_rows=16))
    assert [s.rows for s in capped.shapes] == [16]
    assert [s.rows for s in EvaluationPlan(lengths[:1], None, BatchConfig()).shapes] == [8]


def test_evaluation_of_nothing_is_refused():
    with pytest.raises(UserError, match='no lines'):
        EvaluationPlan(np.array([], int), None, BatchConfig())
    with pytest.raises(UserError, match='must match'):
        EvaluationPlan(np.array([1]), np.array([1, 2]), BatchConfig())
