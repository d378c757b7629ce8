"""Parameters of a model, counted and listed from shapes alone: 175 billion cost no memory here."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import jax
from flax.core import meta

from seqzoo.models.base import ModelConfig
from seqzoo.parallel.storage import true_shape


@dataclass(frozen=True)
class ParameterRow:
    """One array of parameters.

    Attributes:
        path: names from the root, joined by `/`.
        shape: sizes of the dimensions, without padding of the storage.
        axes: names of the dimensions; empty if the parameter carries none.
        dtype: name of the storage type.
        count: number of scalars.
    """

    path: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    dtype: str
    count: int


def abstract_parameters(model_config: ModelConfig) -> Any:
    """The `params` collection as shapes and types, its axis names still on it."""
    module = model_config.build()
    inputs = model_config.example_inputs()
    variables = jax.eval_shape(lambda key: module.init(key, *inputs), jax.random.key(0))
    return variables.get('params', {})


def parameter_table(model_config: ModelConfig) -> list[ParameterRow]:
    """One row for each parameter array, in the order of its path."""

    def is_box(x: Any) -> bool:
        return isinstance(x, meta.AxisMetadata)

    leaves = jax.tree_util.tree_leaves_with_path(abstract_parameters(model_config), is_leaf=is_box)
    rows = []
    for path, leaf in leaves:
        shape = true_shape(leaf)
        rows.append(
            ParameterRow(
                path='/'.join(str(getattr(key, 'key', key)) for key in path),
                shape=shape,
                axes=tuple(getattr(leaf, 'names', ())),
                dtype=str(meta.unbox(leaf).dtype),
                count=math.prod(shape),
            )
        )
    return rows


def count_parameters(model_config: ModelConfig) -> int:
    """Number of trained scalars; a tensor used in several places (tied) counts once, and padding of
    the storage not at all.
    """
    return sum(row.count for row in parameter_table(model_config))


def render_parameter_table(rows: Iterable[ParameterRow]) -> str:
    """The rows as plain text, grouped by the outermost module with its sum, and the total below."""
    rows = list(rows)
    lines = [('parameter', 'shape', 'axes', 'dtype', 'count')]
    for top, group in groupby(rows, key=lambda row: row.path.split('/')[0]):
        members = list(group)
        if len(members) > 1 or '/' in members[0].path:
            lines.append((top, '', '', '', f'{sum(row.count for row in members):,}'))
        for row in members:
            inner = row.path.removeprefix(f'{top}/')
            lines.append(
                (
                    row.path if inner == row.path else f'  {inner}',
                    ' x '.join(map(str, row.shape)) or 'scalar',
                    ' '.join(name or '-' for name in row.axes),
                    row.dtype,
                    f'{row.count:,}',
                )
            )
    lines.append(('total', '', '', '', f'{sum(row.count for row in rows):,}'))

    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def aligned(cells: tuple[str, ...]) -> str:
        *left, right = zip(cells, widths, strict=True)
        return '  '.join([*(f'{cell:<{width}}' for cell, width in left), f'{right[0]:>{right[1]}}'])

    rule = '-' * (sum(widths) + 2 * (len(widths) - 1))
    header, *body, total = map(aligned, lines)
    return '\n'.join([header, rule, *body, rule, total])
