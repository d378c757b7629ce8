"""The search for the largest batch, with a compiler that is a formula."""

import dataclasses
from types import SimpleNamespace

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqzoo.analysis.ahead_of_time import Memory, needed_bytes
from seqzoo.analysis.fitting import fit_batch, largest_fit
from seqzoo.configuration import load_config
from seqzoo.errors import UserError
from seqzoo.parallel.mesh import MeshConfig, build_mesh


@given(
    fixed=st.integers(0, 1000), slope=st.integers(1, 400), room=st.integers(1, 10_000),
    start=st.integers(1, 60), bend=st.integers(0, 3),
)  # fmt: skip
def test_what_is_found_fits_and_one_more_does_not(fixed, slope, room, start, bend):
    calls = []

    def needs(units):
        calls.append(units)
        return fixed + slope * units + bend * units**2 // 8

    found = largest_fit(needs, room, fixed=min(fixed, room), start=start, tries=40)
    assert found.is_largest
    assert found.units == 0 or needs(found.units) <= room
    assert needs(found.units + 1) > room
    assert len(set(calls[:-2])) == len(calls[:-2]), 'something was compiled twice'


def test_a_straight_line_takes_few_compilations():
    found = largest_fit(lambda n: 500 + 7 * n, 16_000, fixed=500, start=100)
    assert found.units == (16_000 - 500) // 7
    assert found.is_largest
    assert len(found.measured) <= 5


def test_after_so_many_tries_the_best_known_is_returned():
    found = largest_fit(lambda n: n**3, 10**9, fixed=0, start=1, tries=3)
    assert not found.is_largest
    assert 0 < found.units < 1000
    assert found.measured[found.units] <= 10**9


@pytest.mark.parametrize('limit', [29, 40, 71, 82, 300])
def test_a_compiler_that_saves_memory_when_it_lacks_some_is_seen_through(limit):
    room = 15_750

    def needs(units):
        wanted = 500 + (room - 500) * units / (limit + 0.5)
        return int(wanted) if wanted <= room else room + 140

    found = largest_fit(needs, room, fixed=500, start=28)
    assert found.units <= limit
    assert found.units >= 0.97 * limit
    assert len(found.measured) <= 8


class FakeCompiler:
    """Needs 1 GiB, and 64 MiB for each row of a device."""

    def __init__(self, rows_of_devices):
        self.rows_of_devices = rows_of_devices

    def trace(self, experiment, mesh):
        length = experiment.batch.max_length
        rows = experiment.batch.tokens // length
        held = {'parameters': 2**28, 'optimizer state': 2**29}
        return SimpleNamespace(length=length, rows=rows, held=held, mesh=mesh)

    def compile(self, traced, room):
        each = traced.rows // self.rows_of_devices
        memory = Memory(
            held=traced.held, filling=0, temporaries=2**28 + each * 2**26, results=0, code=0,
            room=room,
        )  # fmt: skip
        return SimpleNamespace(memory=memory, traced=traced)


def fit(tokens, room):
    experiment = load_config('transformer_tiny_numerals')
    batch = dataclasses.replace(experiment.batch, tokens=tokens)
    fake = FakeCompiler(2)
    mesh = build_mesh(MeshConfig(), jax.devices()[:2])
    return fit_batch(
        dataclasses.replace(experiment, batch=batch), mesh, room,
        trace=fake.trace, compile_=fake.compile,
    )  # fmt: skip


def test_the_batch_grows_in_whole_rows_of_every_device():
    experiment, found, compiled = fit(tokens=1920, room=4 * 2**30)
    # 3 GiB are left for rows of 64 MiB: 48 on each of two devices.
    assert found.units == 48
    assert experiment.batch.tokens == 48 * 2 * experiment.batch.max_length
    assert compiled.memory.total == 4 * 2**30
    assert compiled.memory.fits


def test_where_not_even_one_row_fits_a_sentence_says_what_to_do():
    with pytest.raises(UserError, match='more chips'):
        fit(tokens=1920, room=2**30)


def test_what_a_program_lacked_is_read_from_the_complaint():
    complaint = (
        'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO '
        'temporaries (44.50G) exceeds available HBM (15.75G).'
    )
    assert needed_bytes(complaint, 2**30) == int(45.5 * 2**30)
    other = 'Ran out of memory in memory space hbm. Used 28.5G of 15.75G hbm.'
    assert needed_bytes(other, 2**30) == int(28.5 * 2**30)
    assert needed_bytes('INTERNAL: something else', 0) is None
