"""What a model to be fine-tuned shares with a trained one: the backbone below the heads.

Both models say where in their parameters it stands (`ModelConfig.backbone`). Parameters of the same
name in it are taken over; the others, and the heads, start as they would have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from flax import traverse_util
from flax.core import meta

from seqzoo.configuration import differences
from seqzoo.errors import UserError
from seqzoo.models.base import ModelConfig

Name = tuple[str, ...]

# Fields that change nothing about what parameters mean.
_FREE = ('dtype', 'scan_layers', 'remat', 'remat_steps', 'unroll', 'attention_implementation')
_OF_THE_START = ('init_scale', 'init_std', 'residual_init_std', 'pooler')


@dataclass(frozen=True)
class Overlap:
    """Which parameters are taken over.

    Attributes:
        source, target: where the backbone stands in the other model, and in this one.
        names: of the parameters that both have, within it.
        loaded, new, left_there: what is taken, what starts anew, and what only the other model has,
            by the names of modules.
    """

    source: Name
    target: Name
    names: tuple[Name, ...]
    loaded: tuple[str, ...]
    new: tuple[str, ...]
    left_there: tuple[str, ...]


def overlap_of(other: ModelConfig, own: ModelConfig, said: str) -> Overlap:
    """What `own` can take over from `other`.

    Args:
        other: the configuration of the trained model, with its sizes.
        own: that of the model to be trained.
        said: the option that asked for it, for messages.

    Raises:
        UserError: the backbones are not alike.
    """
    _refuse_other_backbone(other, own, said)
    theirs, ours = _shapes(other), _shapes(own)
    below = _within(theirs, other.backbone), _within(ours, own.backbone)
    shared = [name for name in below[1] if name in below[0]]
    if not shared:
        raise UserError(
            f'{said}: its model and this one have no parameter in common; take a run whose model '
            'differs by its head alone.'
        )
    misshapen = [
        f'{_joined((*own.backbone, *name))} is {below[0][name]} there and {below[1][name]} here'
        for name in shared
        if below[0][name] != below[1][name]
    ]
    if misshapen:
        more = f' and {len(misshapen) - 3} more' if len(misshapen) > 3 else ''
        raise UserError(
            f'{said}: {"; ".join(misshapen[:3])}{more}; give this model the sizes of that one.'
        )
    loaded = {(*own.backbone, *name) for name in shared}
    left = {(*other.backbone, *name) for name in shared}
    return Overlap(
        source=other.backbone,
        target=own.backbone,
        names=tuple(shared),
        loaded=_modules(loaded, own.backbone),
        new=_modules(set(ours) - loaded, own.backbone),
        left_there=_modules(set(theirs) - left, other.backbone),
    )


def taken(params: Any, overlap: Overlap) -> Any:
    """The parameters of this model that are to be read, in the tree of the other one."""
    flat: Any = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict(
        {(*overlap.source, *name): flat[(*overlap.target, *name)] for name in overlap.names}
    )


def placed(params: Any, read: Any, overlap: Overlap) -> Any:
    """The parameters of this model with what was read of the other one."""
    flat: Any = traverse_util.flatten_dict(params)
    found: Any = traverse_util.flatten_dict(read)
    for name in overlap.names:
        flat[(*overlap.target, *name)] = found[(*overlap.source, *name)]
    return traverse_util.unflatten_dict(flat)


def _refuse_other_backbone(other: ModelConfig, own: ModelConfig, said: str) -> None:
    where = '.'.join(('model', *own.backbone))
    found = [
        difference
        for difference in differences(_config(other), _config(own), where)
        if not _may_differ(difference.path.rpartition('.')[2])
    ]
    if not found:
        return
    if any(difference.path == where for difference in found):
        kinds = [type(_config(model)).__name__.removesuffix('Config') for model in (other, own)]
        raise UserError(
            f'{said}: it holds a {kinds[0]} below its head, and this model a {kinds[1]}; take a '
            'run whose model differs by its head alone.'
        )
    options = ' '.join(
        f'--{d.path.replace("_", "-")} {"none" if d.left is None else d.left}' for d in found
    )
    raise UserError(
        f'{said}: its model is another one below the head ({"; ".join(map(str, found))}); set '
        f'{options}.'
    )


def _config(model: ModelConfig) -> ModelConfig:
    """The configuration of the backbone, to which the path of its parameters leads too."""
    for name in model.backbone:
        model = getattr(model, name)
    return model


def _may_differ(field: str) -> bool:
    return field in (*_FREE, *_OF_THE_START) or field.endswith(('dropout_rate', 'drop_rate'))


def _shapes(model: ModelConfig) -> dict[Name, tuple[int, ...]]:
    made = jax.eval_shape(model.build().init, jax.random.key(0), *model.example_inputs())
    params: Any = traverse_util.flatten_dict(meta.unbox(made)['params'])
    return {name: tuple(leaf.shape) for name, leaf in params.items()}


def _within(shapes: Mapping[Name, tuple[int, ...]], path: Name) -> dict[Name, tuple[int, ...]]:
    return {n[len(path) :]: shape for n, shape in shapes.items() if n[: len(path)] == path}


def _modules(names: set[Name], backbone: Name) -> tuple[str, ...]:
    """The names of modules: one level below the backbone, and the first level elsewhere."""

    def module(name: Name) -> Sequence[str]:
        inside = name[: len(backbone)] == backbone
        return name[: len(backbone) + 1] if inside else name[:1]

    return tuple(sorted({_joined(module(name)) for name in names}))


def _joined(name: Sequence[str]) -> str:
    return '/'.join(name)
