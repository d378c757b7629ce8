"""Which rows a process provides follows from where its devices stand in the mesh."""

import types

import jax
import numpy as np
import pytest

from seqzoo.errors import UserError
from seqzoo.parallel.rows import RowShare, row_share

AXES = ('data', 'fsdp', 'tensor', 'sequence')


def mesh(shape, processes, order=None):
    """Devices of several processes, those of each together."""
    count = int(np.prod(shape))
    devices = np.array(
        [types.SimpleNamespace(process_index=i * processes // count) for i in range(count)]
    )
    devices = devices if order is None else devices[np.array(order)]
    return types.SimpleNamespace(
        axis_names=AXES,
        devices=devices.reshape(shape),
        shape=dict(zip(AXES, shape, strict=True)),
    )


@pytest.mark.parametrize(
    ('shape', 'processes', 'shares'),
    [
        ((8, 1, 1, 1), 2, [(0, 2), (1, 2)]),
        ((2, 4, 1, 1), 2, [(0, 2), (1, 2)]),
        ((2, 1, 4, 1), 2, [(0, 2), (1, 2)]),
        ((1, 1, 8, 1), 2, [(0, 1), (0, 1)]),  # both hold all rows
        ((2, 1, 4, 1), 4, [(0, 2), (0, 2), (1, 2), (1, 2)]),
        ((4, 1, 1, 2), 2, [(0, 2), (1, 2)]),
        ((1, 1, 1, 1), 1, [(0, 1)]),
    ],
)
def test_processes_that_hold_the_same_rows_provide_the_same(monkeypatch, shape, processes, shares):
    found = []
    for me in range(processes):
        monkeypatch.setattr(jax, 'process_index', lambda me=me: me)
        found.append(row_share(mesh(shape, processes)))
    assert found == [RowShare(*share) for share in shares]


def test_devices_that_do_not_stand_together_are_refused(monkeypatch):
    monkeypatch.setattr(jax, 'process_index', lambda: 0)
    with pytest.raises(UserError, match='do not stand together'):
        row_share(mesh((4, 1, 1, 1), 2, order=[0, 2, 1, 3]))
