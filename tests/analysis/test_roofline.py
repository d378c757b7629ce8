"""Seconds of a step from operations and bytes: arithmetic that can be done by hand."""

import dataclasses

import pytest

from seqzoo.analysis.chips import CHIPS, Chip, peak_flops_per_second
from seqzoo.analysis.collectives import Collective
from seqzoo.analysis.roofline import Work, estimate, scaling, sent

CHIP = Chip(
    name='test', kind='TPU test', peak=100.0, hbm=1000.0, hbm_bandwidth=10.0, link_bandwidth=2.0,
    axes=2,
)  # fmt: skip


def collective(kind, size, members, times=1):
    return Collective(
        kind=kind, bytes=size, members=tuple(members), in_loop=False, times=times,
        place='outside', shapes=(), name='', source='',
    )  # fmt: skip


WORK = Work(
    flops=400.0,
    model_flops=300.0,
    memory_bytes=20.0,
    state_bytes=8.0,
    collectives=(),
    gradient_bytes=12.0,
)


@pytest.mark.parametrize(
    ('kind', 'bytes_sent'),
    [
        ('all-gather', 60),  # of a result of 80 three quarters come from others
        ('all-reduce', 120),
        ('reduce-scatter', 240),
        ('all-to-all', 60),
        ('collective-permute', 80),
    ],
)
def test_a_ring_sends_what_the_formula_says(kind, bytes_sent):
    assert sent(collective(kind, 80, range(4)), 8) == bytes_sent
    assert sent(collective(kind, 80, [3]), 8) == 0


def test_a_collective_of_unnamed_members_is_one_of_all_devices():
    assert sent(collective('all-gather', 80, ()), 8) == 70


def test_a_step_lies_between_the_longest_part_and_the_sum():
    links = (collective('all-reduce', 80, range(4), times=3), collective('all-gather', 8, [0, 1]))
    found = estimate(dataclasses.replace(WORK, collectives=links), CHIP, 4)
    assert (found.compute, found.memory) == (4.0, 2.0)
    # Both ways round for four, one way between two.
    assert found.links == 3 * 120 / 4 + 4 / 2
    assert found.best == found.links
    assert found.worst == 6.0 + found.links
    assert found.bound == 'links'
    alone = estimate(WORK, CHIP, 1)
    assert alone.bound == 'compute'
    assert alone.utilization == (3.0 / 6.0, 3.0 / 4.0)


def test_devices_share_what_their_chip_has():
    half = dataclasses.replace(CHIP, devices=2)
    assert estimate(WORK, half, 2).compute == 8.0
    assert estimate(WORK, half, 2).memory == 4.0


def test_more_chips_by_data_add_members_to_sums_over_replicas_alone():
    # A mesh of data 2 x fsdp 2: devices 0, 2 and 1, 3 are replicas of each other.
    over_data, over_fsdp = (
        collective('all-reduce', 80, [0, 2]),
        collective('all-gather', 80, [0, 1]),
    )
    work = dataclasses.replace(WORK, collectives=(over_data, over_fsdp))
    same, twice = scaling(work, CHIP, 4, [4, 8], data=2, shards=4, rows=8)
    assert same.weak.links == estimate(work, CHIP, 4).links
    grown = (collective('all-reduce', 80, range(4)), over_fsdp)
    assert twice.weak.links == estimate(dataclasses.replace(WORK, collectives=grown), CHIP, 8).links
    assert twice.weak.compute == 4.0
    assert twice.strong is not None
    assert twice.strong.compute == 2.0
    assert twice.strong.memory == (8 + 12 / 2) / 10  # parameters are as many as before


def test_what_devices_of_the_same_rows_exchange_shrinks_with_the_rows():
    # A mesh of data 2 x tensor 2: 0 and 1 share their rows, 0 and 2 their parameters.
    sums, activations = (
        collective('all-reduce', 80, [0, 2]),
        collective('all-reduce', 80, [0, 1]),
    )
    work = dataclasses.replace(WORK, collectives=(sums, activations))
    (twice,) = scaling(work, CHIP, 4, [8], data=2, shards=2, rows=4)
    half = collective('all-reduce', 40, [0, 1])
    grown = (collective('all-reduce', 80, range(4)), half)
    assert twice.strong is not None  # four rows for four parts of the batch
    wanted = estimate(dataclasses.replace(WORK, collectives=grown), CHIP, 8)
    assert twice.strong.links == wanted.links


def test_where_there_were_no_replicas_their_sum_of_gradients_comes_with_them():
    _, four = scaling(WORK, CHIP, 1, [1, 4], data=1, shards=1, rows=2)
    assert four.weak.links == 2 * 3 / 4 * 12 / 4
    assert four.strong is None  # two rows are not enough for four devices


def test_fewer_chips_than_the_other_axes_need_are_left_out():
    assert scaling(WORK, CHIP, 8, [2], data=2, shards=8, rows=8) == []


def test_every_chip_has_the_peak_that_its_devices_are_known_by():
    for chip in CHIPS:
        if chip.name != 'v4':  # a v4 that runs is one device
            assert peak_flops_per_second(chip.kind) == chip.peak / chip.devices
    assert peak_flops_per_second('TPU v4') == 275e12
    assert peak_flops_per_second('TPU v6 lite') == 918e12
