"""Which tensor of theirs holds which parameters of ours, in both directions.

A `Link` says it for one tensor, with the names of the axes:

    Link('layers.{}.attn.q.weight', ('stack/query/kernel',), '(heads kv) embed -> embed heads kv')

On the left their axes, those that are merged into one in brackets; on the right ours. `parts` on
the left stands for several parameters of ours side by side in one tensor, and `1` for an axis of
size one that ours has not. `{}` in a name is the number of the layer: ours are stacked, and fill
slice by slice.
"""

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Sizes = Mapping[str, int]  # of the axes, by name


@dataclass(frozen=True)
class Link:
    """One tensor of theirs, or one a layer, and the parameters that hold the same numbers.

    Attributes:
        name: of theirs; `{}` is the number of the layer.
        paths: of ours, as `'encoder/layer/up/kernel'`; several where their tensor has `parts`.
        pattern: axes of theirs and of ours.
        layers: how many tensors there are, one a layer; `None`: one, of parameters not stacked.
    """

    name: str
    paths: tuple[str, ...]
    pattern: str
    layers: int | None = None

    @property
    def names(self) -> Iterator[tuple[str, int | None]]:
        """Names of the tensors, each with the number of its layer."""
        if self.layers is None:
            yield self.name, None
        else:
            yield from ((self.name.format(layer), layer) for layer in range(self.layers))


@dataclass(frozen=True)
class _Axes:
    """A pattern, taken apart for given sizes."""

    theirs: tuple[int, ...]  # the shape of their tensor
    apart: tuple[int, ...]  # the same with no axes merged
    order: tuple[int, ...]  # where our axes stand in `apart`, `parts` first
    ours: tuple[int, ...]  # the shape of one parameter of one layer
    has_parts: bool


@functools.lru_cache(maxsize=512)
def _axes(pattern: str, parts: int, sizes: tuple[tuple[str, int], ...]) -> _Axes:
    left, right = (side.strip() for side in pattern.split('->'))
    size = {**dict(sizes), 'parts': parts, '1': 1}
    merged = [group.strip('()').split() for group in re.findall(r'\([^)]*\)|\S+', left)]
    flat = [axis for group in merged for axis in group if axis != '1']
    ours = right.split()
    order = [axis for axis in ('parts', *ours) if axis != 'parts' or 'parts' in flat]
    assert sorted(order) == sorted(flat), f'{pattern!r} loses an axis'
    assert ('parts' in flat) == (parts > 1), f'{pattern!r} for {parts} parameters'
    return _Axes(
        tuple(math.prod(size[axis] for axis in group) for group in merged),
        tuple(size[axis] for axis in flat),
        tuple(flat.index(axis) for axis in order),
        tuple(size[axis] for axis in ours),
        'parts' in flat,
    )


def _of(link: Link, sizes: Sizes) -> _Axes:
    return _axes(link.pattern, len(link.paths), tuple(sorted(sizes.items())))


def their_shapes(links: Sequence[Link], sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of theirs, by name."""
    return {name: _of(link, sizes).theirs for link in links for name, _ in link.names}


def our_shapes(links: Sequence[Link], sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of ours, stacked and without padding, by path."""
    return {
        path: (() if link.layers is None else (link.layers,)) + _of(link, sizes).ours
        for link in links
        for path in link.paths
    }


def fill(
    ours: Mapping[str, np.ndarray],
    links: Sequence[Link],
    sizes: Sizes,
    read: Callable[[str], np.ndarray],
) -> None:
    """Writes their tensors into arrays of ours, one tensor at a time.

    Args:
        ours: by path; zeros, and perhaps larger than needed (the padding stays as it is).
        links: between the two.
        sizes: of the axes.
        read: gives a tensor of theirs by its name.
    """
    for link in links:
        axes = _of(link, sizes)
        for name, layer in link.names:
            array = read(name).reshape(axes.apart).transpose(axes.order)
            for number, path in enumerate(link.paths):
                room = ours[path] if layer is None else ours[path][layer]
                room[_within(axes.ours)] = array[number] if axes.has_parts else array


def their_tensor(
    ours: Mapping[str, np.ndarray], links: Sequence[Link], sizes: Sizes
) -> Callable[[str], np.ndarray]:
    """A function that gives a tensor of theirs by its name, made of the parameters of ours."""
    found = {name: (link, layer) for link in links for name, layer in link.names}

    def tensor(name: str) -> np.ndarray:
        link, layer = found[name]
        axes = _of(link, sizes)
        parts = [ours[path] if layer is None else ours[path][layer] for path in link.paths]
        parts = [np.asarray(part)[_within(axes.ours)] for part in parts]
        array = np.stack(parts) if axes.has_parts else parts[0]
        return array.transpose(np.argsort(axes.order)).reshape(axes.theirs)

    return tensor


def flat(tree: Any, prefix: str = '') -> dict[str, Any]:
    """The leaves of nested dicts by path."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    return {
        path: leaf
        for name, inner in tree.items()
        for path, leaf in flat(inner, f'{prefix}/{name}' if prefix else name).items()
    }


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flat`."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *folders, name = path.split('/')
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[name] = leaf
    return tree


def _within(shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(size) for size in shape)
