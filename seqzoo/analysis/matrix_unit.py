"""Widths that leave part of a TPU's matrix unit idle.

A matrix product runs in tiles of 128 columns, and an array lies in tiles of 8 rows of 128 numbers
(16 rows of half the size): what is narrower is filled up with zeros, computed and stored like
everything else.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from flax.core import meta

from seqzoo.analysis.parameters import abstract_parameters
from seqzoo.models.base import ModelConfig

COLUMNS, ROWS = 128, 8
_WIDTHS = ('embed', 'mlp', 'hidden', 'vocab', 'channels_in', 'channels_out', 'experts')
_WORTH_SAYING = 0.05


@dataclass(frozen=True)
class Waste:
    """A size that does not fill its tiles.

    Attributes:
        what: the axis, by its name.
        size: on one device.
        tile: a multiple of this would be full.
        share: of the work in tiles, what is filling, 0 to 1.
    """

    what: str
    size: int
    tile: int
    share: float

    @property
    def sentence(self) -> str:
        """For people."""
        return (
            f'{self.what} is {self.size} on each device and fills {1 - self.share:.0%} of its '
            f'tiles of {self.tile}'
        )


def idle_share(size: int, tile: int) -> float:
    """The part of whole tiles that `size` leaves empty."""
    return 1 - size / (math.ceil(size / tile) * tile)


def wasted(
    model: ModelConfig, ways: Mapping[str, int], *, rows: int, length: int, is_recurrent: bool
) -> list[Waste]:
    """The sizes of a model and its batch that waste more than a little, each once.

    Args:
        model: every size filled in.
        ways: into how many parts the devices split an axis, by its name; 1 where it has none.
        rows: of the batch on one device.
        length: of its rows on one device.
        is_recurrent: whether products run over the rows of one step, not over whole sequences.
    """
    sizes = {(name, size, COLUMNS) for name, size in _columns(model, ways)}
    sizes.add(('rows', rows, ROWS) if is_recurrent else ('length', length, ROWS))
    found = [Waste(name, size, tile, idle_share(size, tile)) for name, size, tile in sizes]
    return sorted((w for w in found if w.share > _WORTH_SAYING), key=lambda w: (-w.share, w.what))


def _columns(model: ModelConfig, ways: Mapping[str, int]) -> set[tuple[str, int]]:
    """What stands along the columns of products: widths, heads side by side, one head."""
    found: set[tuple[str, int]] = set()
    leaves = _boxed(model)
    for box in leaves:
        shape: tuple[int, ...] = meta.unbox(box).shape
        names: tuple[str | None, ...] = getattr(box, 'names', ())
        local: dict[str, int] = {
            n: s // ways.get(n, 1) for n, s in zip(names, shape, strict=False) if n
        }
        if len(shape) - ('layers' in local) < 2:
            continue  # a vector is in no product
        found |= {(name, local[name]) for name in _WIDTHS if local.get(name, 1) > 1}
        if 'heads' in local and 'kv' in local:
            found |= {('heads x kv', local['heads'] * local['kv']), ('kv', local['kv'])}
    return found


def _boxed(model: ModelConfig) -> list[meta.AxisMetadata]:
    import jax

    def is_box(x: object) -> bool:
        return isinstance(x, meta.AxisMetadata)

    leaves = jax.tree.leaves(abstract_parameters(model), is_leaf=is_box)
    return [leaf for leaf in leaves if is_box(leaf)]
