"""Meshes, and where every array of a run lives on one.

Data parallel, fully sharded, expert, tensor and sequence parallel training differ only in the shape
of the mesh: an axis of size 1 vanishes from every sharding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from seqzoo.errors import UserError
from seqzoo.parallel.storage import shardings_of as shardings_of  # it is offered here too

MESH_AXES = ('data', 'fsdp', 'expert', 'tensor', 'sequence')
BATCH_AXES = ('data', 'fsdp', 'expert')


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How many devices stand along each axis of the mesh; one of them may be -1, "all that are
    left".

    Attributes:
        data: replicas that split the batch and hold whole parameters.
        fsdp: replicas that split the batch and the parameters.
        expert: replicas that split the batch and the experts of a mixture; tokens go to the device
            of their expert and come back, and what is no expert they hold whole.
        tensor: devices that split heads, hidden widths and the vocabulary.
        sequence: devices that split the length of a sequence.
        dcn_data, dcn_fsdp: over how many slices those replicas are spread, where several slices
            (or hosts) are joined by a slower network; the other axes stay within a slice. -1: as
            many slices as there are.
    """

    data: int = -1
    fsdp: int = 1
    expert: int = 1
    tensor: int = 1
    sequence: int = 1
    dcn_data: int = -1
    dcn_fsdp: int = 1

    def __post_init__(self) -> None:
        for names in (MESH_AXES, ('dcn_data', 'dcn_fsdp')):
            sizes = [getattr(self, name) for name in names]
            if any(s == 0 or s < -1 for s in sizes) or sizes.count(-1) > 1:
                raise UserError(
                    f'mesh: sizes must be positive and at most one may be -1, but '
                    f'{", ".join(names)} are {sizes}.'
                )


def build_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with `Auto` axes over all devices, in the order of `MESH_AXES`.

    On TPU neighbours on the mesh are neighbours in the machine. Axes are as large as the
    configuration says, whether or not they cross slices; what crosses is the outer part of `data`
    and `fsdp`.

    Raises:
        UserError: the sizes do not multiply to the number of devices, or do not spread evenly over
            the slices.
    """
    found = list(jax.devices() if devices is None else devices)
    sizes = _fill([getattr(config, name) for name in MESH_AXES], len(found))
    array = _arrange(found, sizes, _over_slices(config, sizes, found))
    return Mesh(array, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def _fill(sizes: list[int], count: int) -> list[int]:
    """The sizes with -1 replaced, so that they multiply to `count`."""
    fixed = math.prod(s for s in sizes if s != -1)
    if -1 in sizes:
        if count % fixed:
            raise UserError(
                f'mesh: {fixed} does not divide the {count} devices; change the mesh sizes.'
            )
        return [count // fixed if s == -1 else s for s in sizes]
    if fixed != count:
        shape = ' x '.join(map(str, sizes))
        raise UserError(
            f'mesh: {shape} needs {fixed} devices, but there are {count}; set one size to -1.'
        )
    return sizes


def _over_slices(config: MeshConfig, sizes: list[int], devices: list[Any]) -> list[int]:
    """Over how many slices each axis is spread.

    A slice is what the devices say (`slice_index`). Where they say nothing, the devices of a
    process are one if the configuration asks for as many as there are processes.
    """
    asked = (config.dcn_data, config.dcn_fsdp)
    count = len({getattr(device, 'slice_index', 0) for device in devices})
    if count == 1 and abs(math.prod(asked)) == len({device.process_index for device in devices}):
        count = abs(math.prod(asked))
    data, fsdp = (count // -math.prod(asked) if n == -1 else n for n in asked)
    if data * fsdp != count:
        raise UserError(
            f'mesh: dcn_data x dcn_fsdp is {data} x {fsdp}, but the devices form {count} '
            f'slice{"s" if count > 1 else ""}; let their product be {count}.'
        )
    for name, size, slices in zip(('data', 'fsdp'), sizes, (data, fsdp), strict=False):
        if size % slices:
            raise UserError(
                f'mesh: {name} = {size} cannot be spread over {slices} slices; make it a multiple '
                f'of {slices}, or say with --mesh.dcn-data and --mesh.dcn-fsdp which axis crosses '
                'slices.'
            )
    return [data, fsdp, *[1] * (len(MESH_AXES) - 2)]


def _arrange(devices: list[Any], sizes: list[int], slices: list[int]) -> np.ndarray:
    """The devices in the shape of the mesh, close ones beside each other."""
    # Where the mesh is no product of the torus' axes, a torus axis may be cut.
    options = {'allow_split_physical_axes': True}
    if math.prod(slices) > 1:
        return mesh_utils.create_hybrid_device_mesh(
            [size // n for size, n in zip(sizes, slices, strict=True)],
            slices,
            devices,
            process_is_granule=len({getattr(d, 'slice_index', 0) for d in devices}) == 1,
            **options,
        )
    array = mesh_utils.create_device_mesh(sizes, devices, **options)
    # A way through the torus may visit a host twice, but a host provides rows in one piece.
    if any(row_block(array, device.process_index) is None for device in devices):
        by_host = _host_by_host(devices, sizes)
        array = array if by_host is None else by_host
    return array


def _host_by_host(devices: list[Any], sizes: list[int]) -> np.ndarray | None:
    """The devices of each process as one block of the mesh, or `None` where they do not fill it."""
    groups: dict[int, list[Any]] = {}
    for device in devices:
        groups.setdefault(device.process_index, []).append(device)
    left, hosts = len(groups), []
    for size in sizes:
        hosts.append(math.gcd(size, left))
        left //= hosts[-1]
    if left > 1 or len({len(group) for group in groups.values()}) > 1:
        return None
    ordered = np.empty(len(devices), object)
    ordered[:] = [device for _, group in sorted(groups.items()) for device in group]
    inner = [size // n for size, n in zip(sizes, hosts, strict=True)]
    # [hosts of each axis, devices of each axis] -> both together, axis by axis
    axes = [axis for i in range(len(sizes)) for axis in (i, i + len(sizes))]
    array = ordered.reshape(*hosts, *inner).transpose(axes).reshape(sizes)
    return None if any(row_block(array, process) is None for process in groups) else array


def row_block(
    devices: np.ndarray, process: int, axes: Sequence[int] = ()
) -> tuple[int, int] | None:
    """Which block of the rows of a batch a process holds, of how many.

    Args:
        devices: of a mesh; without `axes` in the order of `MESH_AXES`.
        process: its index.
        axes: the dimensions over which rows are split.

    Returns:
        Number and count of the block, or `None` where its rows do not stand together.
    """
    over = list(axes) or [MESH_AXES.index(axis) for axis in BATCH_AXES]
    rest = [i for i in range(devices.ndim) if i not in over]
    grid = np.transpose(devices, over + rest)
    grid = grid.reshape(math.prod(devices.shape[i] for i in over), -1)
    held = [i for i, row in enumerate(grid) if any(d.process_index == process for d in row)]
    size = len(held)
    if not held or held[-1] - held[0] != size - 1 or held[0] % size or len(grid) % size:
        return None
    return held[0] // size, len(grid) // size


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def rows_sharding(mesh: Mesh) -> NamedSharding:
    """The first dimension, rows of a batch, is split over those of `BATCH_AXES` that there are."""
    return NamedSharding(mesh, PartitionSpec(tuple(a for a in BATCH_AXES if a in mesh.shape)))


def row_shards(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are split."""
    return math.prod(mesh.shape.get(a, 1) for a in BATCH_AXES)


def put_rows(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Moves this process's rows of a batch to its devices, as rows of global arrays."""
    sharding = rows_sharding(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}
