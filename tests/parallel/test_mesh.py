"""Meshes over several slices, and over the torus of one."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from seqzoo.errors import UserError
from seqzoo.parallel.mesh import MeshConfig, build_mesh, row_block


@dataclasses.dataclass(frozen=True)
class Device:
    """As much of a device as a mesh looks at."""

    id: int
    process_index: int = 0
    platform: str = 'cpu'
    device_kind: str = 'cpu'


@dataclasses.dataclass(frozen=True)
class SliceDevice(Device):
    slice_index: int = 0


@dataclasses.dataclass(frozen=True)
class Chip(SliceDevice):
    """Of a TPU: it also knows where in the torus it stands."""

    coords: tuple[int, int, int] = (0, 0, 0)
    core_on_chip: int = 0
    platform: str = 'tpu'
    device_kind: str = 'TPU v5 lite'


def two_slices(each=8, **more):
    """In an order that mixes the slices."""
    order = [(n % 2, n // 2) for n in range(2 * each)]
    return [SliceDevice(id=i, process_index=s, slice_index=s, **more) for s, i in order]


def array_of(config, devices):
    """The devices of the mesh; `Mesh` itself would refuse fakes on some versions."""
    return np.asarray(build_mesh(config, devices).devices)


def slices_along(array, axis):
    """For each line of devices along an axis, the set of slices that it touches."""
    index = np.vectorize(lambda device: device.slice_index)(array)
    return {
        tuple(sorted(set(line)))
        for line in np.moveaxis(index, axis, -1).reshape(-1, array.shape[axis])
    }


def test_data_crosses_slices_and_every_other_axis_stays_inside_one():
    array = array_of(MeshConfig(data=-1, fsdp=2, tensor=2), two_slices())
    assert array.shape == (4, 2, 1, 2, 1)
    assert slices_along(array, 0) == {(0, 1)}
    assert slices_along(array, 1) == slices_along(array, 3) == {(0,), (1,)}
    assert len(set(array.flat)) == 16
    # The outer part of the axis crosses, so that neighbours are of one slice.
    assert [d.slice_index for d in array[:, 0, 0, 0, 0]] == [0, 0, 1, 1]


def test_fsdp_crosses_slices_where_that_is_asked_for():
    array = array_of(MeshConfig(data=1, fsdp=-1, dcn_data=1, dcn_fsdp=2), two_slices())
    assert array.shape == (1, 16, 1, 1, 1)
    assert [d.slice_index for d in array.flat] == [0] * 8 + [1] * 8
    both = [SliceDevice(id=i, slice_index=s) for s, i in itertools.product(range(4), range(4))]
    array = array_of(MeshConfig(data=2, fsdp=-1, dcn_fsdp=2), both)
    assert array.shape == (2, 8, 1, 1, 1)
    assert slices_along(array, 0) == {(0, 2), (1, 3)}
    assert slices_along(array, 1) == {(0, 1), (2, 3)}


@pytest.mark.parametrize(
    ('config', 'said'),
    [
        (MeshConfig(data=1, fsdp=-1), 'data = 1 cannot be spread over 2 slices'),
        (MeshConfig(data=3, tensor=-1, dcn_data=2), 'does not divide'),
        (MeshConfig(dcn_data=4), 'form 2 slices'),
        (MeshConfig(dcn_data=2, dcn_fsdp=2), 'form 2 slices'),
    ],
)
def test_axes_that_do_not_spread_over_the_slices_are_refused(config, said):
    with pytest.raises(UserError, match=said):
        build_mesh(config, two_slices())


def test_one_slice_has_nothing_to_cross():
    with pytest.raises(UserError, match='form 1 slice;'):
        build_mesh(MeshConfig(dcn_data=2))
    with pytest.raises(UserError, match='dcn_data, dcn_fsdp'):
        MeshConfig(dcn_data=-1, dcn_fsdp=-1)


def test_processes_are_slices_where_devices_say_nothing_and_the_configuration_does():
    devices = [Device(id=i, process_index=i % 2) for i in range(8)]
    plain = array_of(MeshConfig(), devices)
    assert [d.process_index for d in plain.flat] == [0] * 4 + [1] * 4
    array = array_of(MeshConfig(dcn_data=2), devices)
    assert [d.process_index for d in array.flat] == [0] * 4 + [1] * 4
    array = array_of(MeshConfig(data=1, fsdp=-1, dcn_data=1, dcn_fsdp=2), devices)
    assert [d.process_index for d in array.flat] == [0] * 4 + [1] * 4


def test_simulated_devices_keep_their_order():
    mesh = build_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    assert list(mesh.devices.flat) == jax.devices()


def test_neighbours_on_a_tpu_mesh_are_neighbours_in_its_torus():
    # 4 x 4 chips, numbered host by host (2 x 2 each): their order does not follow the torus.
    places = [
        (2 * hx + x, 2 * hy + y, 0)
        for hy in (0, 1)
        for hx in (0, 1)
        for y in (0, 1)
        for x in (0, 1)
    ]
    chips = [Chip(id=i, process_index=i // 4, coords=place) for i, place in enumerate(places)]
    array = array_of(MeshConfig(data=4, tensor=4), chips)
    assert array.shape == (4, 1, 1, 4, 1)
    for line in (*array[:, 0, 0, :, 0], *array[:, 0, 0, :, 0].T):
        for one, other in itertools.pairwise([device.coords for device in line]):
            assert sum(abs(a - b) for a, b in zip(one, other, strict=True)) == 1
    # A mesh that is no product of the torus' axes is laid out all the same.
    assert array_of(MeshConfig(data=2, tensor=8), chips).shape == (2, 1, 1, 8, 1)


@pytest.mark.parametrize(
    ('config', 'blocks'),
    [
        (MeshConfig(), [(0, 4), (1, 4), (2, 4), (3, 4)]),
        (MeshConfig(data=1, fsdp=16), [(0, 4), (1, 4), (2, 4), (3, 4)]),
        (MeshConfig(data=2, fsdp=4, tensor=2), [(0, 4), (1, 4), (2, 4), (3, 4)]),
        (MeshConfig(data=1, fsdp=2, tensor=8), [(0, 2), (0, 2), (1, 2), (1, 2)]),
    ],
)
def test_every_host_provides_rows_in_one_piece(config, blocks):
    # Chips of 2 x 2 on a host, numbered row by row of the torus, as real slices number them.
    places = [(x, y, 0) for y in range(4) for x in range(4)]
    chips = [
        Chip(id=i, process_index=2 * (y // 2) + x // 2, coords=(x, y, z))
        for i, (x, y, z) in enumerate(places)
    ]
    array = array_of(config, chips)
    assert sorted(d.id for d in array.flat) == list(range(16))
    assert sorted(row_block(array, process) for process in range(4)) == blocks
