"""Meshes, and where every array of a run lives on one.

Data parallel, fully sharded, tensor and sequence parallel training differ only in the shape of the
mesh: an axis of size 1 vanishes from every sharding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from seqzoo.errors import UserError
from seqzoo.parallel.axes import DEFAULT_RULES, Rules, partition_spec

BATCH_AXES = ('data', 'fsdp')


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How many devices stand along each axis of the mesh; one of them may be -1, "all that are
    left".

    Attributes:
        data: replicas that split the batch and hold whole parameters.
        fsdp: replicas that split the batch and the parameters.
        tensor: devices that split heads, hidden widths and the vocabulary.
        sequence: devices that split the length of a sequence.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    sequence: int = 1

    def __post_init__(self) -> None:
        sizes = [getattr(self, f.name) for f in fields(self)]
        if any(s == 0 or s < -1 for s in sizes) or sizes.count(-1) > 1:
            raise UserError(f'mesh: sizes must be positive and at most one may be -1, not {sizes}.')


def build_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with `Auto` axes over all devices, in the order data, fsdp, tensor, sequence.

    Raises:
        UserError: the sizes do not multiply to the number of devices.
    """
    found = list(jax.devices() if devices is None else devices)
    names = tuple(f.name for f in fields(config))
    sizes = [getattr(config, name) for name in names]
    fixed = math.prod(s for s in sizes if s != -1)
    if -1 in sizes:
        if len(found) % fixed:
            raise UserError(
                f'mesh: {fixed} does not divide the {len(found)} devices; change the mesh sizes.'
            )
        sizes[sizes.index(-1)] = len(found) // fixed
    elif fixed != len(found):
        shape = ' x '.join(map(str, sizes))
        raise UserError(
            f'mesh: {shape} needs {fixed} devices, but there are {len(found)}; set one size to -1.'
        )
    array = np.asarray(found).reshape(sizes)
    return Mesh(array, names, axis_types=(AxisType.Auto,) * len(names))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def rows_sharding(mesh: Mesh) -> NamedSharding:
    """The first dimension, rows of a batch, is split over the data and fsdp axes."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def row_shards(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are split."""
    return math.prod(mesh.shape[a] for a in BATCH_AXES)


def shardings_of(boxed: Any, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Any:
    """One `NamedSharding` per leaf of an abstract `init` result whose parameters carry axis names.

    A dimension that the mesh does not divide stays whole.
    """

    def place(leaf: Any) -> NamedSharding:
        if not isinstance(leaf, nn.LogicallyPartitioned):
            return replicated(mesh)
        spec = partition_spec(leaf.names, rules, mesh)
        kept = [
            axes if size % _ways(axes, mesh) == 0 else None
            for size, axes in zip(leaf.value.shape, spec, strict=True)
        ]
        return NamedSharding(mesh, PartitionSpec(*kept))

    return jax.tree.map(place, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))


def _ways(axes: str | tuple[str, ...] | None, mesh: Mesh) -> int:
    names = (axes,) if isinstance(axes, str) else (axes or ())
    return math.prod(mesh.shape[a] for a in names)


def put_rows(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Moves this process's rows of a batch to its devices, as rows of global arrays."""
    sharding = rows_sharding(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}
