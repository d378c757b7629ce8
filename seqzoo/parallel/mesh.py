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
    if math.prod(slices) == 1:
        return mesh_utils.create_device_mesh(sizes, devices, **options)
    return mesh_utils.create_hybrid_device_mesh(
        [size // n for size, n in zip(sizes, slices, strict=True)],
        slices,
        devices,
        process_is_granule=len({getattr(d, 'slice_index', 0) for d in devices}) == 1,
        **options,
    )


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
