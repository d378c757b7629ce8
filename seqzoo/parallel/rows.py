"""Which rows of a batch a process provides."""

from dataclasses import dataclass

import jax
from jax.sharding import Mesh

from seqzoo.errors import UserError
from seqzoo.parallel.mesh import BATCH_AXES, row_block


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
    over = [mesh.axis_names.index(axis) for axis in axes if axis in mesh.axis_names]
    found = row_block(mesh.devices, jax.process_index(), over)
    if found is None:
        raise UserError(
            'the rows of a batch that the devices of this process hold do not stand together in '
            f'the mesh {dict(mesh.shape)}; choose sizes whose inner axes fit the devices of a '
            'process'
        )
    return RowShare(*found)
