import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqzoo.data.batching import BatchConfig
from seqzoo.data.packing import PackPlan
from seqzoo.errors import UserError

PAIRS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=80)
CONFIGS = st.sampled_from(
    [
        BatchConfig(tokens=128, max_length=24, packing=True),
        BatchConfig(tokens=700, max_length=31, pack_length=300, packing=True, empty_lines='keep'),
        BatchConfig(
            tokens=64, max_length=8, pack_length=20, packing=True, long_sentences='truncate'
        ),
    ]
)


def plan_of(pairs, config, seed=0):
    source, target = np.array(pairs).T
    try:
        return PackPlan(source, target, config, seed=seed)
    except UserError:
        return None


@given(PAIRS, CONFIGS, st.integers(0, 3))
def test_every_example_once_an_epoch_and_rows_never_overflow(pairs, config, epoch):
    plan = plan_of(pairs, config)
    if plan is None:
        return
    (shape,) = plan.shapes
    assert shape.rows * shape.target_length <= config.tokens
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
        source_end, target_end, slots = (dict.fromkeys(range(shape.rows), 0) for _ in range(3))
        for i, example in enumerate(batch.examples.tolist()):
            row = int(batch.row[i])
            assert batch.segment[i] == slots[row] + 1
            assert batch.example_ids[row, slots[row]] == example
            # Segments lie one after the other, without gap or overlap.
            assert batch.source_offset[i] == source_end[row]
            assert batch.target_offset[i] == target_end[row]
            assert (batch.source_lengths[i], batch.target_lengths[i]) == lengths[example]
            source_end[row] += batch.source_lengths[i]
            target_end[row] += batch.target_lengths[i]
            slots[row] += 1
        assert max(*source_end.values(), *target_end.values()) <= shape.target_length
        assert np.count_nonzero(batch.example_ids >= 0) == len(batch.examples)
        seen += batch.examples.tolist()
    assert sorted(seen) == kept.ids.tolist()


@given(PAIRS, CONFIGS, st.integers(0, 60))
def test_a_batch_depends_on_seed_and_step_alone(pairs, config, step):
    plan, other = plan_of(pairs, config, seed=3), plan_of(pairs, config, seed=3)
    if plan is None or other is None:
        return
    for earlier in range(0, step, 13):
        other.batch(earlier)
    np.testing.assert_array_equal(plan.batch(step).example_ids, other.batch(step).example_ids)


def test_neighbours_change_from_epoch_to_epoch():
    lengths = np.random.default_rng(0).integers(3, 15, 500)
    plan = PackPlan(lengths, lengths, BatchConfig(tokens=512, max_length=32, packing=True))

    def neighbours(epoch):
        rows = [
            plan.batch(epoch * plan.steps_per_epoch + i).example_ids
            for i in range(plan.steps_per_epoch)
        ]
        return {frozenset(row[row >= 0].tolist()) for row in np.concatenate(rows)}

    shared = neighbours(0) & neighbours(1)
    assert len(shared) < 0.2 * len(neighbours(0))


def test_packing_leaves_little_padding():
    rng = np.random.default_rng(0)
    source = rng.lognormal(2.7, 0.5, 20_000).astype(int) + 1
    target = (source * rng.lognormal(0, 0.15, 20_000)).astype(int) + 1
    plan = PackPlan(source, target, BatchConfig(packing=True))
    assert plan.padding.both < 0.04
    assert plan.selection.dropped_long < 100


def test_one_sided_lengths_are_packed_too():
    plan = PackPlan(np.full(100, 1), np.full(100, 60), BatchConfig(tokens=1024, packing=True))
    # Two rows of 61 target tokens make a row of 128, whatever room is left on the source side.
    assert plan.steps_per_epoch == -(-50 // 8)
    assert plan.padding.target == pytest.approx(1 - 6100 / (plan.steps_per_epoch * 1024))
