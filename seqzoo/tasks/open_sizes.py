"""Sizes that a model's configuration leaves to the data, wherever they stand inside it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from seqzoo.errors import UserError
from seqzoo.models.base import ModelConfig


def fill_open(
    model: ModelConfig, sizes: Mapping[str, int], *, because: str, keep: bool = False
) -> ModelConfig:
    """The configuration with the fields called `sizes` filled in, at any depth.

    Args:
        model: fields that are `None` are open; one that is not must agree.
        sizes: values by the names of fields.
        because: what has these sizes, for messages: `'the data'`.
        keep: a field that states another size keeps it; for what is only nominal.

    Raises:
        UserError: a field states another size, or the model has no such field.
    """
    filled, found = _fill(model, sizes, 'model', because, keep)
    for name in (name for name in sizes if name not in found):
        raise UserError(
            f'{because} has {name} {sizes[name]}, but {type(model).__name__} and what is inside it '
            f'have no {name}; take a model that reads such data.'
        )
    assert isinstance(filled, ModelConfig)
    return filled


def _fill(
    config: Any, sizes: Mapping[str, int], path: str, because: str, keep: bool
) -> tuple[Any, set[str]]:
    changes: dict[str, Any] = {}
    found: set[str] = set()
    for field in dataclasses.fields(config):
        value, where = getattr(config, field.name), f'{path}.{field.name}'
        if field.name in sizes:
            size = value if keep and value is not None else sizes[field.name]
            if value not in (None, size):
                raise UserError(f'{where} is {value}, but {because} has {size}; leave {where} out.')
            changes[field.name] = size
            found.add(field.name)
        elif dataclasses.is_dataclass(value):
            changes[field.name], inner = _fill(value, sizes, where, because, keep)
            found |= inner
    return dataclasses.replace(config, **changes), found
