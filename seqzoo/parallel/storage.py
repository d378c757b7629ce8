"""How parameters are stored: padded where the configuration says so, and split over a mesh.

A dimension that the mesh does not divide could only be stored whole on every device. That is
harmless for a bias and ruinous for a table of 50,257 rows, so it is refused from a small share of
the parameters on. A vocabulary can be stored padded to a multiple instead. How much is padded is
part of the configuration, never of the mesh, so that any mesh can read a checkpoint; and it is only
storage: counts, logits and exports speak of the true size, the padding starts at zero, and no
gradient reaches it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import meta
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqzoo.errors import ConfigError
from seqzoo.parallel.axes import DEFAULT_RULES, Rules, check_names, partition_spec

# Of all parameters, the share that may stay whole where rules say that it is split.
LEFT_WHOLE = 0.02

# The lane width of a TPU; it holds every power of two that a mesh axis is likely to have.
_VOCAB_MULTIPLE = 128

# What a user sets to change an axis.
_SETTINGS: dict[str | None, str] = {
    'embed': '--model.embed-dim',
    'heads': '--model.num-heads',
    'mlp': '--model.mlp-dim',
}


@flax.struct.dataclass
class Padded(nn.LogicallyPartitioned):
    """The box of a parameter that is stored larger than it is.

    Attributes:
        true_shape: without the padding, which fills the end of every dimension.
    """

    true_shape: tuple[int, ...] = flax.struct.field(pytree_node=False, default=())

    def add_axis(self, index: int, params: dict[Any, Any]) -> 'Padded':
        """Keeps the true shape when layers are stacked."""
        boxed: Any = super().add_axis(index, params)
        shape = list(self.true_shape)
        shape.insert(index, jnp.shape(self.value)[index])
        return boxed.replace(true_shape=tuple(shape))

    def remove_axis(self, index: int, params: dict[Any, Any]) -> 'Padded':
        """Keeps the true shape when layers are taken apart."""
        boxed: Any = super().remove_axis(index, params)
        shape = self.true_shape[:index] + self.true_shape[index + 1 :]
        return boxed.replace(true_shape=shape)


def padded(
    init: Callable[..., jax.Array], *names: str | None, axis: int, multiple: int
) -> Callable[..., Any]:
    """As `axes.named`, but the dimension `axis` is stored padded to a multiple of `multiple`.

    The numbers inside the true shape do not depend on the padding, which is zero. Whoever reads the
    parameter takes `without_padding` of it, and so keeps every gradient away from the padding.
    """
    check_names(names)

    def padded_init(key: jax.Array, shape: Sequence[int], *args: Any) -> Padded | Any:
        if len(shape) != len(names):
            raise ValueError(f'parameter of shape {tuple(shape)} was given the axis names {names}')
        value = init(key, shape, *args)
        filling = [(0, 0)] * len(shape)
        filling[axis] = (0, -shape[axis] % multiple)
        if filling[axis] == (0, 0):
            return nn.LogicallyPartitioned(value, names)
        return Padded(jnp.pad(value, filling), names, true_shape=tuple(shape))

    return padded_init


def without_padding(stored: Any, shape: Sequence[int]) -> Any:
    """The part of a stored array that has the true `shape`; all of it if nothing is padded."""
    if tuple(stored.shape) == tuple(shape):
        return stored
    return stored[tuple(slice(size) for size in shape)]


def true_shape(leaf: Any) -> tuple[int, ...]:
    """The shape of a parameter, in its box or out of it, without padding."""
    if isinstance(leaf, Padded):
        return leaf.true_shape
    return tuple(meta.unbox(leaf).shape)


def true_count(boxed: Any) -> int:
    """The number of parameters in boxes, of shapes or arrays, without padding."""
    return sum(math.prod(true_shape(leaf)) for leaf in jax.tree.leaves(boxed, is_leaf=_box))


def true_size(params: Any, boxed: Any) -> Any:
    """Parameters as everyone else knows them, without padding: what is exported.

    They are the parameters of the same configuration with `vocab_multiple=1`.

    Args:
        params: as stored, unboxed.
        boxed: of the same structure, in boxes; shapes will do
            (`analysis.parameters.abstract_parameters`).
    """
    return jax.tree.map(
        lambda leaf, stored: without_padding(stored, true_shape(leaf)), boxed, params, is_leaf=_box
    )


def stored_size(params: Any, boxed: Any) -> Any:
    """The inverse of `true_size`: parameters from elsewhere, padded with zeros as stored here.

    Raises:
        ValueError: an array has neither the stored nor the true shape.
    """

    def pad(leaf: Any, array: Any) -> Any:
        stored = tuple(meta.unbox(leaf).shape)
        if tuple(array.shape) not in (stored, true_shape(leaf)):
            raise ValueError(f'an array of {array.shape} is none of {true_shape(leaf)}')
        return jnp.pad(array, [(0, n - m) for n, m in zip(stored, array.shape, strict=True)])

    return jax.tree.map(pad, boxed, params, is_leaf=_box)


def shardings_of(boxed: Any, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Any:
    """One `NamedSharding` per leaf of an abstract `init` result whose parameters carry axis names.

    A dimension that the mesh does not divide stays whole, if at most 2 % of the parameters are
    concerned.

    Raises:
        ConfigError: more are; it names the largest, and what to change.
    """
    left: list[_Whole] = []
    total = 0

    def place(path: Any, leaf: Any) -> NamedSharding:
        nonlocal total
        total += math.prod(meta.unbox(leaf).shape)
        if not isinstance(leaf, nn.LogicallyPartitioned):
            return NamedSharding(mesh, PartitionSpec())
        kept: list[Any] = list(partition_spec(leaf.names, rules, mesh))
        for axis, entry in enumerate(kept):
            split = (entry,) if isinstance(entry, str) else tuple(entry or ())
            if leaf.value.shape[axis] % math.prod(mesh.shape[a] for a in split):
                kept[axis] = None
                left.append(_Whole('/'.join(str(key.key) for key in path), leaf, axis, split))
        return NamedSharding(mesh, PartitionSpec(*kept))

    placed = jax.tree_util.tree_map_with_path(place, boxed, is_leaf=_box)
    if _count(left) > LEFT_WHOLE * total:
        raise ConfigError(_refusal(left, total, mesh))
    return placed


@dataclass(frozen=True)
class _Whole:
    """A dimension that rules split and the mesh does not divide.

    Attributes:
        path: of the parameter.
        leaf: in its box.
        axis: which dimension.
        split: the mesh axes that the rules name.
    """

    path: str
    leaf: nn.LogicallyPartitioned
    axis: int
    split: tuple[str, ...]

    @property
    def name(self) -> str | None:
        return self.leaf.names[self.axis]

    @property
    def count(self) -> int:
        return math.prod(self.leaf.value.shape)

    @property
    def size(self) -> int:
        return self.leaf.value.shape[self.axis]


def _count(left: list[_Whole]) -> int:
    return sum({whole.path: whole.count for whole in left}.values())


def _refusal(left: list[_Whole], total: int, mesh: Mesh) -> str:
    others = [whole for whole in left if whole.name != 'vocab']
    padding_helps = _count(others) <= LEFT_WHOLE * total
    worst = max(left if padding_helps else others, key=lambda whole: whole.count)
    ways = math.prod(mesh.shape[a] for a in worst.split)
    remedies = []
    if padding_helps:
        remedies.append(f'--model.vocab-multiple {math.lcm(_VOCAB_MULTIPLE, ways)}')
    if len(worst.split) == 1:
        # What divides the axis leaves the other devices to `data`; it must divide all sizes.
        works = math.gcd(ways, *(w.size for w in left if w.split == worst.split))
        remedies.append(f'--mesh.{worst.split[0]} {works} and --mesh.data -1')
    if not padding_helps:
        remedies.append(f'{_SETTINGS.get(worst.name, "the size")} to a multiple of {ways}')
    mesh_axes = ' x '.join(f'mesh.{a} {mesh.shape[a]}' for a in worst.split)
    shape = ' x '.join(f'{size:,}' for size in true_shape(worst.leaf))
    return (
        f"{mesh_axes} does not divide {worst.size:,}, the axis '{worst.name}' of {worst.path} "
        f'({shape}), and {_count(left) / total:.0%} of the parameters would stay whole on every '
        f'device; set {", or ".join(remedies)}.'
    )


def _box(x: Any) -> bool:
    return isinstance(x, meta.AxisMetadata)
