"""Which rows of a batch a process provides."""

from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh

from seqzoo.errors import UserError
from seqzoo.parallel.mesh import BATCH_AXES


@dataclass(frozen=True)
class RowShare:
    """Which part of the rows of a batch this process provides.

    Attributes:
        index: The part.
        count: How many parts there are; processes that hold the same rows provide the same part.
    """

    index: int
    count: int


def row_share(mesh: Mesh, axes: tuple[str, ...] = BATCH_AXES) -> RowShare:
    """The part of a batch whose rows this process's devices hold.

    Where an axis other than those of the rows crosses processes, several of them hold the same.

    Raises:
        UserError: the devices of a process do not stand together in the mesh.
    """
    order = [mesh.axis_names.index(axis) for axis in axes if axis in mesh.axis_names]
    rest = [i for i in range(mesh.devices.ndim) if i not in order]
    grid = np.transpose(mesh.devices, order + rest)
    grid = grid.reshape(int(np.prod([mesh.devices.shape[i] for i in order])), -1)
    me = jax.process_index()
    mine = [i for i, row in enumerate(grid) if any(d.process_index == me for d in row)]
    size = len(mine)
    together_ = bool(mine) and mine[-1] - mine[0] == size - 1 and mine[0] % size == 0
    if not together_ or len(grid) % size:
        raise UserError(
            'the rows of a batch that the devices of this process hold do not stand together in '
            f'the mesh {dict(mesh.shape)}; choose sizes whose inner axes fit the devices of a '
            'process'
        )
    return RowShare(mine[0] // size, len(grid) // size)
