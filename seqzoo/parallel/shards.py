"""Programs that run on each device's own part of some arrays: fused kernels, and rings.

The partitioner cannot cut a kernel, and does not invent a ring. Such code says how its arrays are
named and runs under `shard_map`; this is the one place that reads the current layout for it, and
that notices when axes are already manual (inside the strategies `shard_map` and `pmap`).
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import jax
from jax.sharding import PartitionSpec

from seqzoo.parallel import axes

Names = tuple[str | None, ...]


@dataclass(frozen=True)
class Place:
    """Which part of the whole arrays a device holds.

    Attributes:
        mesh_axes: for each name that is split, the mesh axes that it is split over.
        ways: into how many parts.
    """

    mesh_axes: Mapping[str, tuple[str, ...]]
    ways: Mapping[str, int]

    def offset(self, name: str, size: int) -> jax.Array | int:
        """Where this device's `size` entries of a dimension called `name` begin in the whole."""
        split = self.mesh_axes.get(name)
        return jax.lax.axis_index(split) * size if split else 0


def ways(name: str) -> int:
    """Into how many parts the current layout splits a dimension called `name`."""
    layout = axes.current_layout()
    if layout is None or layout.mesh is None:
        return 1
    return math.prod(layout.mesh.shape[a] for a in _allocate((name,), layout, _manual())[name])


@contextlib.contextmanager
def whole(*names: str) -> Iterator[None]:
    """Inside, no dimension of these names is split: the length of one token, for example."""
    layout = axes.current_layout()
    if layout is None:
        yield
        return
    rules = tuple(rule for rule in layout.rules if rule[0] not in names)
    with axes.axis_rules(layout.mesh, rules, manual=layout.manual):
        yield


def per_device(
    function: Callable[..., jax.Array],
    arrays: Mapping[str, jax.Array | None],
    names: Mapping[str, Names],
    result: Names,
) -> jax.Array:
    """`function(place, **arrays)`, every device with its own part of the arrays.

    Called at once with whole arrays on one device, outside any layout, and where every axis is
    manual already: there each array is a device's own part.

    Args:
        function: sees local arrays; collectives over `place.mesh_axes` are allowed.
        arrays: by keyword; `None` is left out.
        names: axis names of each array. `None` is a dimension that every device has in full; so is
            one of size 1 (broadcast), and every dimension of a name that the mesh does not divide.
        result: axis names of the result.
    """
    given = {key: array for key, array in arrays.items() if array is not None}
    layout, manual = axes.current_layout(), _manual()
    here = Place({}, {})
    if layout is None or layout.mesh is None:
        return function(here, **given)
    shape = layout.mesh.shape
    if all(size == 1 or axis in manual for axis, size in shape.items()):
        return function(here, **given)

    order = [*result, *(name for key in given for name in names[key])]
    allocated = _allocate(tuple(dict.fromkeys(n for n in order if n is not None)), layout, manual)
    split = {
        name: mesh_axes
        for name, mesh_axes in allocated.items()
        if mesh_axes and _divides(math.prod(shape[a] for a in mesh_axes), name, given, names)
    }
    place = Place(split, {name: math.prod(shape[a] for a in split[name]) for name in split})

    def spec(key: str) -> PartitionSpec:
        sizes = given[key].shape
        return PartitionSpec(
            *(
                split.get(name) if name is not None and size > 1 else None
                for name, size in zip(names[key], sizes, strict=True)
            )
        )

    def local(parts: dict[str, jax.Array]) -> jax.Array:
        with axes.axis_rules(None, layout.rules):
            return function(place, **parts)

    # Where some axes are manual already, the mesh must be the one of that context.
    mesh = jax.sharding.get_abstract_mesh() if manual else layout.mesh
    run = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=({key: spec(key) for key in given},),
        out_specs=PartitionSpec(*(split.get(n) if n is not None else None for n in result)),
        axis_names=frozenset(shape) - manual,
        check_vma=False,
    )
    return run(given)


def _manual() -> frozenset[str]:
    """The mesh axes over which the code being traced is already written for one device."""
    return frozenset(jax.sharding.get_abstract_mesh().manual_axes)


def _allocate(
    names: Sequence[str], layout: axes.Layout, manual: frozenset[str]
) -> dict[str, tuple[str, ...]]:
    assert layout.mesh is not None
    spec = axes.partition_spec(names, layout.rules, layout.mesh)
    found = {}
    for name, entry in zip(names, spec, strict=True):
        wanted = (entry,) if isinstance(entry, str) else (entry or ())
        found[name] = tuple(a for a in wanted if a not in manual)
    return found


def _divides(
    ways: int, name: str, arrays: Mapping[str, jax.Array], names: Mapping[str, Names]
) -> bool:
    sizes = {
        size
        for key, array in arrays.items()
        for size, own in zip(array.shape, names[key], strict=True)
        if own == name
    }
    return max(sizes) > 1 and all(size % ways == 0 for size in sizes - {1})
